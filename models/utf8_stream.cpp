#include "models/tokenizer.h"
#include "models/unicode.h"

namespace sj {

std::string Utf8Stream::push(std::string_view bytes) {
  held_.append(bytes);
  size_t end = held_.size();
  // Only a prefix of a character can be completed later, and a prefix has at most 3 bytes.
  for (size_t back = 1; back <= 3 && back <= held_.size(); ++back) {
    const size_t pos = held_.size() - back;
    if (static_cast<unsigned char>(held_[pos]) < 0xC0) continue;
    const Utf8Char c = decode_utf8(held_, pos);
    if (c.is_truncated && c.n_bytes == back) end = pos;
    break;
  }
  std::string out = to_valid_utf8(std::string_view(held_).substr(0, end));
  held_.erase(0, end);
  return out;
}

std::string Utf8Stream::finish() {
  std::string out = to_valid_utf8(held_);
  held_.clear();
  return out;
}

}  // namespace sj
