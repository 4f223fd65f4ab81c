// Finds a name's position in a table that somebody else owns. Linear to build whatever the names are: the hash is keyed
// by a random secret, so a file can't be made whose names all collide.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <random>
#include <string_view>
#include <vector>

namespace sj {

class NameIndex {
 public:
  /// For at most `n_names` names.
  explicit NameIndex(size_t n_names) : slots_(std::bit_ceil(n_names * 2 + 1), kEmpty) {}

  /// Adds `name` as entry `idx`; returns the entry that has the same name already, without adding. `name_of(idx)` gives
  /// the name of an entry that was added before.
  template <class NameOf>
  std::optional<uint32_t> insert(std::string_view name, uint32_t idx, const NameOf& name_of) {
    const size_t mask = slots_.size() - 1;
    for (size_t at = hash(name) & mask;; at = (at + 1) & mask) {
      if (slots_[at] == kEmpty) {
        slots_[at] = idx;
        return std::nullopt;
      }
      if (name_of(slots_[at]) == name) return slots_[at];
    }
  }

  template <class NameOf>
  std::optional<uint32_t> find(std::string_view name, const NameOf& name_of) const {
    const size_t mask = slots_.size() - 1;
    for (size_t at = hash(name) & mask; slots_[at] != kEmpty; at = (at + 1) & mask)
      if (name_of(slots_[at]) == name) return slots_[at];
    return std::nullopt;
  }

  /// Keyed 64-bit hash by 64x64 -> 128-bit multiplications; differs from process to process, so never stored.
  static uint64_t hash(std::string_view name) {
    static const Secret secret = make_secret();
    uint64_t h = secret.a ^ name.size();
    while (name.size() > 8) {
      h = fold(h ^ load(name.data(), 8), secret.b);
      name.remove_prefix(8);
    }
    return fold(h ^ load(name.data(), name.size()) ^ secret.c, secret.b ^ h);
  }

 private:
  struct Secret { uint64_t a, b, c; };
  static constexpr uint32_t kEmpty = 0xFFFFFFFF;

  static Secret make_secret() {
    std::random_device random;
    const auto next = [&] { return (uint64_t{random()} << 32) | random(); };
    return {next(), next() | 1, next()};
  }
  static uint64_t load(const char* from, size_t n) {
    uint64_t word = 0;
    std::memcpy(&word, from, n);
    return word;
  }
  static uint64_t fold(uint64_t x, uint64_t y) {
    __extension__ using Wide = unsigned __int128;
    const Wide product = Wide{x} * y;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }

  std::vector<uint32_t> slots_;
};

}  // namespace sj
