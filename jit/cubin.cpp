#include "jit/cubin.h"

#include <elf.h>
#include <fmt/format.h>

#include <cstring>
#include <optional>
#include <string_view>

#include "jit/base/error.h"

namespace sj {
namespace {

constexpr uint16_t kMachineCuda = 190;  // EM_CUDA

// Attributes of .nv.info sections: one byte format, one byte id, then two bytes of value or of payload length.
constexpr uint8_t kFormatSized = 0x04;
constexpr uint8_t kAttrFrameSize = 0x11;  // payload: symbol, bytes
constexpr uint8_t kAttrRegCount = 0x2f;   // payload: symbol, registers

/// Bounds-checked view of a 64-bit little-endian ELF image.
class ElfImage {
 public:
  static std::optional<ElfImage> open(std::span<const std::byte> bytes) {
    ElfImage image(bytes);
    const std::optional<Elf64_Ehdr> header = image.read<Elf64_Ehdr>(0);
    if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 || header->e_ident[EI_CLASS] != ELFCLASS64 ||
        header->e_ident[EI_DATA] != ELFDATA2LSB || header->e_machine != kMachineCuda)
      return std::nullopt;
    image.header_ = *header;
    return image;
  }

  const Elf64_Ehdr& header() const { return header_; }

  template <class T>
  std::optional<T> read(uint64_t offset) const {
    if (offset > bytes_.size() || bytes_.size() - offset < sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, bytes_.data() + offset, sizeof(T));
    return value;
  }

  std::optional<Elf64_Shdr> find_section(std::string_view name) const {
    const std::optional<Elf64_Shdr> names = section(header_.e_shstrndx);
    if (!names) return std::nullopt;
    for (uint16_t i = 0; i < header_.e_shnum; ++i) {
      const std::optional<Elf64_Shdr> candidate = section(i);
      if (candidate && text_at(*names, candidate->sh_name) == name) return candidate;
    }
    return std::nullopt;
  }

  std::span<const std::byte> content(const Elf64_Shdr& section) const {
    if (section.sh_offset > bytes_.size() || bytes_.size() - section.sh_offset < section.sh_size) return {};
    return bytes_.subspan(section.sh_offset, section.sh_size);
  }

  /// Name of symbol `idx`; empty when there is none.
  std::string_view symbol_name(uint32_t idx) const {
    const std::optional<Elf64_Shdr> symbols = find_section(".symtab");
    if (!symbols) return {};
    const std::optional<Elf64_Shdr> strings = section(static_cast<uint16_t>(symbols->sh_link));
    const std::optional<Elf64_Sym> symbol = read<Elf64_Sym>(symbols->sh_offset + uint64_t{idx} * sizeof(Elf64_Sym));
    if (!strings || !symbol) return {};
    return text_at(*strings, symbol->st_name);
  }

 private:
  explicit ElfImage(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::optional<Elf64_Shdr> section(uint16_t idx) const {
    if (idx >= header_.e_shnum || header_.e_shoff > bytes_.size()) return std::nullopt;
    return read<Elf64_Shdr>(header_.e_shoff + uint64_t{idx} * sizeof(Elf64_Shdr));
  }

  std::string_view text_at(const Elf64_Shdr& strings, uint32_t offset) const {
    const std::span<const std::byte> all = content(strings);
    if (offset >= all.size()) return {};
    const char* const begin = reinterpret_cast<const char*>(all.data()) + offset;
    return {begin, ::strnlen(begin, all.size() - offset)};
  }

  std::span<const std::byte> bytes_;
  Elf64_Ehdr header_ = {};
};

}  // namespace

uint32_t cubin_arch(std::span<const std::byte> bytes) {
  const std::optional<ElfImage> image = ElfImage::open(bytes);
  return image ? (image->header().e_flags >> 8) & 0xff : 0;
}

KernelResources read_resources(std::span<const std::byte> bytes, const std::string& entry) {
  const std::optional<ElfImage> image = ElfImage::open(bytes);
  if (!image) throw Error(ErrorKind::kInternal, fmt::format("cubin of {} is not a CUDA ELF image", entry));
  if (!image->find_section(".text." + entry))
    throw Error(ErrorKind::kInternal, fmt::format("cubin has no code section for the entry {}", entry));
  KernelResources resources;
  const std::optional<Elf64_Shdr> info = image->find_section(".nv.info");
  const uint64_t begin = info ? info->sh_offset : 0;
  const uint64_t end = info ? begin + image->content(*info).size() : 0;
  for (uint64_t pos = begin; pos + 4 <= end;) {
    const uint8_t format = *image->read<uint8_t>(pos), id = *image->read<uint8_t>(pos + 1);
    const uint16_t value = *image->read<uint16_t>(pos + 2);
    pos += 4;
    if (format != kFormatSized) continue;
    if ((id == kAttrFrameSize || id == kAttrRegCount) && value == 8) {
      const std::optional<uint32_t> symbol = image->read<uint32_t>(pos), amount = image->read<uint32_t>(pos + 4);
      if (symbol && amount && image->symbol_name(*symbol) == entry)
        (id == kAttrRegCount ? resources.registers : resources.stack_bytes) = *amount;
    }
    pos += value;
  }
  if (const std::optional<Elf64_Shdr> shared = image->find_section(".nv.shared." + entry)) {
    // From sm_90 on the section begins with the part that the system reserves; the kernel did not ask for it.
    const uint64_t reserved = cubin_arch(bytes) >= 90 ? 1024 : 0;
    resources.static_smem_bytes = static_cast<uint32_t>(shared->sh_size > reserved ? shared->sh_size - reserved : 0);
  }
  return resources;
}

}  // namespace sj
