// Weight layout and conversion: each tensor once, views inside of it, every byte as weight_layout.h says.
#include "runtime/weights.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>

#include "kernel_src/weight_layout.h"
#include "models/dequant.h"
#include "models/shape_file.h"
#include "models/synth.h"
#include "runtime/memory_plan.h"

namespace sj::weights_test {
namespace {

/// Tensors of random bytes in memory.
class MemoryWeights : public WeightSource {
 public:
  void add(const std::string& name, DType dtype, std::vector<uint64_t> shape) {
    TensorInfo info{.name = name, .dtype = dtype, .shape = std::move(shape)};
    info.n_bytes = info.n_elems() / dtype_info(dtype).block_elems * dtype_info(dtype).block_bytes;
    info.file_offset = end_;
    end_ += info.n_bytes;
    std::vector<std::byte> bytes(info.n_bytes);
    for (std::byte& b : bytes) b = static_cast<std::byte>(rng_() & 0x3F);   // no NaN or infinity in any type
    infos_[name] = info;
    bytes_[name] = std::move(bytes);
  }
  const TensorInfo& require_tensor(const std::string& name) const override {
    if (!infos_.contains(name)) throw Error(ErrorKind::kBadModel, "no tensor " + name);
    return infos_.at(name);
  }
  void read(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const override {
    ASSERT_LE(offset + out.size(), tensor.n_bytes) << tensor.name;
    std::memcpy(out.data(), bytes_.at(tensor.name).data() + offset, out.size());
  }
  std::span<const std::byte> bytes(const std::string& name) const { return bytes_.at(name); }

 private:
  std::map<std::string, TensorInfo> infos_;
  std::map<std::string, std::vector<std::byte>> bytes_;
  uint64_t end_ = 0;
  std::mt19937 rng_{1};
};

std::vector<Lowered> uses(std::vector<WeightUse> weights) {
  Lowered step;
  step.weights = std::move(weights);
  return {step};
}

WeightRef view(std::string tensor, uint64_t begin, uint64_t n_rows, uint64_t n_cols) {
  return {.tensor = std::move(tensor), .row_begin = begin, .n_rows = n_rows, .n_cols = n_cols};
}

/// All of the plan's memory, converted in pieces of at most `max_bytes`.
std::vector<std::byte> convert_all(const WeightSource& source, const WeightPlan& plan, uint64_t max_bytes) {
  std::vector<std::byte> memory(plan.n_bytes()), scratch;
  for (const WeightJob& job : weight_jobs(plan, max_bytes)) {
    const WeightPlan::Tensor& tensor = plan.tensors()[job.tensor];
    const uint64_t unit = tensor.form == WeightForm::kF32 ? 4 : tensor.row_bytes;
    convert_job(source, plan, job, std::span(memory).subspan(tensor.offset_bytes + job.begin * unit, job_bytes(plan, job)), scratch);
  }
  return memory;
}

TEST(WeightPlan, ViewsOfOneTensorShareItsMemory) {
  MemoryWeights source;
  source.add("qkv", DType::kQ8_0, {96, 64});
  const WeightUse q{view("qkv", 0, 64, 64)}, k{view("qkv", 64, 16, 64)}, v{view("qkv", 80, 16, 64)};
  const WeightPlan plan(source, uses({q, k, v}));
  ASSERT_EQ(plan.tensors().size(), 1u);
  const uint64_t record = row_record_bytes(DType::kQ8_0, 64);
  EXPECT_EQ(plan.offset_of(q), 0u);
  EXPECT_EQ(plan.offset_of(k), 64 * record);
  EXPECT_EQ(plan.offset_of(v), 80 * record);
}

TEST(WeightPlan, SlicesOfAVectorAreElements) {
  MemoryWeights source;
  source.add("bias", DType::kF32, {96});
  const WeightUse k{view("bias", 64, 16, 1), WeightForm::kF32};
  EXPECT_EQ(WeightPlan(source, uses({k})).offset_of(k), 64u * 4);
}

TEST(WeightPlan, OneTensorInTwoFormsIsStoredTwice) {
  MemoryWeights source;
  source.add("w", DType::kF32, {4, 64});
  const WeightUse rows{view("w", 0, 4, 64)}, floats{view("w", 0, 4, 64), WeightForm::kF32};
  const WeightPlan plan(source, uses({rows, floats, rows}));
  EXPECT_EQ(plan.tensors().size(), 2u);
  EXPECT_NE(plan.offset_of(rows), plan.offset_of(floats));
}

TEST(WeightPlan, UseOutsideOfTheTensorNamesIt) {
  MemoryWeights source;
  source.add("w", DType::kF32, {4, 64});
  try {
    const WeightPlan plan(source, uses({{view("w", 2, 3, 64)}}));
    FAIL() << "rows 2..5 of 4";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadModel);
    EXPECT_EQ(error.message(), "tensor w: rows up to 5 of 64 columns are used, found 256 elements");
  }
}

TEST(WeightPlan, MissingTensorIsABadModel) {
  const MemoryWeights source;
  try {
    const WeightPlan plan(source, uses({{view("w", 0, 1, 64)}}));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadModel);
  }
}

class ConvertJob : public testing::TestWithParam<uint64_t> {};

TEST_P(ConvertJob, RowRecordsEqualRepackedRows) {
  MemoryWeights source;
  const std::vector<DType> types = {DType::kF32, DType::kF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ6_K};
  std::vector<WeightUse> weights;
  for (DType dtype : types) {
    source.add(std::string(dtype_name(dtype)), dtype, {3, 5, 256});
    weights.push_back({view(std::string(dtype_name(dtype)), 0, 15, 256)});
  }
  const WeightPlan plan(source, uses(weights));
  const std::vector<std::byte> memory = convert_all(source, plan, GetParam());
  for (size_t i = 0; i < types.size(); ++i) {
    const uint64_t record = row_record_bytes(types[i], 256);
    const std::span<const std::byte> file = source.bytes(weights[i].ref.tensor);
    std::vector<std::byte> expected(record);
    for (uint64_t row = 0; row < 15; ++row) {
      repack_row(types[i], 256, file.subspan(row * file.size() / 15, file.size() / 15), expected);
      EXPECT_EQ(0, std::memcmp(memory.data() + plan.offset_of(weights[i]) + row * record, expected.data(), record))
          << dtype_name(types[i]) << " row " << row;
    }
  }
}

TEST_P(ConvertJob, FloatsEqualDequantisedElements) {
  MemoryWeights source;
  std::vector<WeightUse> weights;
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0}) {
    const std::string name(dtype_name(dtype));
    source.add(name, dtype, {1056});
    weights.push_back({view(name, 0, 1, 1056), WeightForm::kF32});
  }
  const WeightPlan plan(source, uses(weights));
  const std::vector<std::byte> memory = convert_all(source, plan, GetParam());
  for (const WeightUse& use : weights) {
    std::vector<float> expected(1056);
    dequantise(source.require_tensor(use.ref.tensor).dtype, source.bytes(use.ref.tensor), expected.data(), expected.size());
    EXPECT_EQ(0, std::memcmp(memory.data() + plan.offset_of(use), expected.data(), 4 * expected.size())) << use.ref.tensor;
  }
}

