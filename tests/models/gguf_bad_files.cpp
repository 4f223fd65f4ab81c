#include "tests/models/gguf_bad_files.h"

#include <fmt/format.h>

#include "models/gguf_parse.h"
#include "tests/support/gguf_writer.h"

namespace sj::test {
namespace {

using Cases = std::vector<BadGguf>;

constexpr uint64_t kHead = 24;
constexpr uint32_t kF32 = 0, kQ8_0 = 8, kQ4_K = 12;

void add_heads(Cases& out) {
  const auto bad_magic = [&](std::string name, std::string bytes, std::string message) {
    out.push_back({std::move(name), std::move(bytes), std::move(message), "magic", 0});
  };
  bad_magic("empty", "", "found nothing in a file of 0 bytes");
  bad_magic("one byte", "G", "found 47 in a file of 1 bytes");
  bad_magic("three bytes", "GGU", "found 47 47 55 in a file of 3 bytes");
  bad_magic("text", "hello world, I am no model", "not a GGUF file: expected 47 47 55 46 (\"GGUF\"), found 68 65 6c 6c");
  bad_magic("lower case", "gguf" + std::string(40, '\0'), "not a GGUF file");
  bad_magic("reversed", "FUGG" + std::string(40, '\0'), "not a GGUF file");
  bad_magic("zip", "PK\x03\x04 archive bytes follow", "zip archive");
  bad_magic("html", "<!DOCTYPE html><html>", "HTML page");
  bad_magic("lfs pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer");
  bad_magic("safetensors", le<uint64_t>(20) + "{\"a\":{\"dtype\":\"F32\"}}", "safetensors");
  bad_magic("ggml of 2023", "tjgg" + std::string(60, '\1'), "pre-GGUF");
  for (const uint32_t version : {0u, 1u, 4u, 5u, 255u, 0x01000003u})
    out.push_back({fmt::format("version {}", version), gguf_head(0, 0, version), fmt::format("expected GGUF version 2 or 3, found {}", version), "version", 4});
  for (const uint32_t version : {0x02000000u, 0x03000000u})
    out.push_back({fmt::format("big-endian {}", version), gguf_head(0, 0, version), "the file is big-endian", "version", 4, ErrorKind::kUnsupported});
  const std::string whole = gguf_head(0, 0);
  for (uint64_t n = 4; n < 24; ++n) {
    const bool is_version = n < 8, is_tensors = n < 16;
    out.push_back({fmt::format("head of {} bytes", n), whole.substr(0, n), "the file ends here", is_version ? "version" : is_tensors ? "n_tensors" : "n_kv",
                   is_version ? 4u : is_tensors ? 8u : 16u});
  }
  for (const int64_t n : {int64_t{-1}, INT64_MIN, INT64_MAX, int64_t{1} << 32, (int64_t{1} << 20) + 1}) {
    const std::string expected = fmt::format("expected a count from 0 to 1048576, found {}", n);
    out.push_back({fmt::format("{} tensors", n), gguf_head(n, 0), expected, "n_tensors", 8});
    out.push_back({fmt::format("{} keys", n), gguf_head(0, n), expected, "n_kv", 16});
  }
  out.push_back({"more keys than bytes", gguf_head(0, 3) + std::string(41, '\0'), "declares 3 records of at least 14 bytes, but only 41", "n_kv", 16});
  out.push_back({"more tensors than bytes", gguf_head(2, 0) + std::string(65, '\0'), "declares 2 records of at least 33 bytes, but only 65", "n_tensors", 8});
}

void add_keys(Cases& out) {
  const auto one_key = [&](std::string name, const std::string& record, std::string message, std::string field, uint64_t at) {
    out.push_back({std::move(name), gguf_head(0, 1) + record + std::string(64, '\0'), std::move(message), std::move(field), kHead + at});
  };
  one_key("empty key", gguf_key("", kGgufU32, le(1u)), "the key is empty", "key", 0);
  one_key("key of 65,536 bytes", gguf_key(std::string(65536, 'k'), kGgufU32, le(1u)), "expected a text of at most 65535 bytes, found length 65536", "key", 0);
  for (const uint64_t n : {uint64_t{1} << 20, uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 7})
    one_key(fmt::format("key length {}", n), le(n), fmt::format("found length {}", n), "key", 0);
  one_key("key longer than the file", le<uint64_t>(1000) + "abc", "the file ends here: needs 1000 more bytes", "key", 8);
  for (const uint32_t type : {13u, 14u, 255u, 0xFFFFFFFFu})
    one_key(fmt::format("value type {}", type), gguf_key("a", type, ""), fmt::format("metadata key 0 \"a\": expected a value type id from 0 to 12, found {}", type),
            "type", 9);
  for (const int value : {2, 127, 255})
    one_key(fmt::format("bool {}", value), gguf_key("a", kGgufBool, le(static_cast<uint8_t>(value))), fmt::format("expected a bool of 0 or 1, found {}", value), "value", 13);
  one_key("bool array with 2", gguf_key("a", kGgufArray, gguf_array(kGgufBool, 3, std::string("\1\0\2", 3))), "expected a bool of 0 or 1, found 2", "value", 27);
  one_key("array of arrays", gguf_key("a", kGgufArray, gguf_array(kGgufArray, 1, gguf_array(kGgufU8, 1, "x"))), "an array of arrays", "element type", 13);
  for (const uint32_t type : {13u, 77u, 0x80000000u})
    one_key(fmt::format("element type {}", type), gguf_key("a", kGgufArray, gguf_array(type, 1, "")), fmt::format("expected an element type id from 0 to 12, found {}", type),
            "element type", 13);
  for (uint32_t type = 0; type <= 12; ++type) {
    if (type == kGgufArray) continue;
    for (const uint64_t count : {uint64_t{65}, uint64_t{1} << 30, uint64_t{1} << 61, UINT64_MAX})
      one_key(fmt::format("{} {} elements", count, gguf_type_name(type)), gguf_key("a", kGgufArray, gguf_array(type, count, "")),
              fmt::format("declares {} records", count), "count", 17);
  }
  one_key("string over 16 MiB", gguf_key("a", kGgufString, le<uint64_t>((16u << 20) + 1)), "expected a text of at most 16777216 bytes", "value", 13);
  one_key("string past the end", gguf_key("a", kGgufString, le<uint64_t>(5000)), "the file ends here: needs 5000 more bytes", "value", 21);
  one_key("array string past the end", gguf_key("a", kGgufArray, gguf_array(kGgufString, 2, gguf_text("ok") + le<uint64_t>(9999))), "needs 9999 more bytes", "element", 43);
  one_key("escapes in names", gguf_key("a\x1b[31m", 99, ""), "\"a\\x1b[31m\"", "type", 14);

  const std::string twice = gguf_key("same", kGgufU32, le(1u));
  out.push_back({"duplicate key", gguf_head(0, 3) + twice + gguf_key("b", kGgufU8, "x") + twice,
                 "metadata key 2 \"same\": the key was given before, as metadata key 0", "key", kHead + 20 + 14});
  for (uint32_t type = 0; type <= 12; ++type) {   // the value is missing altogether
    const std::string bytes = gguf_head(0, 1) + gguf_key("abc", type, "");
    const char* field = type == kGgufArray ? "element type" : "value";
    if (bytes.size() - kHead >= 14) out.push_back({fmt::format("no {}", gguf_type_name(type)), bytes, "the file ends here", field, bytes.size()});
  }
}

void add_alignments(Cases& out) {
  const auto alignment = [&](uint32_t type, const std::string& value, std::string message, uint64_t at) {
    out.push_back({"alignment: " + message, gguf_head(0, 1) + gguf_key("general.alignment", type, value), message, "general.alignment", kHead + 25 + at});
  };
  for (const uint32_t n : {0u, 1u, 3u, 4u, 31u, 33u, 48u, 1u << 21, 1u << 31, 0xFFFFFFFFu})
    alignment(kGgufU32, le(n), fmt::format("expected a power of two from 8 to 1048576, found {}", n), 4);
  alignment(kGgufI32, le(32), "expected a value of type u32, found i32", 0);
  alignment(kGgufU64, le<uint64_t>(32), "expected a value of type u32, found u64", 0);
  alignment(kGgufU8, le<uint8_t>(32), "expected a value of type u32, found u8", 0);
  alignment(kGgufF32, le(32.0f), "expected a value of type u32, found f32", 0);
  alignment(kGgufString, gguf_text("32"), "expected a value of type u32, found string", 0);
  alignment(kGgufBool, le<uint8_t>(1), "expected a value of type u32, found bool", 0);
  alignment(kGgufArray, gguf_array(kGgufU32, 1, le(32u)), "expected a value of type u32, found array", 0);
}

void add_tensor_records(Cases& out) {
  // "w" is the name: the record has n_dims at 9, dims from 13 on.
  const auto one_tensor = [&](std::string name, const std::string& record, std::string message, std::string field, uint64_t at,
                              ErrorKind kind = ErrorKind::kBadModel) {
    out.push_back({std::move(name), padded(gguf_head(1, 0) + record) + std::string(4096, '\0'), std::move(message), std::move(field), kHead + at, kind});
  };
  one_tensor("empty tensor name", gguf_tensor("", {4}, kF32, 0), "the tensor's name is empty", "name", 0);
  one_tensor("tensor name of 64 bytes", gguf_tensor(std::string(64, 'n'), {4}, kF32, 0), "at most 63 bytes, found length 64", "name", 0);
  one_tensor("tensor name length wraps", le(UINT64_MAX) + std::string(40, 'x'), "found length 18446744073709551615", "name", 0);
  one_tensor("NUL in the tensor name", gguf_tensor(std::string("a\0b", 3), {4}, kF32, 0), "holds a NUL byte", "name", 0);
  for (const uint32_t n : {0u, 5u, 6u, 0x7FFFFFFFu, 0xFFFFFFFFu})
    one_tensor(fmt::format("{} dimensions", n), gguf_text("w") + le(n) + std::string(60, '\1'), fmt::format("expected 1 to 4 dimensions, found {}", n), "n_dims", 9);
  for (int dim = 0; dim < 4; ++dim)
    for (const int64_t value : {int64_t{0}, int64_t{-1}, INT64_MIN}) {
      std::vector<int64_t> dims(4, 4);
      dims[dim] = value;
      one_tensor(fmt::format("dimension {} is {}", dim, value), gguf_tensor("w", dims, kF32, 0),
                 fmt::format("tensor 0 \"w\": expected dimension {} to be at least 1, found {}", dim, value), "dims", 13 + 8 * dim);
    }
  constexpr int64_t k2p33 = int64_t{1} << 33, k2p31 = int64_t{1} << 31;
  one_tensor("2^33 x 2^33", gguf_tensor("w", {k2p33, k2p33}, kF32, 0), "the number of elements overflows 63 bits at dimension 1, which is 8589934592", "dims", 21);
  one_tensor("2^31 three times", gguf_tensor("w", {k2p31, k2p31, k2p31}, kF32, 0), "overflows 63 bits at dimension 2, which is 2147483648", "dims", 29);
  one_tensor("product wraps to 0", gguf_tensor("w", {k2p33, k2p31, 4, 1}, kF32, 0), "overflows 63 bits", "dims", 29 - 8);
  one_tensor("product wraps to 4", gguf_tensor("w", {(int64_t{1} << 62) + 1, 4}, kF32, 0), "overflows 63 bits", "dims", 21);
  one_tensor("bytes overflow", gguf_tensor("w", {int64_t{1} << 62}, kF32, 0), "the size in bytes of 4611686018427387904 F32 elements overflows", "dims", 13);
  one_tensor("Q8_0 bytes overflow", gguf_tensor("w", {INT64_MAX - 31}, kQ8_0, 0), "elements overflows 63 bits", "dims", 13);
  one_tensor("padding would wrap", gguf_tensor("w", {(int64_t{1} << 61) - 1}, kF32, 0), "reach past its end", "offset", 64 - kHead);
  for (const uint32_t type : {4u, 5u, 31u, 32u, 33u, 36u, 37u, 38u, 43u, 1000u, 0xFFFFFFFFu})
    one_tensor(fmt::format("tensor type {}", type), gguf_tensor("w", {256}, type, 0),
               fmt::format("expected a tensor type id of ggml, found {}, which is unknown or was removed", type), "type", 21);
  for (const auto& [type, type_name] : {std::pair{9u, "Q8_1"}, {15u, "Q8_K"}, {16u, "IQ2_XXS"}, {17u, "IQ2_XS"}, {18u, "IQ3_XXS"}, {19u, "IQ1_S"}, {21u, "IQ3_S"},
                                        {22u, "IQ2_S"}, {29u, "IQ1_M"}, {34u, "TQ1_0"}, {35u, "TQ2_0"}, {41u, "Q1_0"}, {42u, "Q2_0"}})
    one_tensor(fmt::format("foreign type {}", type_name), gguf_tensor("w", {256}, type, 0), fmt::format("tensor type {} (id {}) is not supported", type_name, type),
               "type", 21, ErrorKind::kUnsupported);
  for (const int64_t row : {1, 31, 33, 100})
    one_tensor(fmt::format("Q8_0 row of {}", row), gguf_tensor("w", {row, 4}, kQ8_0, 0),
               fmt::format("expected rows of whole 32-element Q8_0 blocks, found a row of {}", row), "dims", 13);
  one_tensor("Q4_K row of 128", gguf_tensor("w", {128, 2}, kQ4_K, 0), "expected rows of whole 256-element Q4_K blocks, found a row of 128", "dims", 13);
  for (const uint64_t offset : {uint64_t{1}, uint64_t{16}, uint64_t{33}, UINT64_MAX})
    one_tensor(fmt::format("offset {}", offset), gguf_tensor("w", {4}, kF32, offset), fmt::format("expected a multiple of the alignment 32, found {}", offset), "offset", 25);
}

void add_placements(Cases& out) {
  const auto two = [&](std::string name, uint64_t a, uint64_t b, uint64_t data_bytes, std::string message, uint64_t data_at) {
    // Each record has 33 bytes: the header ends at 90, the data section starts at 96. Each tensor has 64 bytes.
    const std::string head = padded(gguf_head(2, 0) + gguf_tensor("a", {16}, kF32, a) + gguf_tensor("b", {16}, kF32, b));
    out.push_back({std::move(name), head + std::string(data_bytes, '\0'), std::move(message), "offset", head.size() + data_at});
  };
  two("same place", 0, 0, 128, "tensor 1 \"b\": bytes [0, +64) overlap those of tensor \"a\" or its padding, which end at 64", 0);
  two("half overlap", 0, 32, 128, "bytes [32, +64) overlap those of tensor \"a\"", 32);
  two("overlap in reverse order", 32, 0, 128, "tensor 0 \"a\": bytes [32, +64) overlap those of tensor \"b\"", 32);
  two("hole", 0, 96, 256, "tensor 1 \"b\": expected the tensor at 64 of the data section, right after tensor \"a\", found it at 96", 96);
  two("hole at the start", 32, 96, 256, "expected the tensor at 0 of the data section, right after its start, found it at 32", 32);
  two("second tensor cut", 0, 64, 127, "tensor 1 \"b\": bytes [64, +64) of the data section reach past its end at 127: the file is cut short", 0);
  two("second tensor missing", 0, 64, 64, "reach past its end at 64", 0);
  two("no data", 0, 64, 0, "tensor 0 \"a\": bytes [0, +64) of the data section reach past its end at 0", 0);
  two("offset far away", 0, uint64_t{1} << 62, 128, "reach past its end at 128", 0);
  two("offset near 2^64", 0, UINT64_MAX - 31, 128, "bytes [18446744073709551584, +64) of the data section reach past its end", 0);

  const std::string record = gguf_tensor("a", {16}, kF32, 0);
  const std::string unpadded = gguf_head(1, 0) + record;
  out.push_back({"no padding", unpadded, "the data section starts at 64, but the file has 57 bytes", "data section", unpadded.size()});
  const std::string twice = gguf_head(2, 0) + record + gguf_tensor("a", {16}, kF32, 64);
  out.push_back({"duplicate tensor", padded(twice) + std::string(128, '\0'), "tensor 1 \"a\": the name was given before, to tensor 0", "name", kHead + record.size()});
  for (uint64_t n = 33; n < record.size() + 33; n += 5) {   // the second record is cut
    const std::string bytes = twice.substr(0, kHead + n);
    const uint64_t second = kHead + record.size();
    if (bytes.size() < second + 1 || bytes.size() - kHead < 66) continue;
    out.push_back({fmt::format("tensor table of {} bytes", n), bytes, "the data section starts", "data section", bytes.size()});
  }
}

}  // namespace

std::vector<BadGguf> bad_gguf_files() {
  Cases out;
  add_heads(out);
  add_keys(out);
  add_alignments(out);
  add_tensor_records(out);
  add_placements(out);
  return out;
}

}  // namespace sj::test
