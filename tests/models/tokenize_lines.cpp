// Tokenises a file of records for comparison with other libraries.
// usage: tokenize_lines MODEL.gguf RECORDS [special] [decode|time]
// RECORDS: u32 length and that many bytes, again and again (records may hold newlines and NUL).
// stdout: a line a record: the ids, separated by spaces; with "decode" a tab and the decoded bytes in hex follow.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "jit/base/error.h"
#include "models/gguf_file.h"
#include "models/tokenizer.h"

namespace {

std::vector<std::string> read_records(const char* path) {
  std::ifstream in(path, std::ios::binary);
  const std::string all{std::istreambuf_iterator<char>(in), {}};
  std::vector<std::string> records;
  for (size_t pos = 0; pos + 4 <= all.size();) {
    uint32_t n_bytes;
    std::memcpy(&n_bytes, all.data() + pos, 4);
    records.push_back(all.substr(pos + 4, n_bytes));
    pos += 4 + n_bytes;
  }
  return records;
}

using Clock = std::chrono::steady_clock;
double ms_since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

int tokenize(int argc, char** argv) {
  const auto has = [&](std::string_view word) {
    for (int i = 3; i < argc; ++i) {
      if (argv[i] == word) return true;
    }
    return false;
  };
  const auto start = Clock::now();
  const sj::GgufFile file = sj::open_gguf(argv[1]);
  const double open_ms = ms_since(start);
  const sj::Tokenizer tokenizer = sj::Tokenizer::from_gguf(file);
  fmt::print(stderr, "opened in {:.1f} ms, tables in {:.1f} ms\n", open_ms, ms_since(start) - open_ms);

  const std::vector<std::string> records = read_records(argv[2]);
  const sj::EncodeOptions options{.add_special = false, .parse_special = has("special")};
  size_t n_bytes = 0, n_tokens = 0;
  const auto encode_start = Clock::now();
  std::vector<std::vector<sj::TokenId>> encoded;
  for (const std::string& record : records) {
    encoded.push_back(tokenizer.encode(record, options));
    n_bytes += record.size();
    n_tokens += encoded.back().size();
  }
  const double encode_ms = ms_since(encode_start);
  fmt::print(stderr, "{} records, {} bytes, {} tokens in {:.0f} ms: {:.2f} MB/s\n", records.size(), n_bytes, n_tokens, encode_ms,
             static_cast<double>(n_bytes) / 1e3 / encode_ms);
  if (has("time")) return 0;
  for (const std::vector<sj::TokenId>& ids : encoded) {
    fmt::print("{}", fmt::join(ids, " "));
    if (has("decode")) {
      std::string hex;
      for (const char c : tokenizer.decode(ids, true)) hex += fmt::format("{:02x}", static_cast<uint8_t>(c));
      fmt::print("\t{}", hex);
    }
    fmt::print("\n");
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: tokenize_lines MODEL.gguf RECORDS [special] [decode|time]\n");
    return 2;
  }
  try {
    return tokenize(argc, argv);
  } catch (const sj::Error& e) {
    fmt::print(stderr, "error: {}\n", e.what());
    return e.exit_code();
  }
}
