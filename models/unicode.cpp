#include "models/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include <fmt/format.h>

#include "jit/base/error.h"

namespace sj {
namespace {

/// Position of the first byte >= 0x80 at or after `pos`, or the size.
size_t skip_ascii(std::string_view text, size_t pos) {
  for (; pos + 8 <= text.size(); pos += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + pos, 8);
    if (word & 0x8080808080808080u) break;
  }
  while (pos < text.size() && static_cast<unsigned char>(text[pos]) < 0x80) ++pos;
  return pos;
}

uint8_t byte_at(std::string_view text, size_t pos) { return static_cast<uint8_t>(text[pos]); }

/// Canonical decomposition, marks of each run in canonical order.
std::vector<int32_t> decompose(std::string_view text) {
  std::vector<int32_t> cps;
  cps.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = decode_utf8(text, pos);
    pos += c.n_bytes;
    int32_t parts[16];   // the longest canonical decomposition has 4 code points
    int boundclass = 0;
    const auto n = utf8proc_decompose_char(static_cast<int32_t>(c.code_point), parts, 16, UTF8PROC_DECOMPOSE, &boundclass);
    if (n < 0 || n > 16) throw Error(ErrorKind::kInternal, fmt::format("utf8proc can't decompose U+{:04X}", uint32_t{c.code_point}));
    cps.insert(cps.end(), parts, parts + n);
  }
  const auto mark_class = [](int32_t cp) { return utf8proc_get_property(cp)->combining_class; };
  for (size_t i = 0; i < cps.size();) {
    size_t end = i;
    while (end < cps.size() && mark_class(cps[end]) != 0) ++end;
    if (end - i > 1) {
      std::stable_sort(cps.begin() + static_cast<ptrdiff_t>(i), cps.begin() + static_cast<ptrdiff_t>(end),
                       [&](int32_t a, int32_t b) { return mark_class(a) < mark_class(b); });
    }
    i = end + 1;
  }
  return cps;
}

}  // namespace

Utf8Char decode_utf8(std::string_view text, size_t pos) {
  const uint8_t lead = byte_at(text, pos);
  if (lead < 0x80) return {lead, 1, true, false};
  // The second byte's range excludes overlong forms, surrogates and values above U+10FFFF (Unicode table 3-7).
  size_t n_more = 0;
  uint8_t low = 0x80, high = 0xBF;
  char32_t cp = 0;
  if (lead >= 0xC2 && lead <= 0xDF) {
    n_more = 1;
    cp = lead & 0x1Fu;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    n_more = 2;
    cp = lead & 0x0Fu;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    n_more = 3;
    cp = lead & 0x07u;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {};
  }
  for (size_t i = 1; i <= n_more; ++i) {
    if (pos + i == text.size()) return {kReplacementChar, i, false, true};
    const uint8_t next = byte_at(text, pos + i);
    if (next < low || next > high) return {kReplacementChar, i, false, false};
    cp = (cp << 6) | (next & 0x3Fu);
    low = 0x80;
    high = 0xBF;
  }
  return {cp, n_more + 1, true, false};
}

void append_utf8(std::string& out, char32_t cp) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(static_cast<uint8_t>(byte))); };
  if (cp < 0x80) {
    put(cp);
  } else if (cp < 0x800) {
    put(0xC0 | (cp >> 6));
    put(0x80 | (cp & 0x3F));
  } else if (cp < 0x10000) {
    put(0xE0 | (cp >> 12));
    put(0x80 | ((cp >> 6) & 0x3F));
    put(0x80 | (cp & 0x3F));
  } else {
    put(0xF0 | (cp >> 18));
    put(0x80 | ((cp >> 12) & 0x3F));
    put(0x80 | ((cp >> 6) & 0x3F));
    put(0x80 | (cp & 0x3F));
  }
}

bool is_valid_utf8(std::string_view text) {
  for (size_t pos = skip_ascii(text, 0); pos < text.size(); pos = skip_ascii(text, pos)) {
    const Utf8Char c = decode_utf8(text, pos);
    if (!c.is_valid) return false;
    pos += c.n_bytes;
  }
  return true;
}

std::string to_valid_utf8(std::string_view text) {
  if (is_valid_utf8(text)) return std::string(text);
  std::string out;
  out.reserve(text.size() + 16);
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = decode_utf8(text, pos);
    if (c.is_valid) out.append(text, pos, c.n_bytes);
    else append_utf8(out, kReplacementChar);
    pos += c.n_bytes;
  }
  return out;
}

std::string to_nfc(std::string_view text) {
  if (skip_ascii(text, 0) == text.size()) return std::string(text);
  // utf8proc's own reordering is quadratic in a run of marks, so only its composition is used: that one is linear.
  std::vector<int32_t> cps = decompose(text);
  const auto n = utf8proc_normalize_utf32(cps.data(), static_cast<utf8proc_ssize_t>(cps.size()),
                                          static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  if (n < 0) throw Error(ErrorKind::kInternal, fmt::format("utf8proc can't compose: {}", utf8proc_errmsg(n)));
  std::string out;
  out.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < n; ++i) append_utf8(out, static_cast<char32_t>(cps[static_cast<size_t>(i)]));
  return out;
}

}  // namespace sj
