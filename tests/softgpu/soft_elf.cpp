#include "softgpu/soft_elf.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

namespace softgpu {
namespace {

constexpr uint16_t kMachineCuda = 190;
constexpr uint64_t kReservedShared = 1024;  ///< .nv.shared sections begin with it from sm_90 on
constexpr std::string_view kImageSection = ".softgpu.image";

template <class T>
void append(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

struct Section {
  std::string name;
  uint32_t type;
  std::string content;
  uint64_t nobits_size = 0;
  uint32_t link = 0;
  uint64_t entry_size = 0;
};

void append_info(std::string& out, uint8_t id, uint32_t symbol, uint32_t value) {
  out += '\x04';
  out += static_cast<char>(id);
  append<uint16_t>(out, 8);
  append(out, symbol);
  append(out, value);
}

/// Bounds are not checked: the image was made in this process or checked by the caller's magic.
const Elf64_Shdr* find_section(const char* base, std::string_view wanted) {
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(base);
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(base + header->e_shoff);
  const char* names = base + sections[header->e_shstrndx].sh_offset;
  for (uint16_t i = 0; i < header->e_shnum; ++i)
    if (names + sections[i].sh_name == wanted) return &sections[i];
  return nullptr;
}

}  // namespace

std::string write_cubin(const CubinParts& parts) {
  std::string strings(1, '\0'), symbols(sizeof(Elf64_Sym), '\0'), info;
  std::vector<Section> sections = {{"", SHT_NULL, ""}, {".shstrtab", SHT_STRTAB, ""}, {".strtab", SHT_STRTAB, ""},
                                   {".symtab", SHT_SYMTAB, "", 0, 2, sizeof(Elf64_Sym)}, {".nv.info", 0x70000000, ""}};
  uint32_t symbol_idx = 1;
  for (const std::string& entry : parts.entries) {
    Elf64_Sym symbol = {};
    symbol.st_name = static_cast<uint32_t>(strings.size());
    symbol.st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC);
    symbol.st_shndx = static_cast<uint16_t>(sections.size());
    strings += entry + '\0';
    append(symbols, symbol);
    append_info(info, 0x2f, symbol_idx, kRegisters);
    append_info(info, 0x11, symbol_idx, 0);
    ++symbol_idx;
    sections.push_back({".text." + entry, SHT_PROGBITS, std::string(16, '\0')});
    const uint64_t reserved = parts.arch >= 90 ? kReservedShared : 0;
    sections.push_back({".nv.shared." + entry, SHT_NOBITS, "", reserved + parts.static_shared_bytes});
  }
  sections.push_back({std::string(kImageSection), SHT_PROGBITS, parts.host_image});
  sections[2].content = strings;
  sections[3].content = symbols;
  sections[4].content = info;

  std::string names;
  std::vector<uint32_t> name_offsets;
  for (const Section& section : sections) {
    name_offsets.push_back(static_cast<uint32_t>(names.size()));
    names += section.name + '\0';
  }
  sections[1].content = names;

  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = kMachineCuda;
  header.e_version = EV_CURRENT;
  header.e_flags = parts.arch << 8;
  header.e_ehsize = sizeof header;
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = static_cast<uint16_t>(sections.size());
  header.e_shstrndx = 1;

  std::string out(sizeof header, '\0'), table;
  for (size_t i = 0; i < sections.size(); ++i) {
    out.resize((out.size() + 15) / 16 * 16);
    Elf64_Shdr row = {};
    row.sh_name = name_offsets[i];
    row.sh_type = sections[i].type;
    row.sh_offset = out.size();
    row.sh_size = sections[i].type == SHT_NOBITS ? sections[i].nobits_size : sections[i].content.size();
    row.sh_link = sections[i].link;
    row.sh_addralign = 16;
    row.sh_entsize = sections[i].entry_size;
    append(table, row);
    out += sections[i].content;
  }
  out.resize((out.size() + 15) / 16 * 16);
  header.e_shoff = out.size();
  std::memcpy(out.data(), &header, sizeof header);
  return out + table;
}

std::optional<CubinView> read_cubin(const void* bytes) {
  const char* const base = static_cast<const char*>(bytes);
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(base);
  if (std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 || header->e_machine != kMachineCuda) return std::nullopt;
  const Elf64_Shdr* image = find_section(base, kImageSection);
  if (image == nullptr) return std::nullopt;
  return CubinView{header->e_flags >> 8 & 0xff, {base + image->sh_offset, image->sh_size}};
}

std::vector<SharedVariable> shared_variables(std::string_view host_image, uint64_t padding) {
  std::vector<SharedVariable> variables;
  const char* const base = host_image.data();
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(base);
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(base + header->e_shoff);
  const Elf64_Shdr* const symtab = find_section(base, ".symtab");
  const Elf64_Shdr* const bss = find_section(base, ".bss");
  if (symtab == nullptr || bss == nullptr) return variables;
  const auto* symbols = reinterpret_cast<const Elf64_Sym*>(base + symtab->sh_offset);
  const char* const names = base + sections[symtab->sh_link].sh_offset;
  for (size_t i = 0; i < symtab->sh_size / sizeof(Elf64_Sym); ++i) {
    if (ELF64_ST_TYPE(symbols[i].st_info) != STT_OBJECT || &sections[symbols[i].st_shndx] != bss) continue;
    const std::string name = names + symbols[i].st_name;
    if (name.starts_with("soft_")) continue;
    variables.push_back({name, symbols[i].st_value, symbols[i].st_size - std::min(padding, symbols[i].st_size)});
  }
  std::sort(variables.begin(), variables.end(),
            [](const SharedVariable& a, const SharedVariable& b) { return a.address < b.address; });
  return variables;
}

}  // namespace softgpu
