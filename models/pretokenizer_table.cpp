// The known pre-tokenizers: names as written by GGUF converters, patterns as published with each model's tokenizer.
#include <array>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "models/pretokenizer.h"

namespace sj {
namespace {

constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen35 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kSeedCoder =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kMiniCpm5 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kDeepseekV3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kBailing =
    R"('(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr std::string_view kPoro = R"( ?[^(\s|.,!?…。，、।۔،)]+)";
constexpr std::string_view kHanKana = R"([一-龥\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)";
constexpr std::string_view kHanHangul = R"([一-龥\x{0800}-一\x{AC00}-\x{D7FF}]+)";
constexpr std::string_view kDigit = R"(\p{N})";
constexpr std::string_view kDigits = R"(\p{N}+)";
constexpr std::string_view kUpToThreeDigits = R"(\p{N}{1,3})";
constexpr std::string_view kThreeAsciiDigits = R"([0-9][0-9][0-9])";

struct Row {
  std::string_view name;
  PretokenizerSpec spec;
};

PretokenizerSpec plain(std::vector<std::string_view> stages) { return {std::move(stages), false, false, false}; }
PretokenizerSpec whole_words(std::vector<std::string_view> stages) { return {std::move(stages), true, true, false}; }

const std::vector<Row>& rows() {
  static const std::vector<Row> table = [] {
    std::vector<Row> t;
    const auto add = [&](std::initializer_list<std::string_view> names, const PretokenizerSpec& spec) {
      for (const std::string_view name : names) t.push_back({name, spec});
    };
    add({"default"}, plain({R"([\p{P}\$\+<=>\^~\|]+)", kGpt2, kDigits, kThreeAsciiDigits}));
    add({"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"},
        whole_words({kLlama3}));
    add({"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}, plain({kLlama3}));
    // Qwen's own tokenizers compose; the others that borrowed the pattern don't.
    add({"qwen2"}, {{kQwen2}, false, false, true});
    add({"qwen35"}, {{kQwen35}, false, false, true});
    add({"deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"}, plain({kQwen2}));
    add({"gpt-2", "phi-2", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "gigachat",
         "a.x-4.0", "mellum", "modern-bert", "roberta-bpe", "exaone4", "mpt", "olmo", "jais", "trillion", "granite-docling"},
        plain({kGpt2}));
    add({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"}, plain({kDigit, kGpt2}));
    add({"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}, plain({kGpt4o}));
    add({"tekken"}, whole_words({kTekken}));
    add({"deepseek-v3", "hunyuan-dense", "joyai-llm"}, plain({kUpToThreeDigits, kHanKana, kDeepseekV3}));
    add({"deepseek-coder"}, plain({R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kHanHangul, kDigit}));
    add({"falcon"}, plain({R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2, kThreeAsciiDigits}));
    add({"seed-coder"}, plain({kSeedCoder}));
    add({"minicpm5"}, {{kUpToThreeDigits, kMiniCpm5}, true, false, false});
    add({"laguna"}, plain({R"([^\n]+|[\n]+)", kQwen2}));
    add({"bailingmoe", "llada-moe"}, plain({kBailing}));
    add({"poro-chat", "bloom", "gpt3-finnish"}, plain({kPoro}));
    add({"viking"}, plain({kPoro, kDigit}));
    return t;
  }();
  return table;
}

}  // namespace

PretokenizerSpec require_pretokenizer(std::string_view name) {
  for (const Row& row : rows()) {
    if (row.name == name) return row.spec;
  }
  throw Error(ErrorKind::kUnsupported,
              fmt::format("pre-tokenizer \"{}\" (tokenizer.ggml.pre) is not one of the {} that are implemented", name, rows().size()));
}

std::vector<std::string_view> pretokenizer_names() {
  std::vector<std::string_view> names;
  for (const Row& row : rows()) names.push_back(row.name);
  return names;
}

}  // namespace sj
