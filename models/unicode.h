// UTF-8 decoding that never fails and canonical composition, as the tokenizers need them.
// In: bytes of any kind. Out: code points, valid UTF-8. Called by the tokenizers and Utf8Stream.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace sj {

inline constexpr char32_t kReplacementChar = 0xFFFD;

/// One step of decoding. An illegal sequence counts as its maximal valid prefix, at least one byte (Unicode 3.9,
/// "U+FFFD substitution of maximal subparts"; the rule of the WHATWG decoder and of Python's errors="replace").
struct Utf8Char {
  char32_t code_point = kReplacementChar;
  size_t n_bytes = 1;
  bool is_valid = false;
  bool is_truncated = false;   ///< not valid, but more bytes after the end of the text could make it so
};

/// The character that begins at `pos`. Requires pos < text.size().
Utf8Char decode_utf8(std::string_view text, size_t pos);
/// Requires a scalar value: <= U+10FFFF and no surrogate.
void append_utf8(std::string& out, char32_t code_point);
bool is_valid_utf8(std::string_view text);
/// Each illegal sequence becomes one U+FFFD.
std::string to_valid_utf8(std::string_view text);
/// Normalisation form C in linear time but for the sorting of a run of combining marks. Requires valid UTF-8.
std::string to_nfc(std::string_view text);

}  // namespace sj
