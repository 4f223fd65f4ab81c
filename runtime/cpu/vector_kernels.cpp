#include "runtime/cpu/vector_kernels.h"

#include <array>

namespace sj {

#define SJ_DECLARE_ISA(isa)                    \
  namespace isa {                              \
  extern const VectorKernels<float> kF32;      \
  extern const VectorKernels<double> kF64;     \
  extern const RowDecoders kDecoders;          \
  }
SJ_DECLARE_ISA(cpu_base)
#if defined(__x86_64__)
SJ_DECLARE_ISA(cpu_avx2)
SJ_DECLARE_ISA(cpu_avx512)
#endif

namespace {

struct IsaList {
  std::array<CpuIsa, 3> isas{};
  size_t n = 0;
};

IsaList detect() {
  IsaList list;
  list.isas[list.n++] = {"base", &cpu_base::kF32, &cpu_base::kF64, &cpu_base::kDecoders};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    list.isas[list.n++] = {"avx2", &cpu_avx2::kF32, &cpu_avx2::kF64, &cpu_avx2::kDecoders};
  if (list.n == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    list.isas[list.n++] = {"avx512", &cpu_avx512::kF32, &cpu_avx512::kF64, &cpu_avx512::kDecoders};
#endif
  return list;
}

const IsaList& isa_list() {
  static const IsaList list = detect();
  return list;
}

}  // namespace

const CpuIsa& best_cpu_isa() { return isa_list().isas[isa_list().n - 1]; }
size_t n_cpu_isas() { return isa_list().n; }
const CpuIsa& cpu_isa(size_t idx) { return isa_list().isas.at(idx); }

}  // namespace sj
