// Random blocks of every weight type. A block is random bytes; then its scale fields are set so that the values have zero
// mean and the wanted standard deviation: the spread of the quants of each type is a constant that stands beside it.
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "models/dequant.h"
#include "models/synth.h"

namespace sj {
namespace {

using Byte = uint8_t;

/// SplitMix64: one multiplication chain a number, any seed is good.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  void fill(Byte* to, size_t n) {
    for (; n >= 8; to += 8, n -= 8) {
      const uint64_t word = next();
      std::memcpy(to, &word, 8);
    }
    const uint64_t word = next();
    std::memcpy(to, &word, n);
  }
  /// Uniform in [-1, 1).
  float symmetric() { return static_cast<float>(static_cast<int64_t>(next()) >> 40) * 0x1p-23f; }
  /// Uniform in [0.75, 1.25), root mean square 1.0104.
  float about_one() { return 1.0f + 0.25f * symmetric(); }
  float sign() { return static_cast<int64_t>(next()) < 0 ? -1.0f : 1.0f; }

 private:
  uint64_t state_;
};

void put_half(Byte* to, float value) {
  const uint16_t bits = float_to_half(value);
  std::memcpy(to, &bits, 2);
}

/// Q4_K, Q5_K: eight random 6-bit scales of 32..63 with mins equal to them, so that dmin = d * (mean quant) centres each
/// chunk. Their root mean square is 48.4.
void put_scales_k(Random& random, Byte* s) {
  std::array<unsigned, 8> scale;
  const uint64_t bits = random.next();
  for (int j = 0; j < 8; ++j) scale[j] = 32 + (bits >> (8 * j) & 31);
  for (int j = 0; j < 4; ++j) {
    s[j] = s[j + 4] = static_cast<Byte>(scale[j] | (scale[j + 4] >> 4) << 6);
    s[j + 8] = static_cast<Byte>((scale[j + 4] & 15) * 0x11);
  }
}

/// UE4M3 code whose halved value is nearest to `wanted`, from 1 to 0x7E.
Byte ue4m3_code(float wanted) {
  const float value = 2 * wanted;
  if (value < 0x1p-6f) return static_cast<Byte>(std::max(1.0f, std::min(8.0f, std::round(value * 0x1p9f))));
  const int exponent = std::min(8, std::ilogb(value));
  const int mantissa = static_cast<int>(std::round((std::ldexp(value, -exponent) - 1) * 8));
  return static_cast<Byte>(std::min(0x7E, (exponent + 7) * 8 + mantissa));
}

/// Root mean squares of uniformly random quants about their centre.
constexpr float kRms4 = 4.610f, kRms5 = 9.233f;                        // 0..15 about 7.5, 0..31 about 15.5
constexpr float kRms4Signed = 4.637f, kRms5Signed = 9.247f;            // -8..7, -16..15 about 0
constexpr float kRms8Signed = 73.90f, kRms6Signed = 18.48f, kRms3Signed = 2.345f, kRms2 = 1.118f;
constexpr float kRmsIq4 = 68.5f, kRmsE2m1 = 5.852f, kRmsScale6 = 48.4f;
constexpr float kRmsScale2K = 11.73f;                                  // 8..15

/// Sets the scale fields of the random block `b`. The random sign of a scale removes the bias of quants such as -8..7.
void scale_block(DType dtype, float sigma, Random& random, Byte* b) {
  const float size = sigma * random.about_one();
  switch (dtype) {
    case DType::kQ4_0: return put_half(b, random.sign() * size / kRms4Signed);
    case DType::kQ5_0: return put_half(b, random.sign() * size / kRms5Signed);
    case DType::kQ8_0: return put_half(b, random.sign() * size / kRms8Signed);
    case DType::kIQ4_NL: return put_half(b, random.sign() * size / kRmsIq4);
    case DType::kQ4_1: put_half(b, size / kRms4); return put_half(b + 2, -7.5f * size / kRms4);
    case DType::kQ5_1: put_half(b, size / kRms5); return put_half(b + 2, -15.5f * size / kRms5);
    case DType::kQ4_K:
      put_scales_k(random, b + 4);
      put_half(b, size / (kRms4 * kRmsScale6));
      return put_half(b + 2, 7.5f * size / (kRms4 * kRmsScale6));
    case DType::kQ5_K:
      put_scales_k(random, b + 4);
      put_half(b, size / (kRms5 * kRmsScale6));
      return put_half(b + 2, 15.5f * size / (kRms5 * kRmsScale6));
    case DType::kQ2_K:
      for (int j = 0; j < 16; ++j) b[j] = static_cast<Byte>((8 | (b[j] & 7)) * 0x11);   // min = scale
      put_half(b + 80, size / (kRms2 * kRmsScale2K));
      return put_half(b + 82, 1.5f * size / (kRms2 * kRmsScale2K));
    case DType::kQ3_K: return put_half(b + 108, size / (kRms3Signed * kRms6Signed));    // the scales are random, -32..31
    case DType::kQ6_K: return put_half(b + 208, size / (kRms6Signed * kRms8Signed));    // the scales are random, -128..127
    case DType::kIQ4_XS: return put_half(b, size / (kRmsIq4 * kRms6Signed));
    case DType::kMXFP4: b[0] = static_cast<Byte>(std::max(1.0f, 128 + std::round(std::log2(size / kRmsE2m1)))); return;
    case DType::kNVFP4:
      for (int j = 0; j < 4; ++j) b[j] = ue4m3_code(sigma * random.about_one() / kRmsE2m1);
      return;
    default: throw Error(ErrorKind::kInternal, fmt::format("synthesise: {} has no blocks", dtype_name(dtype)));
  }
}

