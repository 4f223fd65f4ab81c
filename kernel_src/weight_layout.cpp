#include "kernel_src/weight_layout.h"

#include <cstring>

#include <fmt/format.h>

#include "jit/base/error.h"

namespace sj {
namespace {

using Byte = uint8_t;

struct PlaneKind {
  std::string_view name;
  uint32_t entry_bytes;
  uint32_t entry_elems;
};

constexpr PlaneKind kQs4{"qs4", 16, 32}, kQs8a{"qs8.0", 16, 32}, kQs8b{"qs8.1", 16, 32}, kHdrK{"hdrK", 16, 256}, kQh2{"qh2", 8, 32},
    kQh1{"qh1", 4, 32}, kDm{"dm", 4, 32}, kD{"d", 2, 32}, kS16{"s16", 2, 32}, kSm16{"sm16", 2, 32}, kE{"e", 1, 32}, kU2{"u2", 2, 32},
    kDK{"dK", 2, 256}, kDdK{"ddK", 4, 256};

std::vector<PlaneKind> planes_of(DType dtype) {
  switch (dtype) {
    case DType::kF32: return {{"row", 4, 1}};
    case DType::kF16: case DType::kBF16: return {{"row", 2, 1}};
    case DType::kQ4_0: case DType::kIQ4_NL: return {kQs4, kD};
    case DType::kQ4_1: return {kQs4, kDm};
    case DType::kQ5_0: return {kQs4, kQh1, kD};
    case DType::kQ5_1: return {kQs4, kQh1, kDm};
    case DType::kQ8_0: return {kQs8a, kQs8b, kD};
    case DType::kMXFP4: return {kQs4, kE};
    case DType::kNVFP4: return {kQs4, kU2};
    case DType::kQ4_K: return {kQs4, kHdrK};
    case DType::kQ5_K: return {kQs4, kHdrK, kQh1};
    case DType::kQ6_K: return {kQs4, kQh2, kS16, kDK};
    case DType::kQ3_K: return {kQh2, kQh1, kS16, kDK};
    case DType::kQ2_K: return {kQh2, kSm16, kDdK};
    case DType::kIQ4_XS: return {kQs4, kS16, kDK};
    case DType::kI8: case DType::kI16: case DType::kI32: case DType::kI64: case DType::kF64: break;
  }
  throw Error(ErrorKind::kUnsupported, fmt::format("weight layout: {} is no weight type", dtype_name(dtype)));
}

/// Calls `visit(plane, offset_bytes, n_bytes)` in memory order; returns the record's size.
template <class Visit>
uint64_t each_plane(DType dtype, uint64_t n_cols, const Visit& visit) {
  const DTypeInfo& info = dtype_info(dtype);
  const uint64_t granule = info.block_elems > 1 ? info.block_elems : 4;
  const std::vector<PlaneKind> planes = planes_of(dtype);
  if (n_cols == 0 || n_cols % granule != 0 || n_cols > (uint64_t{1} << 40))
    throw Error(ErrorKind::kUnsupported,
                fmt::format("weight layout: expected {} rows of a positive multiple of {} elements, found {}", info.name, granule, n_cols));
  uint64_t offset = 0;
  for (const PlaneKind& plane : planes) {
    const uint64_t n_bytes = n_cols / plane.entry_elems * plane.entry_bytes;
    visit(plane, offset, n_bytes);
    offset += n_bytes;
  }
  return (offset + 15) / 16 * 16;
}

inline uint32_t load_u32(const Byte* from) {
  uint32_t word;
  std::memcpy(&word, from, 4);
  return word;
}
inline void store_u32(Byte* to, uint32_t word) { std::memcpy(to, &word, 4); }

/// qh1 entry from a bit string in which bit w belongs to weight w: byte i collects bits i, i + 4, i + 8, ...
inline uint32_t qh1_of_bits(uint32_t bits) {
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) {
    uint32_t x = bits >> i & 0x11111111;
    x = (x | x >> 3) & 0x03030303;
    x = (x | x >> 6) & 0x000F000F;
    word |= ((x | x >> 12) & 0xFF) << (8 * i);
  }
  return word;
}

/// qh1 entry from 32 bytes of which each holds the weight's bit at position `bit`.
inline uint32_t qh1_of_bytes(const Byte* from, int bit) {
  uint32_t word = 0;
  for (int g = 0; g < 8; ++g) word |= (load_u32(from + 4 * g) >> bit & 0x01010101) << g;
  return word;
}

/// qh2 entry from 32 bytes of which each holds the weight's two bits at position `shift`.
inline void put_qh2(const Byte* from, int shift, Byte* to) {
  for (int half = 0; half < 2; ++half) {
    uint32_t word = 0;
    for (int g = 0; g < 4; ++g) word |= (load_u32(from + 16 * half + 4 * g) >> shift & 0x03030303) << (2 * g);
    store_u32(to + 4 * half, word);
  }
}

/// Two qs4 entries from 32 bytes of which each holds a weight of one chunk low and of the next chunk high.
inline void put_qs4_pair(const Byte* from, Byte* low_chunk, Byte* high_chunk) {
  for (int b = 0; b < 16; ++b) {
    low_chunk[b] = static_cast<Byte>((from[b] & 15) | from[b + 16] << 4);
    high_chunk[b] = static_cast<Byte>(from[b] >> 4 | (from[b + 16] & 0xF0));
  }
}

/// Where the planes of the record under construction start.
struct Out {
  Byte* plane[4] = {};
};

void repack_q4_0(const Byte* b, uint64_t c, const Out& out) {   // IQ4_NL too
  std::memcpy(out.plane[0] + 16 * c, b + 2, 16);
  std::memcpy(out.plane[1] + 2 * c, b, 2);
}

void repack_q4_1(const Byte* b, uint64_t c, const Out& out) {
  std::memcpy(out.plane[0] + 16 * c, b + 4, 16);
  std::memcpy(out.plane[1] + 4 * c, b, 4);
}

void repack_q5_0(const Byte* b, uint64_t c, const Out& out) {
  std::memcpy(out.plane[0] + 16 * c, b + 6, 16);
  store_u32(out.plane[1] + 4 * c, qh1_of_bits(load_u32(b + 2)));
  std::memcpy(out.plane[2] + 2 * c, b, 2);
}

void repack_q5_1(const Byte* b, uint64_t c, const Out& out) {
  std::memcpy(out.plane[0] + 16 * c, b + 8, 16);
  store_u32(out.plane[1] + 4 * c, qh1_of_bits(load_u32(b + 4)));
  std::memcpy(out.plane[2] + 4 * c, b, 4);
}

void repack_q8_0(const Byte* b, uint64_t c, const Out& out) {
  std::memcpy(out.plane[0] + 16 * c, b + 2, 16);
  std::memcpy(out.plane[1] + 16 * c, b + 18, 16);
  std::memcpy(out.plane[2] + 2 * c, b, 2);
}

void repack_mxfp4(const Byte* b, uint64_t c, const Out& out) {
  std::memcpy(out.plane[0] + 16 * c, b + 1, 16);
  out.plane[1][c] = b[0];
}

void repack_nvfp4(const Byte* b, uint64_t block, const Out& out) {
  for (uint64_t half = 0; half < 2; ++half) {
    const uint64_t c = 2 * block + half;
    const Byte* first = b + 4 + 16 * half;    // weights 0..7 low, 8..15 high
    const Byte* second = first + 8;           // weights 16..23 low, 24..31 high
    Byte* q = out.plane[0] + 16 * c;
    for (int i = 0; i < 8; ++i) {
      q[i] = static_cast<Byte>((first[i] & 15) | second[i] << 4);
      q[i + 8] = static_cast<Byte>(first[i] >> 4 | (second[i] & 0xF0));
    }
    std::memcpy(out.plane[1] + 2 * c, b + 2 * half, 2);
  }
}

/// hdrK from d, dmin and the 12 bytes of packed 6-bit scales and mins (Q4_K, Q5_K).
void put_header(const Byte* b, Byte* to) {
  const Byte* s = b + 4;
  std::memcpy(to, b, 4);
  uint32_t min_low = 0;
  for (int c = 0; c < 8; ++c) {
    const unsigned scale = c < 4 ? s[c] & 63u : (s[c + 4] & 15u) | (s[c - 4] >> 6) << 4;
    const unsigned min = c < 4 ? s[c + 4] & 63u : (s[c + 4] >> 4) | (s[c] >> 6) << 4;
    to[4 + c] = static_cast<Byte>(scale | (min >> 4) << 6);
    min_low |= (min & 15u) << (4 * c);
  }
  store_u32(to + 12, min_low);
}

void repack_q4_k(const Byte* b, uint64_t block, const Out& out) {
  Byte* q = out.plane[0] + 128 * block;
  for (int j = 0; j < 8; j += 2) put_qs4_pair(b + 16 + 16 * j, q + 16 * j, q + 16 * (j + 1));
  put_header(b, out.plane[1] + 16 * block);
}

void repack_q5_k(const Byte* b, uint64_t block, const Out& out) {
  Byte* q = out.plane[0] + 128 * block;
  for (int j = 0; j < 8; j += 2) put_qs4_pair(b + 48 + 16 * j, q + 16 * j, q + 16 * (j + 1));
  put_header(b, out.plane[1] + 16 * block);
  for (int j = 0; j < 8; ++j) store_u32(out.plane[2] + 32 * block + 4 * j, qh1_of_bytes(b + 16, j));
}

void repack_q6_k(const Byte* b, uint64_t block, const Out& out) {
  Byte* q = out.plane[0] + 128 * block;
  for (int n = 0; n < 2; ++n) {      // 128 weights: chunks 0 and 1 in the low nibbles of two times 32 bytes, 2 and 3 high
    put_qs4_pair(b + 64 * n, q + 64 * n, q + 64 * n + 32);
    put_qs4_pair(b + 64 * n + 32, q + 64 * n + 16, q + 64 * n + 48);
    for (int g = 0; g < 4; ++g) put_qh2(b + 128 + 32 * n, 2 * g, out.plane[1] + 64 * block + 32 * n + 8 * g);
  }
  std::memcpy(out.plane[2] + 16 * block, b + 192, 16);
  std::memcpy(out.plane[3] + 2 * block, b + 208, 2);
}

void repack_q3_k(const Byte* b, uint64_t block, const Out& out) {
  const Byte* s = b + 96;
  for (int j = 0; j < 8; ++j) {
    put_qh2(b + 32 + 32 * (j / 4), 2 * (j % 4), out.plane[0] + 64 * block + 8 * j);
    store_u32(out.plane[1] + 32 * block + 4 * j, qh1_of_bytes(b, j));
  }
  for (int j = 0; j < 16; ++j) {
    const int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
    const int high = s[8 + j % 4] >> (2 * (j / 4)) & 3;
    out.plane[2][16 * block + j] = static_cast<Byte>((low | high << 4) - 32);
  }
  std::memcpy(out.plane[3] + 2 * block, b + 108, 2);
}

void repack_q2_k(const Byte* b, uint64_t block, const Out& out) {
  for (int j = 0; j < 8; ++j) put_qh2(b + 16 + 32 * (j / 4), 2 * (j % 4), out.plane[0] + 64 * block + 8 * j);
  std::memcpy(out.plane[1] + 16 * block, b, 16);   // already sc | m << 4
  std::memcpy(out.plane[2] + 4 * block, b + 80, 4);
}

void repack_iq4_xs(const Byte* b, uint64_t block, const Out& out) {
  std::memcpy(out.plane[0] + 128 * block, b + 8, 128);
  const unsigned high = b[2] | static_cast<unsigned>(b[3]) << 8;
  for (int j = 0; j < 8; ++j) {
    const unsigned scale = (b[4 + j / 2] >> (4 * (j & 1)) & 15u) | (high >> (2 * j) & 3u) << 4;
    out.plane[1][16 * block + 2 * j] = out.plane[1][16 * block + 2 * j + 1] = static_cast<Byte>(static_cast<int>(scale) - 32);
  }
  std::memcpy(out.plane[2] + 2 * block, b, 2);
}

using RepackBlock = void (*)(const Byte*, uint64_t, const Out&);

RepackBlock repack_of(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0: case DType::kIQ4_NL: return repack_q4_0;
    case DType::kQ4_1: return repack_q4_1;
    case DType::kQ5_0: return repack_q5_0;
    case DType::kQ5_1: return repack_q5_1;
    case DType::kQ8_0: return repack_q8_0;
    case DType::kMXFP4: return repack_mxfp4;
    case DType::kNVFP4: return repack_nvfp4;
    case DType::kQ4_K: return repack_q4_k;
    case DType::kQ5_K: return repack_q5_k;
    case DType::kQ6_K: return repack_q6_k;
    case DType::kQ3_K: return repack_q3_k;
    case DType::kQ2_K: return repack_q2_k;
    case DType::kIQ4_XS: return repack_iq4_xs;
    default: return nullptr;   // the row as it is
  }
}

}  // namespace

