// The bytes of an entry file: fixed header, meta (JSON), payload (ELF image). Every byte is under a checksum.
#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>

#include "cache/cubin_store.h"
#include "cache/little_endian.h"
#include "jit/base/error.h"
#include "jit/base/hash.h"

namespace sj {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kEntryMagic = "SJCUBIN\n";
constexpr uint32_t kFormatVersion = 1;

//  0 magic[8]   8 format u32   12 header bytes u32   16 key[32]   48 meta bytes u64   56 payload bytes u64
// 64 XXH3-128 of meta and payload   80 XXH3-128 of the 80 bytes before
constexpr size_t kKeyAt = 16, kMetaBytesAt = 48, kPayloadBytesAt = 56, kBodyHashAt = 64, kEntryHeaderHashAt = 80, kEntryHeaderBytes = 96;
constexpr size_t kKeyBytes = 32;

std::string meta_text(const Cubin& cubin) {
  const Json meta = {{"label", cubin.label},
                     {"entry", cubin.entry},
                     {"target", cubin.target},
                     {"compiler", cubin.compiler},
                     {"registers", cubin.resources.registers},
                     {"stack_bytes", cubin.resources.stack_bytes},
                     {"spill_bytes", cubin.resources.spill_bytes},
                     {"static_smem_bytes", cubin.resources.static_smem_bytes},
                     {"compile_us", cubin.compile_us}};
  return meta.dump();
}

std::optional<Cubin> parse_meta(std::string_view text) {
  try {
    const Json meta = Json::parse(text);
    Cubin cubin;
    meta.at("label").get_to(cubin.label);
    meta.at("entry").get_to(cubin.entry);
    meta.at("target").get_to(cubin.target);
    meta.at("compiler").get_to(cubin.compiler);
    meta.at("registers").get_to(cubin.resources.registers);
    meta.at("stack_bytes").get_to(cubin.resources.stack_bytes);
    meta.at("spill_bytes").get_to(cubin.resources.spill_bytes);
    meta.at("static_smem_bytes").get_to(cubin.resources.static_smem_bytes);
    meta.at("compile_us").get_to(cubin.compile_us);
    return cubin;
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

/// 120 for "sm_120f".
uint32_t arch_number(std::string_view target) {
  uint32_t arch = 0;
  if (target.starts_with("sm_")) std::from_chars(target.data() + 3, target.data() + target.size(), arch);
  return arch;
}

/// Empty when the header is sound and says that `file` is its whole entry.
std::string header_problem(std::span<const std::byte> file, const std::string& key) {
  if (file.size() < kEntryHeaderBytes) return fmt::format("{} bytes are less than a header", file.size());
  if (as_text(file.first(kEntryMagic.size())) != kEntryMagic) return "wrong magic";
  if (hash_bytes(file.first(kEntryHeaderHashAt)) != get_hash(file, kEntryHeaderHashAt)) return "header checksum differs";
  if (const uint32_t format = get_int<uint32_t>(file, 8); format != kFormatVersion)
    return fmt::format("format version {}, expected {}", format, kFormatVersion);
  if (get_int<uint32_t>(file, 12) != kEntryHeaderBytes) return "wrong header size";
  if (as_text(file.subspan(kKeyAt, kKeyBytes)) != key) return "key differs from the file name";
  const uint64_t meta_bytes = get_int<uint64_t>(file, kMetaBytesAt), payload_bytes = get_int<uint64_t>(file, kPayloadBytesAt);
  const uint64_t body_bytes = file.size() - kEntryHeaderBytes;
  if (meta_bytes > body_bytes || payload_bytes != body_bytes - meta_bytes)
    return fmt::format("{} bytes, header says {}", file.size(), kEntryHeaderBytes + meta_bytes + payload_bytes);
  return {};
}

}  // namespace

std::vector<std::byte> encode_entry(const std::string& key, const Cubin& cubin) {
  if (key.size() != kKeyBytes) throw Error(ErrorKind::kInternal, fmt::format("cache key {} is not of 32 digits", key));
  const std::string meta = meta_text(cubin);
  std::vector<std::byte> file(kEntryHeaderBytes + meta.size() + cubin.bytes.size());
  std::memcpy(file.data(), kEntryMagic.data(), kEntryMagic.size());
  put_int(std::span(file), 8, kFormatVersion);
  put_int(std::span(file), 12, static_cast<uint32_t>(kEntryHeaderBytes));
  std::memcpy(file.data() + kKeyAt, key.data(), kKeyBytes);
  put_int(std::span(file), kMetaBytesAt, static_cast<uint64_t>(meta.size()));
  put_int(std::span(file), kPayloadBytesAt, static_cast<uint64_t>(cubin.bytes.size()));
  std::memcpy(file.data() + kEntryHeaderBytes, meta.data(), meta.size());
  if (!cubin.bytes.empty()) std::memcpy(file.data() + kEntryHeaderBytes + meta.size(), cubin.bytes.data(), cubin.bytes.size());
  put_hash(file, kBodyHashAt, hash_bytes(std::span(file).subspan(kEntryHeaderBytes)));
  put_hash(file, kEntryHeaderHashAt, hash_bytes(std::span(file).first(kEntryHeaderHashAt)));
  return file;
}

std::optional<Cubin> decode_entry(std::span<const std::byte> file, const std::string& key, std::string* why) {
  const auto refuse = [&](std::string reason) -> std::optional<Cubin> {
    if (why != nullptr) *why = std::move(reason);
    return std::nullopt;
  };
  if (std::string problem = header_problem(file, key); !problem.empty()) return refuse(std::move(problem));
  const std::span<const std::byte> body = file.subspan(kEntryHeaderBytes);
  if (hash_bytes(body) != get_hash(file, kBodyHashAt)) return refuse("content checksum differs");
  const uint64_t meta_bytes = get_int<uint64_t>(file, kMetaBytesAt);
  std::optional<Cubin> cubin = parse_meta(as_text(body.first(meta_bytes)));
  if (!cubin) return refuse("meta can't be read");
  const std::span<const std::byte> payload = body.subspan(meta_bytes);
  // A checksum shows that the bytes are as written; this, that what was written is for the card it says.
  if (const uint32_t arch = cubin_arch(payload); arch != arch_number(cubin->target) || arch == 0)
    return refuse(fmt::format("code is for sm_{}, meta says {}", arch, cubin->target));
  cubin->bytes.assign(payload.begin(), payload.end());
  return cubin;
}

}  // namespace sj
