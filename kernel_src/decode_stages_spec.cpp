#include "kernel_src/decode_stages_spec.h"

#include <algorithm>
#include <bit>
#include <string>

#include <fmt/format.h>

#include "kernel_src/args/decode_gemv.h"
#include "kernel_src/args/router_scores.h"
#include "kernel_src/kv_append_spec.h"
#include "kernel_src/spec_rules.h"
#include "kernel_src/tuned_spec.h"
#include "kernel_src/weight_layout.h"

namespace sj {
namespace {

constexpr uint32_t kFinishRows = 16;                 // rows that a block finishes: one group of activations
constexpr uint32_t kMaxExperts = 512;
constexpr uint32_t kStaticSmemBytes = 44 * 1024;     // of the 48 KB that need no opt-in, for inputs and sums

std::string array_text(const std::vector<uint64_t>& values) {
  std::string text = "{";
  for (uint64_t value : values) text += (text.size() == 1 ? "" : ", ") + std::to_string(value);
  return text + "}";
}
Baked array_baked(const std::string& name, const std::vector<uint64_t>& values) {
  return {name + "[" + std::to_string(values.size()) + "]", array_text(values), "unsigned"};
}

uint64_t decode_row_bytes(const char* family, DType dtype, uint32_t n_cols) {
  require_rule(is_quantised(dtype), "{}: int8 activations go with quantised weights, found {}", family, dtype_name(dtype));
  require_rule(n_cols != 0 && n_cols % 32 == 0, "{}: {} columns are not a positive multiple of 32", family, n_cols);
  return row_record_bytes(dtype, n_cols);
}

/// Of `choices`, those that `holds`.
template <class Holds>
std::vector<int64_t> admissible(std::initializer_list<int64_t> choices, Holds&& holds) {
  std::vector<int64_t> kept;
  for (const int64_t choice : choices)
    if (holds(static_cast<uint32_t>(choice))) kept.push_back(choice);
  return kept;
}

/// Warps of a stage whose columns are split in slices of 256.
uint32_t n_slice_warps(uint32_t n_cols) { return n_cols >= 4096 ? 16 : 8; }

void require_smem(const char* family, uint64_t dynamic_bytes, uint64_t static_bytes, const DeviceInfo& device) {
  require_rule(static_bytes <= kStaticSmemBytes, "{}: input and sums take {} bytes of shared memory, at most {}", family,
               static_bytes, kStaticSmemBytes);
  require_rule(dynamic_bytes + static_bytes + 1024 <= device.smem_per_block_bytes,
               "{}: {} + {} bytes of shared memory don't fit the {} of a block", family, dynamic_bytes, static_bytes,
               device.smem_per_block_bytes);
}

/// What a tile's warps hold: their slices of the input, and their sums.
uint64_t tile_warp_bytes(uint32_t n_cols, uint32_t n_rows, uint32_t n_warps) {
  const uint32_t n_slices = ceil_div(n_cols, 256), n_owners = std::min(n_slices, n_warps);
  return quant_vec_bytes(256) * n_warps * ceil_div(n_slices, n_owners) + uint64_t{4} * n_owners * n_rows;
}

}  // namespace

uint64_t quant_vec_bytes(uint32_t dim) { return uint64_t{48} * (dim / 32); }
uint64_t normed_vec_bytes(uint32_t dim) { return (quant_vec_bytes(dim) + uint64_t{4} * (dim / 16) + 15) / 16 * 16; }

uint64_t router_score_bytes(uint32_t n_experts) { return sizeof(int64_t) * n_score_slots(n_experts); }

namespace {

std::string gemv_key(const DecodeGemvParams& p) {
  std::string matrices;
  for (const DecodeMatrix& m : p.matrices)
    matrices += fmt::format("{}{} {}x{}", matrices.empty() ? "" : " + ", dtype_name(m.dtype), m.n_rows, p.n_cols);
  return fmt::format("decode_gemv: {}{}{}{}{}", matrices, p.is_normed ? ", normed" : "", p.finishes_rows ? ", finishing" : "",
                     p.has_bias ? ", biased" : "", p.n_experts == 0 ? "" : fmt::format(", scores of {} experts", p.n_experts));
}

KernelSpec build_gemv(const DecodeGemvParams& p, const DeviceInfo& device, TunePick& pick) {
  constexpr const char* kFamily = "decode_gemv";
  std::vector<uint64_t> types, row_bytes, rows, first_block, first_out;
  uint64_t n_rows = 0, n_weight_bytes = 0;
  for (const DecodeMatrix& m : p.matrices) {
    require_rule(m.n_rows != 0, "{}: a matrix without rows", kFamily);
    types.push_back(static_cast<uint64_t>(m.dtype));
    row_bytes.push_back(decode_row_bytes(kFamily, m.dtype, p.n_cols));
    rows.push_back(m.n_rows), first_out.push_back(n_rows);
    n_rows += m.n_rows;
    n_weight_bytes += m.n_rows * row_bytes.back();
  }
  require_rule(!p.finishes_rows || n_rows % 32 == 0, "{}: {} rows are not a multiple of 32", kFamily, n_rows);
  const uint64_t max_row_bytes = *std::max_element(row_bytes.begin(), row_bytes.end());
  const uint64_t x_bytes = p.is_normed ? normed_vec_bytes(p.n_cols) : quant_vec_bytes(p.n_cols);
  const uint32_t n_warps = pick("kWarps", {4, 8, 16}, p.finishes_rows ? n_slice_warps(p.n_cols) : 8);
  const auto fits = [&](uint32_t n) {
    return n * max_row_bytes + tile_warp_bytes(p.n_cols, n, n_warps) + 1024 <= device.smem_per_block_bytes;
  };
  uint32_t tile_rows = kFinishRows;
  if (!p.finishes_rows) {
    // Two blocks an SM, as long as the rows last; smaller tiles where those don't fit a block's shared memory.
    uint32_t by_default = std::clamp(round_up(ceil_div(n_rows, 2 * device.n_sms), 4), 8u, 32u);
    while (by_default > 8 && !fits(by_default)) by_default -= 4;
    tile_rows = pick("kTileRows", admissible({4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64}, fits), by_default);
  }
  uint32_t n_blocks = 0;
  for (uint64_t n : rows) first_block.push_back(n_blocks), n_blocks += ceil_div(n, tile_rows);
  const uint64_t tile_bytes = tile_rows * max_row_bytes;
  require_smem(kFamily, tile_bytes, tile_warp_bytes(p.n_cols, tile_rows, n_warps), device);
  // Unpacking before the input is known takes 12 registers a chunk. Blocks of the stage behind have to find room beside this one's.
  const uint32_t n_slices = ceil_div(p.n_cols, 256), n_owners = std::min(n_slices, n_warps);
  const uint32_t n_chunks = ceil_div(n_slices, n_owners) * ceil_div(tile_rows, 4 * (n_warps / n_owners));
  const uint32_t early_chunks = pick("kEarlyChunks", admissible({0, 1, 2, 3, 4, 5}, [&](uint32_t n) { return n <= n_chunks && (n != 0 || n_chunks > 1); }),
                                     n_chunks > 5 ? 0 : p.finishes_rows ? n_chunks : std::min(3u, n_chunks));
  return {.source = "decode_gemv.cu", .entry = "sj_decode_gemv",
          .baked = {{"kCols", p.n_cols}, {"kMatrices", static_cast<int64_t>(types.size())}, array_baked("kMatrixTypes", types),
                    array_baked("kMatrixRowBytes", row_bytes), array_baked("kMatrixRows", rows),
                    array_baked("kMatrixFirstBlock", first_block), array_baked("kMatrixFirstOut", first_out),
                    {"kIsNormed", p.is_normed}, {"kFinishesRows", p.finishes_rows}, {"kHasBias", p.has_bias},
                    {"kRowsOut", p.finishes_rows ? static_cast<int64_t>(n_rows) : 32}, {"kExperts", p.n_experts}, {"kEps", p.eps}, {"kWarps", n_warps}, {"kTileRows", tile_rows},
                    {"kEarlyChunks", early_chunks}},
          .launch = {.grid = {n_blocks}, .block = {32 * n_warps}, .dynamic_smem_bytes = static_cast<uint32_t>(tile_bytes)},
          .cost = {.bytes = static_cast<double>(n_weight_bytes) + static_cast<double>(x_bytes) + 4.0 * n_rows * (p.finishes_rows ? 3 : 1) +
                            (p.finishes_rows ? 4.0 * p.n_experts * (n_rows + 2.0) : 8.0 * p.n_experts),
                   .flops = 2.0 * n_rows * (p.n_cols + (p.finishes_rows ? p.n_experts : 0))}};
}

}  // namespace

KernelSpec decode_gemv_spec(const DecodeGemvParams& p, const DeviceInfo& device, const Tuning& tuning) {
  constexpr const char* kFamily = "decode_gemv";
  require_rule(!p.matrices.empty() && p.matrices.size() <= kMaxDecodeMatrices, "{}: expected 1 to {} matrices, found {}", kFamily,
               kMaxDecodeMatrices, p.matrices.size());
  require_rule(!p.finishes_rows || p.matrices.size() == 1, "{}: one matrix finishes rows, not {}", kFamily, p.matrices.size());
  require_rule(p.n_experts <= kMaxExperts, "{}: expected up to {} experts, found {}", kFamily, kMaxExperts, p.n_experts);
  return tuned_spec(tuning, gemv_key(p), [&](TunePick& pick) { return build_gemv(p, device, pick); });
}

namespace {

KernelSpec build_glu(const DecodeGluParams& p, const DeviceInfo& device, TunePick& pick) {
  constexpr const char* kFamily = "decode_glu";
  const uint64_t row_bytes = decode_row_bytes(kFamily, p.dtype, p.n_cols);
  const bool is_moe = p.n_experts != 0;
  require_rule(p.n_ff != 0 && p.n_ff % 32 == 0, "{}: {} hidden values are not a positive multiple of 32", kFamily, p.n_ff);
  require_rule(p.n_experts <= kMaxExperts, "{}: expected up to {} experts, found {}", kFamily, kMaxExperts, p.n_experts);
  require_rule(p.n_used >= 1 && p.n_used <= 32 && (is_moe ? p.n_used <= p.n_experts : p.n_used == 1), "{}: {} experts a token", kFamily, p.n_used);
  const uint32_t n_warps = pick("kWarps", {4, 8, 16}, 8);
  const uint32_t h_rows = pick("kHRows", admissible({16, 32, 48, 64}, [&](uint32_t n) {
    return p.n_ff % n == 0 && 2 * n * row_bytes + tile_warp_bytes(p.n_cols, 2 * n, n_warps) + 1024 <=
                                  device.smem_per_block_bytes;
  }), 16);
  const uint32_t arrival_rows = pick("kArrivalRows", admissible({4, 8, 16, 32}, [&](uint32_t n) {
    return h_rows % n == 0 && 2 * h_rows / n <= 32;
  }), 16);
  const uint64_t tile_bytes = 2 * h_rows * row_bytes;
  require_smem(kFamily, tile_bytes, tile_warp_bytes(p.n_cols, 2 * h_rows, n_warps), device);
  const double n_rows = 2.0 * p.n_used * p.n_ff;
  return {.source = "decode_glu.cu", .entry = "sj_decode_glu",
          .baked = {{"kCols", p.n_cols}, {"kFf", p.n_ff}, {"kType", static_cast<uint32_t>(p.dtype)},
                    {"kRowBytes", static_cast<int64_t>(row_bytes)}, {"kIsMoe", is_moe}, {"kExperts", is_moe ? p.n_experts : 128},
                    {"kUsed", p.n_used}, {"kActivation", p.is_gelu ? 1 : 0}, {"kEps", p.eps}, {"kWarps", n_warps}, {"kHRows", h_rows},
                    {"kArrivalRows", arrival_rows}},
          .launch = {.grid = {p.n_used * p.n_ff / h_rows}, .block = {32 * n_warps}, .dynamic_smem_bytes = static_cast<uint32_t>(tile_bytes)},
          .cost = {.bytes = n_rows * row_bytes + normed_vec_bytes(p.n_cols) + quant_vec_bytes(p.n_used * p.n_ff),
                   .flops = 2.0 * n_rows * p.n_cols}};
}

}  // namespace

KernelSpec decode_glu_spec(const DecodeGluParams& p, const DeviceInfo& device, const Tuning& tuning) {
  const std::string experts = p.n_experts == 0 ? "" : fmt::format(", {} of {} experts", p.n_used, p.n_experts);
  return tuned_spec(tuning, fmt::format("decode_glu: {} 2x{}x{}{}", dtype_name(p.dtype), p.n_ff, p.n_cols, experts),
                    [&](TunePick& pick) { return build_glu(p, device, pick); });
}

namespace {

KernelSpec build_moe_down(const DecodeMoeDownParams& p, const DeviceInfo& device, TunePick& pick) {
  constexpr const char* kFamily = "decode_moe_down";
  const uint64_t row_bytes = decode_row_bytes(kFamily, p.dtype, p.n_ff);
  require_rule(p.n_experts >= p.n_used && p.n_experts <= kMaxExperts, "{}: expected {} to {} experts, found {}", kFamily, p.n_used, kMaxExperts,
               p.n_experts);
  require_rule(p.n_used == 2 || p.n_used == 4 || p.n_used == 8, "{}: expected 2, 4 or 8 experts a token, found {}", kFamily, p.n_used);
  require_rule(p.n_rows != 0 && p.n_rows % 32 == 0, "{}: {} rows are not a positive multiple of 32", kFamily, p.n_rows);
  const uint64_t tile_bytes = p.n_used * kFinishRows * row_bytes;
  const auto static_bytes = [&](uint32_t n) { return quant_vec_bytes(256) * n * ceil_div(p.n_ff, 256) + 4 * kFinishRows * p.n_used; };
  const uint32_t n_warps = pick("kWarps", admissible({4, 8, 16, 32}, [&](uint32_t n) {
    return n % p.n_used == 0 && 4 % (n / p.n_used) == 0 &&   // an expert's 16 rows are shared by 1, 2 or 4 warps
           (n == 8 || tile_bytes + static_bytes(n) + 1024 <= device.smem_per_block_bytes);
  }), 8);
  require_smem(kFamily, tile_bytes, static_bytes(n_warps), device);
  return {.source = "decode_moe_down.cu", .entry = "sj_decode_moe_down",
          .baked = {{"kRows", p.n_rows}, {"kFf", p.n_ff}, {"kType", static_cast<uint32_t>(p.dtype)},
                    {"kRowBytes", static_cast<int64_t>(row_bytes)}, {"kExperts", p.n_experts}, {"kUsed", p.n_used}, {"kEps", p.eps}, {"kWarps", n_warps}},
          .launch = {.grid = {p.n_rows / kFinishRows}, .block = {32 * n_warps}, .dynamic_smem_bytes = static_cast<uint32_t>(tile_bytes)},
          .cost = {.bytes = static_cast<double>(p.n_used) * p.n_rows * row_bytes + quant_vec_bytes(p.n_used * p.n_ff) + 12.0 * p.n_rows,
                   .flops = 2.0 * p.n_used * p.n_rows * p.n_ff}};
}

}  // namespace

KernelSpec decode_moe_down_spec(const DecodeMoeDownParams& p, const DeviceInfo& device, const Tuning& tuning) {
  return tuned_spec(tuning, fmt::format("decode_moe_down: {} {}x{}, {} of {} experts", dtype_name(p.dtype), p.n_rows, p.n_ff, p.n_used,
                                        p.n_experts),
                    [&](TunePick& pick) { return build_moe_down(p, device, pick); });
}

KernelSpec decode_router_spec(const DecodeRouterParams& p, const Tuning& tuning) {
  constexpr const char* kFamily = "decode_router";
  require_quads(kFamily, "columns", p.n_cols);
  require_rule(p.n_cols <= 8192, "{}: {} columns are more than 8192", kFamily, p.n_cols);
  require_rule(p.n_experts != 0 && p.n_experts <= kMaxExperts, "{}: expected 1 to {} experts, found {}", kFamily, kMaxExperts, p.n_experts);
  return tuned_spec(tuning, fmt::format("decode_router: {}x{}", p.n_experts, p.n_cols), [&](TunePick& pick) -> KernelSpec {
    const uint32_t n_warps = pick("kWarps", {4, 8, 16}, 8);
    const uint32_t block_rows = pick("kBlockRows", admissible({1, 2, 4}, [&](uint32_t n) { return p.n_experts % n == 0; }),
                                     p.n_experts % 2 == 0 && p.n_experts >= 256 ? 2 : 1);
    return {.source = "decode_router.cu", .entry = "sj_decode_router",
            .baked = {{"kCols", p.n_cols}, {"kExperts", p.n_experts}, {"kBlockRows", block_rows}, {"kWarps", n_warps}},
            .launch = {.grid = {p.n_experts / block_rows}, .block = {32 * n_warps}},
            .cost = {.bytes = 4.0 * p.n_experts * (p.n_cols + 2) + 8.0 * p.n_cols, .flops = 2.0 * p.n_experts * p.n_cols}};
  });
}

KernelSpec decode_input_spec(const DecodeInputParams& p) {
  require_rule(p.n_rows != 0 && p.n_rows % 32 == 0, "decode_input: {} rows are not a positive multiple of 32", p.n_rows);
  return {.source = "decode_input.cu", .entry = "sj_decode_input", .baked = {{"kRows", p.n_rows}},
          .launch = {.grid = {p.n_rows / kFinishRows}, .block = {32}},
          .cost = {.bytes = 12.0 * p.n_rows + normed_vec_bytes(p.n_rows), .flops = 4.0 * p.n_rows}};
}

namespace {

KernelSpec build_head(const DecodeHeadParams& p, const DeviceInfo& device, TunePick& pick) {
  constexpr const char* kFamily = "decode_head";
  const uint64_t row_bytes = decode_row_bytes(kFamily, p.dtype, p.n_cols);
  require_rule(p.n_rows != 0, "{}: no rows", kFamily);
  require_rule((p.n_ring_slots & (p.n_ring_slots - 1)) == 0, "{}: {} ring slots are not a power of two", kFamily, p.n_ring_slots);
  require_rule(normed_vec_bytes(p.n_cols) <= kStaticSmemBytes, "{}: the input takes {} bytes of shared memory, at most {}", kFamily,
               normed_vec_bytes(p.n_cols), kStaticSmemBytes);
  // Three blocks an SM, all there at once: when one has read its rows and meets the others, the SM's memory stays busy.
  // Rows in flight: two slots a warp, as many rows a slot as fit.
  const uint64_t fixed_bytes = normed_vec_bytes(p.n_cols) + 2048, room = device.smem_per_block_bytes - fixed_bytes;
  const uint32_t n_blocks_per_sm = pick("kBlocksPerSm", {1, 2, 3, 4, 6, 8}, 3);
  const uint64_t share = std::min<uint64_t>(device.smem_per_block_bytes, device.smem_per_sm_bytes / n_blocks_per_sm - 1024);
  const uint64_t budget = std::max<uint64_t>(share, fixed_bytes) - fixed_bytes;
  const uint32_t n_warps = pick("kWarps", {4, 8, 16}, 4);
  uint32_t slot_rows = 4;
  while (slot_rows > 1 && 2 * n_warps * slot_rows * row_bytes > budget) slot_rows /= 2;
  slot_rows = pick("kSlotRows", admissible({1, 2, 4, 8}, [&](uint32_t n) { return n_warps * n * row_bytes <= room; }), slot_rows);
  const auto slots_fit = [&](uint32_t n) { return n_warps * slot_rows * n * row_bytes <= room; };
  const uint32_t n_slots = pick("kSlots", admissible({1, 2, 3, 4, 6, 8}, slots_fit), slots_fit(2) ? 2 : 1);
  require_rule(slots_fit(n_slots), "{}: rows of {} bytes don't fit the {} bytes of shared memory of a block", kFamily, row_bytes,
               device.smem_per_block_bytes);
  const uint32_t warp_rows = std::max(round_up(ceil_div(p.n_rows, n_blocks_per_sm * device.n_sms * n_warps), slot_rows), slot_rows);
  return {.source = "decode_head.cu", .entry = "sj_decode_head",
          .baked = {{"kRows", p.n_rows}, {"kCols", p.n_cols}, {"kType", static_cast<uint32_t>(p.dtype)},
                    {"kRowBytes", static_cast<int64_t>(row_bytes)}, {"kHasBias", p.has_bias}, {"kEps", p.eps},
                    {"kSamples", p.n_ring_slots != 0}, {"kRingSlots", std::max(p.n_ring_slots, 1u)}, {"kWarps", n_warps}, {"kWarpRows", warp_rows}, {"kBlocksPerSm", n_blocks_per_sm}, {"kSlotRows", slot_rows}, {"kSlots", n_slots}},
          .launch = {.grid = {ceil_div(p.n_rows, n_warps * warp_rows)}, .block = {32 * n_warps},
                     .dynamic_smem_bytes = static_cast<uint32_t>(n_warps * n_slots * slot_rows * row_bytes)},
          .cost = {.bytes = static_cast<double>(p.n_rows) * (row_bytes + 4.0) + normed_vec_bytes(p.n_cols),
                   .flops = 2.0 * p.n_rows * p.n_cols}};
}

}  // namespace

KernelSpec decode_head_spec(const DecodeHeadParams& p, const DeviceInfo& device, const Tuning& tuning) {
  return tuned_spec(tuning, fmt::format("decode_head: {} {}x{}{}", dtype_name(p.dtype), p.n_rows, p.n_cols, p.has_bias ? ", biased" : ""),
                    [&](TunePick& pick) { return build_head(p, device, pick); });
}

namespace {

constexpr uint32_t kSlotBytes = 96 * 1024;   // of a block; more leaves no room for the blocks of the stages around

constexpr uint32_t kHiddenBytes = 4 << 20;   // of keys and values, asked for before q is

/// How the slices of 16 tokens are shared out.
struct AttentionSplit {
  uint32_t n_warps, n_slots, cluster, n_groups;
};

struct AttentionShape {
  uint32_t n_slices, head_dim, slot_bytes, dim_parts, head_groups;
  bool is_q8;
};

// Splits meet in clusters through shared memory. Clusters are known to work on 9.0; where they are not, through memory,
// which costs more than a second slice for each warp.
uint32_t max_cluster(const DeviceInfo& device) { return device.compute_major == 9 ? 4 : 1; }

/// Shared memory that is left for slots, beside q, shares, a q8_0 cache's new token and barriers.
uint32_t attention_room(const AttentionShape& shape, const DeviceInfo& device) {
  const uint32_t dim_bytes = 32 + (max_cluster(device) > 1 ? 32 : 0) + (shape.is_q8 ? 8 : 0);
  return device.smem_per_block_bytes - (dim_bytes * shape.head_dim + 3 * 1024);
}

AttentionSplit default_split(const AttentionShape& shape, const DeviceInfo& device) {
  const auto& [n_slices, head_dim, slot_bytes, dim_parts, head_groups, is_q8] = shape;
  // A warp a query head at least, so that they are prepared at once; more than 12 warps leave no room for the blocks of the
  // stages around.
  constexpr uint32_t kMinWarps = 8, kMaxWarps = 12;
  // 256 dims of o are 128 registers of a thread: 12 warps would have 168 for everything.
  const uint32_t n_warps_held = head_dim / dim_parts > 128 ? 8 : kMaxWarps, n_bytes = std::min(kSlotBytes, attention_room(shape, device));
  uint32_t max_warps = std::min(n_bytes / slot_bytes, n_warps_held) / dim_parts * dim_parts;
  require_rule(max_warps != 0, "decode_attention: {} slices of {} bytes don't fit a block's shared memory", dim_parts, slot_bytes);
  // As long as one block has a warp for each slice, there is nothing to join.
  if (n_slices * dim_parts <= max_warps) return {std::max(std::min(kMinWarps, max_warps), n_slices * dim_parts), 1, 1, 1};
  const uint32_t cluster = std::min(max_cluster(device), std::bit_ceil(ceil_div(n_slices, 4)));
  if (n_slices * dim_parts <= 2 * max_warps * cluster)
    return {std::min(std::max(kMinWarps, ceil_div(n_slices, cluster) * dim_parts), max_warps), 1, cluster, 1};
  // Two small slots a warp keep more bytes on their way than one.
  if (const uint32_t n_warps = n_bytes / (2 * slot_bytes) / dim_parts * dim_parts; is_q8 && n_warps >= kMinWarps)
    max_warps = std::min(max_warps, n_warps);
  // Three blocks for four SMs read as fast as more of them, and there is less to join.
  const uint32_t max_groups = std::max(1u, 3 * device.n_sms / (4 * cluster * head_groups));
  return {max_warps, n_bytes / (max_warps * slot_bytes), cluster,
          std::min(ceil_div(n_slices * dim_parts, cluster * max_warps), max_groups)};
}

AttentionSplit pick_split(const AttentionShape& shape, const DeviceInfo& device, TunePick& pick) {
  const AttentionSplit by_default = default_split(shape, device);
  AttentionSplit split = by_default;
  const uint32_t room = attention_room(shape, device), n_parts = shape.n_slices * shape.dim_parts;
  split.cluster = pick("kCluster", admissible({1, 2, 4}, [&](uint32_t n) { return n <= max_cluster(device); }), by_default.cluster);
  split.n_warps = pick("kWarps", admissible({4, 8, 12, 16}, [&](uint32_t n) {
    return n % shape.dim_parts == 0 && n * shape.slot_bytes <= room && (n <= 8 || shape.head_dim / shape.dim_parts <= 128);
  }), by_default.n_warps);
  split.n_groups = pick("kGroups", admissible({1, 2, 3, 4, 6, 8, 12, 16, 24, 32}, [&](uint32_t n) {
    return n <= ceil_div(n_parts, split.cluster * split.n_warps);
  }), by_default.n_groups);
  const bool is_default = split.cluster == by_default.cluster && split.n_warps == by_default.n_warps && split.n_groups == by_default.n_groups;
  if (!is_default)
    split.n_slots = n_parts <= 2 * split.n_warps * split.cluster * split.n_groups
                        ? 1 : std::max(1u, std::min(kSlotBytes, room) / (split.n_warps * shape.slot_bytes));
  return split;
}

KernelSpec build_attention(const DecodeAttentionParams& p, const DeviceInfo& device, TunePick& pick) {
  constexpr const char* kFamily = "decode_attention";
  constexpr uint32_t kSliceTokens = 16;
  require_rule(p.n_head_kv != 0 && p.n_head % p.n_head_kv == 0, "{}: {} heads are not a multiple of {} KV heads", kFamily, p.n_head,
               p.n_head_kv);
  require_rule(p.head_dim == 64 || p.head_dim == 96 || p.head_dim == 128 || p.head_dim == 256 || p.head_dim == 512,
               "{}: head dim {} is not 64, 96, 128, 256 or 512", kFamily, p.head_dim);
  require_rule(p.n_rot % 2 == 0 && p.n_rot <= p.head_dim, "{}: {} rotated dims of {}", kFamily, p.n_rot, p.head_dim);
  require_rule(p.kv_type != KvType::kF32, "{}: a float32 KV cache", kFamily);
  require_rule(p.max_tokens != 0, "{}: no tokens", kFamily);
  const uint32_t per_kv = p.n_head / p.n_head_kv, head_groups = p.n_head_kv * ceil_div(per_kv, 8);
  require_rule(per_kv <= 8 || per_kv % 8 == 0, "{}: {} heads a KV head are neither up to 8 nor a multiple of 8", kFamily, per_kv);
  uint32_t n_slices = ceil_div(p.max_tokens, kSliceTokens);
  if (p.window_tokens != 0) n_slices = std::min(n_slices, ceil_div(p.window_tokens, kSliceTokens) + 1);
  const uint32_t dim_parts = p.head_dim > 256 ? p.head_dim / 128 : 1;   // more dims of o than a warp's registers hold
  const uint32_t part_dims = p.head_dim / dim_parts;
  const bool is_q8 = p.kv_type == KvType::kQ8_0;
  // A slice of k and of the part of v. With q8_0 all of v's scales; the warp's part of o takes more room for small heads.
  const uint32_t slot_bytes = is_q8 ? std::max(kSliceTokens * (p.head_dim + part_dims) + 2 * p.head_dim, 32 * (part_dims + 8))
                                    : 2 * kSliceTokens * (p.head_dim + part_dims);
  const AttentionSplit split = pick_split({n_slices, p.head_dim, slot_bytes, dim_parts, head_groups, is_q8}, device, pick);
  // What is on its way when q is asked for delays it; a microsecond's worth of it is hidden.
  const uint64_t n_blocks = uint64_t{split.cluster} * split.n_groups * head_groups;
  const uint64_t first_bytes = std::min(n_blocks * split.n_warps * split.n_slots, uint64_t{n_slices} * head_groups) * slot_bytes;
  const uint32_t early_warps = first_bytes > kHiddenBytes ? split.n_warps / 3 : split.n_warps;
  return {.source = "decode_attention.cu", .entry = "sj_decode_attention",
          .baked = {{"kHeads", p.n_head}, {"kHeadsKv", p.n_head_kv}, {"kHeadDim", p.head_dim}, {"kRot", p.n_rot},
                    {"kIsInterleaved", p.is_interleaved}, {"kHasQkNorm", p.has_qk_norm}, {"kEps", p.eps}, {"kScale", p.scale},
                    {"kMagnitude", p.magnitude}, {"kWindowTokens", p.window_tokens}, {"kPageTokens", kKvPageTokens},
                    {"kIsKvQ8", is_q8}, {"kWarps", split.n_warps}, {"kSlots", split.n_slots}, {"kDimParts", dim_parts}, {"kCluster", split.cluster},
                    {"kGroups", split.n_groups}, {"kEarlyWarps", early_warps}},
          .launch = {.grid = {split.cluster * split.n_groups, head_groups}, .block = {32 * split.n_warps},
                     .dynamic_smem_bytes = split.n_warps * split.n_slots * slot_bytes},
          .cost = {.bytes = 4.0 * (p.n_head + 2.0 * p.n_head_kv) * p.head_dim + quant_vec_bytes(p.n_head * p.head_dim), .flops = 0}};
}

}  // namespace

KernelSpec decode_attention_spec(const DecodeAttentionParams& p, const DeviceInfo& device, const Tuning& tuning) {
  const std::string window = p.window_tokens == 0 ? "" : fmt::format(", window {}", p.window_tokens);
  return tuned_spec(tuning, fmt::format("decode_attention: {} of {} heads of {}, up to {} tokens{}{}", p.n_head_kv, p.n_head, p.head_dim,
                                        p.max_tokens, window, p.kv_type == KvType::kQ8_0 ? ", q8_0" : ""),
                    [&](TunePick& pick) { return build_attention(p, device, pick); });
}

namespace {
uint64_t baked_value(const KernelSpec& spec, std::string_view name) {
  for (const Baked& b : spec.baked)
    if (b.name == name) return static_cast<uint64_t>(std::get<int64_t>(b.value));
  return 0;
}
}  // namespace

uint64_t decode_attention_partial_bytes(const KernelSpec& spec) {
  const uint64_t n_groups = baked_value(spec, "kGroups");
  return n_groups == 1 ? 16 : spec.launch.grid.y * n_groups * 8 * (baked_value(spec, "kHeadDim") + 4) * 4;
}
uint64_t decode_attention_counter_bytes(const KernelSpec& spec) { return 4 * spec.launch.grid.y * 8; }

}  // namespace sj
