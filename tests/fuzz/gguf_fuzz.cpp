// libFuzzer target of the GGUF reader: any bytes are either refused with a proper Error or open to a consistent file.
//   gguf_fuzz -dict=gguf.dict -timeout=1 -rss_limit_mb=512 -max_len=4096 WORK_CORPUS corpus/gguf
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "jit/base/error.h"
#include "models/gguf_file.h"
#include "tests/fuzz/require.h"

namespace {

template <class Get>
void may_refuse(const Get& get) {
  try {
    get();
  } catch (const sj::Error& error) {
    require(error.kind() == sj::ErrorKind::kBadModel);
  }
}

void read_everything(const sj::GgufFile& file, std::span<const std::byte> input) {
  for (const auto& [key, value] : file.metadata()) {
    require(file.find(key) == &value);
    may_refuse([&, &k = key] { file.require_u32(k); });
    may_refuse([&, &k = key] { file.require_f32(k); });
    may_refuse([&, &k = key] { file.get_bool(k, false); });
    may_refuse([&, &k = key] { file.require_string(k); });
    may_refuse([&, &k = key] { file.get_u32s(k, 3, 1); });
    may_refuse([&, &k = key] { file.get_f32s(k); });
    may_refuse([&, &k = key] { file.get_i32s(k); });
    may_refuse([&, &k = key] {
      uint64_t n_bytes = 0;
      for (const std::string_view text : file.require_strings(k)) n_bytes += text.size();
      require(n_bytes <= input.size());
    });
  }
  uint64_t n_bytes = 0;
  for (const sj::TensorInfo& tensor : file.tensors()) {
    require(file.find_tensor(tensor.name) == &tensor);
    require(tensor.n_rows() * tensor.row_elems() == tensor.n_elems() && tensor.n_elems() > 0);
    const std::span<const std::byte> bytes = file.bytes(tensor);
    require(bytes.size() == tensor.n_bytes && bytes.data() + bytes.size() <= input.data() + input.size());
    n_bytes += bytes.size();
    volatile auto last = bytes.back();   // AddressSanitizer looks at the range's end
    (void)last;
  }
  require(n_bytes <= input.size());   // else tensors overlap
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  try {
    read_everything(sj::gguf_from_memory(input, "fuzz"), input);
  } catch (const sj::Error& error) {
    require(error.kind() == sj::ErrorKind::kBadModel || error.kind() == sj::ErrorKind::kUnsupported);
    require(!error.message().empty() && error.where().find("file fuzz") != std::string::npos);
  }
  return 0;
}