uint64_t row_record_bytes(DType dtype, uint64_t n_cols) {
  return each_plane(dtype, n_cols, [](const PlaneKind&, uint64_t, uint64_t) {});
}

std::vector<WeightPlane> row_planes(DType dtype, uint64_t n_cols) {
  std::vector<WeightPlane> out;
  each_plane(dtype, n_cols, [&](const PlaneKind& plane, uint64_t offset, uint64_t n_bytes) {
    out.push_back({plane.name, plane.entry_bytes, plane.entry_elems, offset, n_bytes});
  });
  return out;
}

void repack_row(DType dtype, uint64_t n_cols, std::span<const std::byte> row, std::span<std::byte> out) {
  const DTypeInfo& info = dtype_info(dtype);
  auto* to = reinterpret_cast<Byte*>(out.data());
  Out planes;
  int n_planes = 0;
  uint64_t used = 0;
  const uint64_t record_bytes = each_plane(dtype, n_cols, [&](const PlaneKind&, uint64_t offset, uint64_t n_bytes) {
    if (offset <= out.size()) planes.plane[n_planes++] = to + offset;
    used = offset + n_bytes;
  });
  const uint64_t n_blocks = n_cols / info.block_elems;
  if (row.size() != n_blocks * info.block_bytes || out.size() != record_bytes)
    throw Error(ErrorKind::kInternal, fmt::format("repack_row: {} row of {} needs {} bytes in and {} out, given {} and {}", info.name, n_cols,
                                                  n_blocks * info.block_bytes, record_bytes, row.size(), out.size()));
  const auto* from = reinterpret_cast<const Byte*>(row.data());
  if (const RepackBlock repack = repack_of(dtype))
    for (uint64_t i = 0; i < n_blocks; ++i) repack(from + i * info.block_bytes, i, planes);
  else
    std::memcpy(to, from, row.size());
  std::memset(to + used, 0, record_bytes - used);
}

}  // namespace sj
