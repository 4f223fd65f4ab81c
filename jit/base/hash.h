// The only door to xxHash: 128-bit content hashes. In: bytes. Out: Hash128, printed as 32 hex digits.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace sj {

struct Hash128 {
  uint64_t high = 0, low = 0;
  auto operator<=>(const Hash128&) const = default;
};

/// 32 lower-case hex digits, most significant first.
std::string to_hex(const Hash128& hash);

Hash128 hash_bytes(std::span<const std::byte> bytes);
Hash128 hash_text(std::string_view text);

/// Hash of a sequence of fields. Each field is preceded by its length, so ("ab", "c") differs from ("a", "bc").
class FieldHasher {
 public:
  FieldHasher();
  ~FieldHasher();
  FieldHasher(const FieldHasher&) = delete;
  FieldHasher& operator=(const FieldHasher&) = delete;
  void add(std::string_view field);
  void add(uint64_t value);
  Hash128 digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sj
