#include "tools/predict.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "jit/base/error.h"

namespace sj {
namespace {

constexpr double kUsPerS = 1e6;

/// One measured step: Qwen3-30B-A3B Q4_K_M shapes on one H200, see Results in README.md.
struct Measured {
  uint32_t depth_tokens;
  double tokens_per_s, bytes, late_bytes;
  uint32_t n_launches;
};
constexpr double kMeasuredReadGbPerS = 4530;
constexpr std::array<Measured, 4> kMeasured = {{{128, 1120.1, 1948.5e6, 1122.1e6, 243},
                                                {512, 1074.0, 1986.3e6, 1159.9e6, 243},
                                                {4096, 926.7, 2338.6e6, 1512.2e6, 243},
                                                {16384, 713.2, 3546.6e6, 2720.2e6, 243}}};

/// Bytes that a launch can't ask for before its predecessors are done.
double late_bytes_of(const LoweredLaunch& launch, uint64_t n_keys) {
  const std::vector<Baked>& baked = launch.spec.baked;
  const bool is_moe_glu = std::any_of(baked.begin(), baked.end(), [](const Baked& b) {
    return b.name == "kIsMoe" && std::holds_alternative<bool>(b.value) && std::get<bool>(b.value);
  });
  const bool is_routed = is_moe_glu || launch.spec.source == "decode_moe_down.cu" || launch.spec.source == "moe_matmul.cu";
  const double bytes = launch.cost(n_keys).bytes;
  return is_routed ? bytes : bytes - launch.cost(0).bytes;   // what grows with the keys is the cache
}

std::string rate_text(double us) { return fmt::format("{:.0f}", kUsPerS / us); }

}  // namespace

CardAssumptions card_assumptions(const DeviceInfo& device) {
  // A stage's latency scales as the published times of dependent kernels do: 1.0-1.3 us on the H200, 0.9-1.2 on the 5090, 1.6-2.0 on GB10.
  if (device.arch() < 100) return {0.944, 0.73, 1, "measured on this card: 4530 of 4800 GB/s, 0.73 us an edge"};
  if (device.is_integrated) return {0.85, 1.2, 1.8 / 1.15, "published: reads reach 85 % of the peak, edges take 1.6 times the H200's"};
  return {0.93, 0.73, 1.05 / 1.15, "published: reads reach 93 % of the peak; edges taken as the H200's, stages 0.91 times as long"};
}

StageLatency measured_stage_latency(uint32_t depth_tokens) {
  const Measured* nearest = &kMeasured.front();
  for (const Measured& measured : kMeasured)
    if (measured.depth_tokens <= depth_tokens) nearest = &measured;
  const double step_us = kUsPerS / nearest->tokens_per_s;
  const auto above = [&](double bytes) { return (step_us - bytes / (kMeasuredReadGbPerS * 1e3)) / nearest->n_launches; };
  return {above(nearest->bytes), above(nearest->late_bytes)};
}

Prediction predict_decode(const Lowered& step, uint32_t depth_tokens, const DeviceInfo& device) {
  if (device.bandwidth_gb_per_s <= 0)
    throw Error(ErrorKind::kUnsupported, fmt::format("{}: no prediction: its memory bandwidth is unknown", device.name));
  const CardAssumptions card = card_assumptions(device);
  const StageLatency latency = measured_stage_latency(depth_tokens);
  const uint64_t n_keys = uint64_t{depth_tokens} + 1;
  Prediction p{.depth_tokens = depth_tokens, .n_launches = static_cast<uint32_t>(step.launches.size())};
  for (const LoweredLaunch& launch : step.launches) {
    p.bytes += launch.cost(n_keys).bytes;
    p.late_bytes += late_bytes_of(launch, n_keys);
  }
  const double bytes_per_us = device.bandwidth_gb_per_s * card.read_share * 1e3;
  p.bytes_us = p.bytes / bytes_per_us;
  p.edges_us = p.bytes_us + p.n_launches * card.edge_us;
  p.slow_us = p.bytes_us + p.n_launches * latency.slow_us * card.stage_scale;
  p.fast_us = std::max(p.bytes_us, p.late_bytes / bytes_per_us + p.n_launches * latency.fast_us * card.stage_scale);
  return p;
}

std::string format_predictions(const DeviceInfo& device, std::span<const Prediction> predictions) {
  const CardAssumptions card = card_assumptions(device);
  std::string text = fmt::format("prediction, not a measurement: {}, {:.0f} GB/s\n\n"
                                 "| depth | MB a token | of them late | launches | tok/s by bytes alone | bytes and bare edges | predicted |\n"
                                 "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
                                 device.name, device.bandwidth_gb_per_s);
  for (const Prediction& p : predictions)
    text += fmt::format("| {} | {:.1f} | {:.1f} | {} | {} | {} | {} .. {} |\n", p.depth_tokens, p.bytes / 1e6, p.late_bytes / 1e6, p.n_launches,
                        rate_text(p.bytes_us), rate_text(p.edges_us), rate_text(std::max(p.slow_us, p.fast_us)),
                        rate_text(std::min(p.slow_us, p.fast_us)));
  const StageLatency at_128 = measured_stage_latency(128);
  return text + fmt::format("\nassumed of the card: {}\n"
                            "assumed of a stage: what the H200 took a launch beyond its bytes with Qwen3-30B-A3B at the same depth ({:.2f} us\n"
                            "at 128 when all bytes add to it, {:.2f} when only late bytes do: experts, keys and values)\n",
                            card.basis, at_128.slow_us, at_128.fast_us);
}

}  // namespace sj