void fill_row(const TensorInfo& tensor, float centre, float sigma, Random& random, Byte* out) {
  const uint64_t n = tensor.row_elems();
  const float reach = sigma * 1.7320508f;   // a uniform distribution over [-reach, reach) has this standard deviation
  const auto value = [&] { return centre + reach * random.symmetric(); };
  switch (tensor.dtype) {
    case DType::kF32:
      for (uint64_t i = 0; i < n; ++i) {
        const float v = value();
        std::memcpy(out + 4 * i, &v, 4);
      }
      return;
    case DType::kF16:
      for (uint64_t i = 0; i < n; ++i) put_half(out + 2 * i, value());
      return;
    case DType::kBF16:
      for (uint64_t i = 0; i < n; ++i) {
        const uint16_t bits = float_to_bf16(value());
        std::memcpy(out + 2 * i, &bits, 2);
      }
      return;
    default: break;
  }
  const DTypeInfo& info = dtype_info(tensor.dtype);
  random.fill(out, n / info.block_elems * info.block_bytes);
  for (uint64_t i = 0; i < n / info.block_elems; ++i) scale_block(tensor.dtype, sigma, random, out + i * info.block_bytes);
}

/// Mean and standard deviation of a tensor's values.
struct Spread { float centre = 0, sigma = 0; };

/// A matrix of standard deviation 1/sqrt(row) keeps the size of what it is multiplied with. Four roles get more, so that the
/// model's decisions look like a trained one's. With all at 1, attention would average over its whole context, tokens would hardly
/// differ, and the next token would be anything.
/// - logits of standard deviation 4: an entropy of about 4 nats (ln 151936 - 4 * 4 / 2), not 11. A tied head is the embedding;
/// - attention scores of standard deviation 2: a few percent of the keys matter. Where q and k are normed, their norms decide;
/// - router logits of standard deviation 2: some experts are clearly preferred.
Spread spread_of(const TensorInfo& tensor) {
  const std::string_view name = tensor.name;
  const auto is = [&](std::string_view role) { return name.find(role) != std::string_view::npos; };
  constexpr float kRoot2 = 1.41421356f;
  if (name.ends_with(".bias")) return {0, 0.02f};
  if (is("attn_q_norm") || is("attn_k_norm")) return {kRoot2, 0.05f * kRoot2};
  if (is("norm")) return {1, 0.05f};
  float gain = 1;
  if (name == "output.weight" || name == "token_embd.weight") gain = 4;
  if (is(".attn_q.") || is(".attn_k.")) gain = kRoot2;
  if (is("ffn_gate_inp")) gain = 2;
  return {0, gain / std::sqrt(static_cast<float>(tensor.row_elems()))};
}

uint64_t hash_of_name(std::string_view name) {   // FNV-1a: the same on every machine
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : name) hash = (hash ^ static_cast<Byte>(c)) * 0x100000001B3u;
  return hash;
}

}  // namespace

void synthesise_tensor(const TensorInfo& tensor, uint64_t seed, uint64_t first_row, std::span<std::byte> out) {
  const DTypeInfo& info = dtype_info(tensor.dtype);
  const uint64_t row_bytes = tensor.row_elems() / info.block_elems * info.block_bytes;
  const uint64_t n_rows = out.size() / row_bytes;
  if (out.size() % row_bytes != 0 || first_row > tensor.n_rows() || n_rows > tensor.n_rows() - first_row)
    throw Error(ErrorKind::kInternal, fmt::format("synthesise {}: {} bytes from row {} are no rows of {} bytes below {}", tensor.name, out.size(), first_row,
                                                  row_bytes, tensor.n_rows()));
  const Spread spread = spread_of(tensor);
  const uint64_t base = seed * 0x9E3779B97F4A7C15u ^ hash_of_name(tensor.name);
  for (uint64_t i = 0; i < n_rows; ++i) {
    Random mixer(base + (first_row + i) * 0xD1342543DE82EF95u);
    Random random(mixer.next());
    fill_row(tensor, spread.centre, spread.sigma, random, reinterpret_cast<Byte*>(out.data()) + i * row_bytes);
  }
}

}  // namespace sj