INSTANTIATE_TEST_SUITE_P(PieceSizes, ConvertJob, testing::Values(1, 1500, 1 << 20));

// Pieces of float tensors begin and end inside rows.
TEST(SyntheticWeights, AnyPieceIsThatOfTheWholeTensor) {
  const ShapeFile shape = load_shape("smollm2-135m");
  const GgufFile file = synthetic_gguf(shape, {.n_layers = 1, .seed = 3});
  const SyntheticWeights source(file, 3);
  for (const char* name : {"blk.0.attn_k.weight", "blk.0.attn_norm.weight"}) {
    const TensorInfo& tensor = source.require_tensor(name);
    std::vector<std::byte> whole(tensor.n_bytes);
    synthesise_tensor(tensor, 3, 0, whole);
    for (const auto& [offset, n] : {std::pair<uint64_t, uint64_t>{0, tensor.n_bytes}, {4, 8}, {tensor.n_bytes - 12, 12}, {1000, 1200}}) {
      std::vector<std::byte> piece(n);
      source.read(tensor, offset, piece);
      EXPECT_EQ(std::memcmp(piece.data(), whole.data() + offset, n), 0) << name << " from " << offset;
    }
  }
  EXPECT_THROW(source.require_tensor("blk.1.attn_k.weight"), Error);
}

TEST(WeightJobs, CoverEveryRowOnceInFileOrder) {
  MemoryWeights source;
  source.add("b", DType::kQ8_0, {100, 64});
  source.add("a", DType::kF16, {7, 64});
  const WeightPlan plan(source, uses({{view("a", 0, 7, 64)}, {view("b", 0, 100, 64)}}));
  const std::vector<WeightJob> jobs = weight_jobs(plan, 1000);
  EXPECT_EQ(plan.tensors()[jobs.front().tensor].info->name, "b") << "first in the file";
  std::map<size_t, uint64_t> next;
  for (const WeightJob& job : jobs) {
    EXPECT_EQ(job.begin, next[job.tensor]);
    EXPECT_LE(job_bytes(plan, job), 1000u);
    next[job.tensor] = job.end;
  }
  EXPECT_EQ(next[0], 7u);
  EXPECT_EQ(next[1], 100u);
}

}  // namespace
}  // namespace sj::weights_test
