#include "models/pretokenizer.h"

#include <cstdint>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <fmt/format.h>

#include "jit/base/error.h"

namespace sj {
namespace {

// PCRE2's own \s knows U+180E (no longer a space) and depends on its Unicode option, so it is spelt out.
constexpr std::string_view kWhiteSpace =
    R"(\x09-\x0D\x20\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

/// Replaces \s (inside or outside a class) and \S (outside only).
std::string spell_out_whitespace(std::string_view pattern) {
  std::string out;
  bool is_in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char next = pattern[++i];
      if (next == 's' && is_in_class) out += kWhiteSpace;
      else if (next == 's') out += fmt::format("[{}]", kWhiteSpace);
      else if (next == 'S') out += fmt::format("[^{}]", kWhiteSpace);
      else (out += c) += next;
      continue;
    }
    if (c == '[') is_in_class = true;
    if (c == ']') is_in_class = false;
    out += c;
  }
  return out;
}

std::string pcre2_message(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

struct CodeFree { void operator()(pcre2_code* p) const { pcre2_code_free(p); } };
struct MatchDataFree { void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); } };
struct MatchContextFree { void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); } };
using Code = std::unique_ptr<pcre2_code, CodeFree>;
using MatchData = std::unique_ptr<pcre2_match_data, MatchDataFree>;
using MatchContext = std::unique_ptr<pcre2_match_context, MatchContextFree>;

Code compile(std::string_view pattern) {
  const std::string text = spell_out_whitespace(pattern);
  int error = 0;
  size_t where = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_UTF, &error, &where, nullptr));
  if (!code) {
    throw Error(ErrorKind::kInternal, fmt::format("pre-tokenizer pattern {}: {} at offset {}", text, pcre2_message(error), where));
  }
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);   // where it is refused (no executable pages), the interpreter works
  return code;
}

}  // namespace

struct Pretokenizer::Impl {
  std::vector<Code> stages;
  MatchContext context{pcre2_match_context_create(nullptr)};

  void run_stage(const pcre2_code* code, pcre2_match_data* data, std::string_view text,
                 std::vector<std::string_view>& pieces) const;
};

Pretokenizer::Pretokenizer(const PretokenizerSpec& spec) : impl_(std::make_unique<Impl>()) {
  for (const std::string_view pattern : spec.stages) impl_->stages.push_back(compile(pattern));
  // The patterns are ours and linear in a piece; the limit must only let one piece be as long as a text can be.
  pcre2_set_match_limit(impl_->context.get(), UINT32_MAX);
}

Pretokenizer::Pretokenizer(Pretokenizer&&) noexcept = default;
Pretokenizer& Pretokenizer::operator=(Pretokenizer&&) noexcept = default;
Pretokenizer::~Pretokenizer() = default;

void Pretokenizer::Impl::run_stage(const pcre2_code* code, pcre2_match_data* data, std::string_view text,
                                   std::vector<std::string_view>& pieces) const {
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const size_t* const span = pcre2_get_ovector_pointer(data);
  size_t done = 0;
  while (done < text.size()) {
    int rc = pcre2_match(code, subject, text.size(), done, PCRE2_NO_UTF_CHECK, data, context.get());
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(code, subject, text.size(), done, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context.get());
    }
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      throw Error(ErrorKind::kInternal, fmt::format("pre-tokenizer: {} at byte {} of {}", pcre2_message(rc), done, text.size()));
    }
    const size_t begin = span[0], end = span[1];
    if (end <= begin || begin < done) throw Error(ErrorKind::kInternal, "pre-tokenizer: a pattern matched the empty string");
    if (begin > done) pieces.push_back(text.substr(done, begin - done));
    pieces.push_back(text.substr(begin, end - begin));
    done = end;
  }
  if (done < text.size()) pieces.push_back(text.substr(done));
}

void Pretokenizer::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  if (text.empty()) return;
  const MatchData data(pcre2_match_data_create(1, nullptr));
  if (!data) throw Error(ErrorKind::kInternal, "pre-tokenizer: out of memory for match data");
  std::vector<std::string_view> before{text}, after;
  for (const Code& code : impl_->stages) {
    after.clear();
    for (const std::string_view piece : before) impl_->run_stage(code.get(), data.get(), piece, after);
    std::swap(before, after);
  }
  pieces.insert(pieces.end(), before.begin(), before.end());
}

}  // namespace sj
