// Numbers, hashes and text in our files, at byte offsets, least significant byte first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "jit/base/hash.h"

namespace sj {

/// Requires at + sizeof(Int) <= out.size(); the others alike.
template <class Int>
void put_int(std::span<std::byte> out, size_t at, Int value) {
  for (size_t i = 0; i < sizeof(Int); ++i) out[at + i] = static_cast<std::byte>(value >> (8 * i));
}

template <class Int>
Int get_int(std::span<const std::byte> in, size_t at) {
  Int value = 0;
  for (size_t i = 0; i < sizeof(Int); ++i) value |= static_cast<Int>(static_cast<Int>(in[at + i]) << (8 * i));
  return value;
}

inline void put_hash(std::span<std::byte> out, size_t at, const Hash128& hash) {
  put_int(out, at, hash.low);
  put_int(out, at + 8, hash.high);
}

inline Hash128 get_hash(std::span<const std::byte> in, size_t at) {
  return {.high = get_int<uint64_t>(in, at + 8), .low = get_int<uint64_t>(in, at)};
}

inline std::string_view as_text(std::span<const std::byte> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

}  // namespace sj
