// Composes a GGUF v3 file: metadata and tensor table first, then the caller fills the data section in any order.
// In: keys, values, tensor names, types and shapes. Out: header bytes and the place of each tensor. Called by synth, tests.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/gguf_file.h"

namespace sj {

class GgufWriter {
 public:
  /// `alignment`: a power of two from 8 on; other than 32 it is written as general.alignment.
  explicit GgufWriter(uint32_t alignment = 32);

  /// Keys keep the order of the calls; the caller keeps them unique.
  void put_u8(std::string_view key, uint8_t value);
  void put_u16(std::string_view key, uint16_t value);
  void put_u32(std::string_view key, uint32_t value);
  void put_i32(std::string_view key, int32_t value);
  void put_u64(std::string_view key, uint64_t value);
  void put_f32(std::string_view key, float value);
  void put_bool(std::string_view key, bool value);
  void put_string(std::string_view key, std::string_view value);
  void put_strings(std::string_view key, std::span<const std::string> values);
  void put_u32s(std::string_view key, std::span<const uint32_t> values);
  void put_i32s(std::string_view key, std::span<const int32_t> values);
  void put_f32s(std::string_view key, std::span<const float> values);

  /// Places the next tensor behind the last one. `shape`: slowest first, 1 to 4 dimensions. Throws kUsage for a shape that
  /// GGUF can't hold: a zero dimension, rows that are no whole blocks, a size over 63 bits, a name of 0 or over 63 bytes.
  void add_tensor(std::string_view name, DType dtype, std::vector<uint64_t> shape);

  /// Everything before the data section, padding included.
  std::string header() const;
  /// Tensors in file order; file_offset is final once all keys and tensors are in.
  std::vector<TensorInfo> tensors() const;
  /// Size of the whole file; the last tensor is padded like the others.
  uint64_t file_bytes() const;

 private:
  void put_key(std::string_view key, uint32_t type);
  template <class T>
  void put_scalar(std::string_view key, uint32_t type, T value);
  template <class T>
  void put_array(std::string_view key, uint32_t type, std::span<const T> values);

  uint64_t alignment_;
  uint64_t n_keys_ = 0;
  std::string keys_;
  uint64_t table_bytes_ = 0;         // of the tensor records
  uint64_t data_bytes_ = 0;
  std::vector<TensorInfo> tensors_;  // file_offset relative to the data section
};

}  // namespace sj
