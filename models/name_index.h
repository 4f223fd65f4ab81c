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
  /// For at most `n_names` names with entry numbers below `n_names`.
  explicit NameIndex(size_t n_names)
      : slots_(std::bit_ceil(n_names * 2 + 1), kEmpty), idx_bits_(static_cast<uint32_t>(std::bit_width(n_names))) {}

  /// Adds `name` as entry `idx`; returns the entry that has the same name already, without adding. `name_of(idx)` gives
  /// the name of an entry that was added before.
  template <class NameOf>
  std::optional<uint32_t> insert(std::string_view name, uint32_t idx, const NameOf& name_of) {
    const Place place = find_place(name, name_of);
    if (slots_[place.at] != kEmpty) return slots_[place.at] & idx_mask();
    slots_[place.at] = place.tag | idx;
    return std::nullopt;
  }

  template <class NameOf>
  std::optional<uint32_t> find(std::string_view name, const NameOf& name_of) const {
    const uint32_t slot = slots_[find_place(name, name_of).at];
    return slot == kEmpty ? std::nullopt : std::optional(slot & idx_mask());
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

  uint32_t idx_mask() const { return (uint32_t{1} << idx_bits_) - 1; }

  struct Place { size_t at; uint32_t tag; };

  /// The slot that holds `name`, or the empty one where it belongs. Linear probing; at most half of the slots are taken.
  template <class NameOf>
  Place find_place(std::string_view name, const NameOf& name_of) const {
    const uint64_t h = hash(name);
    const uint32_t tag = static_cast<uint32_t>(h >> 32) & ~idx_mask();
    const size_t mask = slots_.size() - 1;
    size_t at = h & mask;
    while (slots_[at] != kEmpty && ((slots_[at] & ~idx_mask()) != tag || name_of(slots_[at] & idx_mask()) != name)) at = (at + 1) & mask;
    return {at, tag};
  }

  // A slot is the entry's number, and above its bits a piece of the hash, which spares most looks at other names. An
  // entry's number is below 2^idx_bits_ - 1, so no slot equals kEmpty.
  std::vector<uint32_t> slots_;
  uint32_t idx_bits_;
};

}  // namespace sj
