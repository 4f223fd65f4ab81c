// Checked access to one file's keys and tensors, for the architectures' describe functions: names in messages, shapes
// against hyperparameters, side scales, and tensors that nobody asked for. In: GgufFile. Out: WeightRefs and numbers.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/gguf_file.h"
#include "models/model_desc.h"

namespace sj {

/// Checked, named access to the tensors and the architecture's keys of one file. Remembers which tensors were asked for,
/// so that what a file holds beyond the architecture is noticed.
class DescReader {
 public:
  explicit DescReader(const GgufFile& file);

  const GgufFile& file() const { return file_; }
  /// "qwen3.attention.head_count" for "attention.head_count".
  std::string key(std::string_view suffix) const;
  bool has_key(std::string_view suffix) const { return file_.find(key(suffix)) != nullptr; }
  /// Throws kBadModel when absent or outside [lo, hi].
  uint32_t require_u32(std::string_view suffix, uint32_t lo, uint32_t hi) const;
  /// Like require_u32, with a fallback (checked as well) for an absent key.
  uint32_t get_u32(std::string_view suffix, uint32_t fallback, uint32_t lo, uint32_t hi) const;
  /// Throws kBadModel when not finite, or not positive.
  double get_positive(std::string_view suffix, double fallback) const;
  double require_positive(std::string_view suffix) const;

  bool has_tensor(std::string_view name) const { return file_.find_tensor(name) != nullptr; }
  /// A vector [dim].
  WeightRef require_vector(const std::string& name, uint64_t dim);
  std::optional<WeightRef> find_vector(const std::string& name, uint64_t dim);
  /// A matrix [n_rows, n_cols]; its side scale "X.scale" is recorded when the file has one.
  WeightRef require_matrix(const std::string& name, uint64_t n_rows, uint64_t n_cols);
  std::optional<WeightRef> find_matrix(const std::string& name, uint64_t n_rows, uint64_t n_cols);
  /// n_experts matrices [n_experts, n_rows, n_cols].
  WeightRef require_experts(const std::string& name, uint64_t n_experts, uint64_t n_rows, uint64_t n_cols);

  /// Values of a bound vector as double.
  std::vector<double> read_vector(const WeightRef& vector) const;

  /// Moves the side scales into `desc` and checks the tensors nobody asked for: those known to be without effect go to
  /// desc.ignored_tensors, any other throws kUnsupported (leaving it out would give wrong results).
  void finish(ModelDesc& desc);

 private:
  WeightRef bind(const std::string& name, std::vector<uint64_t> expected);
  void bind_scale(const std::string& name, uint64_t n_experts);

  const GgufFile& file_;
  std::string prefix_;
  std::set<std::string, std::less<>> used_;
  std::vector<std::pair<std::string, WeightRef>> scales_;
};

}  // namespace sj
