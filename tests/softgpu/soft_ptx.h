// Software twin of kernel_src/device/ptx.cuh: the same functions, the same results, for the host compiler. libsoftnvrtc puts
// it in place of every header named ptx.cuh.
#pragma once

#include "device/types.cuh"

namespace sj {

// ---- programmatic dependent launch

static inline void pdl_trigger() { soft_ops->pdl_trigger(); }
static inline void pdl_wait() { soft_ops->pdl_wait(); }

// ---- conversions. Bits are handled as integers, so that NaN and subnormals come out as on the device.

static inline float half_to_float(uint16_t bits) {
#ifdef __F16C__
  return static_cast<float>(__builtin_bit_cast(_Float16, bits));
#else
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, rest = bits & 0x7fff;
  if (rest >= 0x7c00) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ff) << 13);
  if (rest >= 0x400) return __uint_as_float(sign | (rest + 0x1c000) << 13);
  const float magnitude = static_cast<float>(rest) * 5.9604644775390625e-8f;  // 2^-24
  return sign != 0 ? -magnitude : magnitude;
#endif
}
static inline uint16_t float_to_half(float x) {
  const uint32_t bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return 0x7fff;  // the device's NaN
  if (rest >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00);
  if (rest < 0x38800000u) {  // below 2^-14: subnormal or zero; the sum's last bit is worth 2^-24
    const float sum = __uint_as_float(rest) + 0.5f;
    return static_cast<uint16_t>(sign | (__float_as_uint(sum) - 0x3f000000u));
  }
  const uint32_t rounded = rest + 0xfff + (rest >> 13 & 1) - 0x38000000u;
  return static_cast<uint16_t>(sign | rounded >> 13);
}
static inline uint32_t float_to_half2(float lo, float hi) {
  return static_cast<uint32_t>(float_to_half(hi)) << 16 | float_to_half(lo);
}
static inline uint16_t float_to_bf16(float x) {
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static inline uint32_t float_to_bf162(float lo, float hi) {
  return static_cast<uint32_t>(float_to_bf16(hi)) << 16 | float_to_bf16(lo);
}
static inline uint32_t e4m3x2_to_half2(uint16_t bits) {
  uint32_t halves = 0;
  for (int i = 0; i < 2; ++i) {
    const uint32_t byte = bits >> (8 * i) & 0xff, sign = (byte & 0x80) << 8, exponent = byte >> 3 & 15, mantissa = byte & 7;
    uint32_t half = 0;
    if ((byte & 0x7f) == 0x7f) half = 0x7fff;
    else if (exponent != 0) half = sign | (exponent + 8) << 10 | mantissa << 7;
    else half = sign | float_to_half(static_cast<float>(mantissa) * 0.001953125f);  // 2^-9
    halves |= half << (16 * i);
  }
  return halves;
}
static inline int32_t float_to_s8(float x) {
  const int32_t v = __float2int_rn(x);
  return v < -128 ? -128 : v > 127 ? 127 : v;
}

// ---- arithmetic

#define SOFT_DP4A(name, A, B, T)                                                                                       \
  static inline T name(uint32_t a, uint32_t b, T c) {                                                                  \
    uint32_t sum = static_cast<uint32_t>(c);                                                                           \
    for (int i = 0; i < 32; i += 8)                                                                                    \
      sum += static_cast<uint32_t>(static_cast<int>(static_cast<A>(a >> i)) * static_cast<int>(static_cast<B>(b >> i))); \
    return static_cast<T>(sum);                                                                                        \
  }
SOFT_DP4A(dp4a_ss, int8_t, int8_t, int32_t)
SOFT_DP4A(dp4a_us, uint8_t, int8_t, int32_t)
SOFT_DP4A(dp4a_su, int8_t, uint8_t, int32_t)
SOFT_DP4A(dp4a_uu, uint8_t, uint8_t, uint32_t)
#undef SOFT_DP4A

static inline uint32_t fma_half2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d = 0;
  for (int i = 0; i < 32; i += 16) {
    // A product of two halves is exact in double, and so is the sum to 53 bits; rounding to float first could round twice,
    // so the float is made odd when it isn't exact.
    const double exact = static_cast<double>(half_to_float(static_cast<uint16_t>(a >> i))) *
                             half_to_float(static_cast<uint16_t>(b >> i)) +
                         half_to_float(static_cast<uint16_t>(c >> i));
    float y = static_cast<float>(exact);
    if (static_cast<double>(y) != exact && exact - exact == 0) {
      uint32_t bits = __float_as_uint(y);
      const bool is_away = (y > 0) == (static_cast<double>(y) > exact);
      if ((bits & 1) == 0) bits = is_away ? bits - 1 : bits + 1;
      y = __uint_as_float(bits);
    }
    d |= static_cast<uint32_t>(float_to_half(y)) << i;
  }
  return d;
}
static inline float exp2_approx(float x) { return exp2f(x); }
static inline float rcp_approx(float x) { return 1.0f / x; }
static inline void compute_here(uint32_t&) {}
static inline void compute_here(float&) {}

// ---- loads and stores of global memory

#ifdef SOFT_CHECKED
#define SOFT_LOAD(T, name, kind)                                                                     \
  SOFT_UNCHECKED static __attribute__((noinline)) T name(const void* p) {                           \
    SOFT_ACCESS(p, sizeof(T), kind);                                                                 \
    return *static_cast<const T*>(p);                                                                \
  }
#else
#define SOFT_LOAD(T, name, kind) \
  static inline T name(const void* p) { return *static_cast<const T*>(p); }
#endif
SOFT_LOAD(uint4, ld_weight_v4, 3)
SOFT_LOAD(uint2, ld_weight_v2, 3)
SOFT_LOAD(uint32_t, ld_weight_u32, 3)
SOFT_LOAD(uint16_t, ld_weight_u16, 3)
SOFT_LOAD(uint8_t, soft_ld_weight_u8, 3)
static inline uint32_t ld_weight_u8(const void* p) { return soft_ld_weight_u8(p); }
SOFT_LOAD(uint32_t, ld_cg_u32, 0)
SOFT_LOAD(uint4, ld_cg_v4, 0)
#undef SOFT_LOAD

SOFT_ATOMIC uint32_t ld_acquire_gpu_u32(const uint32_t* p) {
  SOFT_ACCESS(p, 4, 2);
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
SOFT_ATOMIC void st_release_gpu_u32(uint32_t* p, uint32_t v) {
  SOFT_ACCESS(p, 4, 2);
  __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
SOFT_ATOMIC uint32_t atom_add_acq_rel_gpu_u32(uint32_t* p, uint32_t v) {
  SOFT_ACCESS(p, 4, 2);
  return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}
SOFT_ATOMIC void st_release_sys_u64(uint64_t* p, uint64_t v) {
  SOFT_ACCESS(p, 8, 2);
  __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
SOFT_ATOMIC uint64_t ld_acquire_sys_u64(const uint64_t* p) {
  SOFT_ACCESS(p, 8, 2);
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
static inline void fence_sys() { __threadfence_system(); }
static inline void prefetch_l2(const void*) {}

// ---- asynchronous copies, per thread: they land when the thread waits for them, never before

static inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(reinterpret_cast<size_t>(p)); }
static inline void cp_async_16(void* shared, const void* global) { soft_ops->async_copy(shared, global, 16, 16, 16); }
static inline void cp_async_16_zfill(void* shared, const void* global, uint32_t n_bytes) {
  soft_ops->async_copy(shared, global, 16, n_bytes, 16);
}
static inline void cp_async_4(void* shared, const void* global) { soft_ops->async_copy(shared, global, 4, 4, 4); }
static inline void cp_async_commit() { soft_ops->async_commit(); }
template <int kPending>
static inline void cp_async_wait() {
  soft_ops->async_wait(kPending);
}

// ---- mbarrier and bulk copies

static inline void mbarrier_init(uint64_t* barrier, uint32_t n_arrivals) { soft_ops->mbarrier_init(barrier, n_arrivals); }
static inline void fence_mbarrier_init() {}
static inline void mbarrier_inval(uint64_t* barrier) { soft_ops->mbarrier_init(barrier, 0); }
static inline void mbarrier_arrive(uint64_t* barrier) { soft_ops->mbarrier_arrive(barrier, 0); }
static inline void mbarrier_arrive_expect_tx(uint64_t* barrier, uint32_t n_bytes) {
  soft_ops->mbarrier_arrive(barrier, n_bytes);
}
static inline bool mbarrier_try_wait_parity(uint64_t* barrier, uint32_t parity) {
  return soft_ops->mbarrier_test(barrier, parity) != 0;
}
static inline void bulk_copy_to_shared(void* shared, const void* global, uint32_t n_bytes, uint64_t* barrier) {
  soft_ops->bulk_copy(shared, global, n_bytes, barrier);
}
static inline void bulk_prefetch_l2(const void*, uint32_t) {}
static inline void fence_proxy_async() {}

// ---- clusters of one block: a larger one ends the kernel at its first read of another block's memory

static inline uint32_t cluster_rank() { return 0; }
static inline void cluster_arrive() {}
static inline void cluster_wait() { __syncthreads(); }
static inline void store_cluster_f32(float* p, float v, uint32_t rank) {
  if (rank != 0) soft_ops->fail("a cluster of more than one block, which the software GPU has not");
  *p = v;
}

static inline void store_cluster_f32x4(float* p, float4 v, uint32_t rank) {
  if (rank != 0) soft_ops->fail("a cluster of more than one block, which the software GPU has not");
  *reinterpret_cast<float4*>(p) = v;
}

// ---- tensor cores: all 32 lanes bring their fragments, the last one multiplies. Fragment layouts: see ptx.cuh.

template <class C>
struct SoftMma {
  C* c;
  const uint32_t* a;
  const uint32_t* b;
};

// Element type readers: 16-bit fragments hold 2 elements a register, 8-bit ones 4.
struct SoftHalf { static float at(uint32_t r, uint32_t i) { return half_to_float(static_cast<uint16_t>(r >> (16 * i))); } };
struct SoftBf16 { static float at(uint32_t r, uint32_t i) { return __uint_as_float(r >> (16 * i) << 16); } };
struct SoftS8 { static int32_t at(uint32_t r, uint32_t i) { return static_cast<int8_t>(r >> (8 * i)); } };

template <class C, class Element, uint32_t kPerRegister, class Sum>
static void soft_mma(void** operands, unsigned) {
  constexpr uint32_t kHalfK = 4 * kPerRegister;  // columns of A that registers 0 and 1 hold
  const auto lane = [&](uint32_t l) { return static_cast<SoftMma<C>*>(operands[l]); };
  for (uint32_t l = 0; l < 32; ++l)
    if (operands[l] == nullptr) soft_ops->fail("mma.sync: a lane of the warp has exited");
  for (uint32_t row = 0; row < 16; ++row) {
    for (uint32_t col = 0; col < 8; ++col) {
      C& c = lane(row % 8 * 4 + col / 2)->c[col % 2 + row / 8 * 2];
      Sum sum = static_cast<Sum>(c);
      for (uint32_t k = 0; k < 2 * kHalfK; ++k) {
        const uint32_t i = k % kHalfK / kPerRegister, element = k % kPerRegister;
        sum += static_cast<Sum>(Element::at(lane(row % 8 * 4 + i)->a[row / 8 + k / kHalfK * 2], element)) *
               static_cast<Sum>(Element::at(lane(col * 4 + i)->b[k / kHalfK], element));
      }
      c = static_cast<C>(sum);
    }
  }
}
static inline void mma_m16n8k16_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], SOFT_PLACE_ARGS) {
  SOFT_PLACE("mma.m16n8k16.f16");
  SoftMma<float> op = {c, a, b};
  soft_ops->warp_collective(&soft_mma<float, SoftHalf, 2, float>, &op, kAllLanes, &soft_place);
}
static inline void mma_m16n8k16_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], SOFT_PLACE_ARGS) {
  SOFT_PLACE("mma.m16n8k16.bf16");
  SoftMma<float> op = {c, a, b};
  soft_ops->warp_collective(&soft_mma<float, SoftBf16, 2, float>, &op, kAllLanes, &soft_place);
}
static inline void mma_m16n8k32_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], SOFT_PLACE_ARGS) {
  SOFT_PLACE("mma.m16n8k32.s8");
  SoftMma<int32_t> op = {c, a, b};
  soft_ops->warp_collective(&soft_mma<int32_t, SoftS8, 4, uint32_t>, &op, kAllLanes, &soft_place);
}

struct SoftLdmatrix {
  uint32_t* r;
  const void* row;
};
template <bool kTrans>
static void soft_ldmatrix(void** operands, unsigned) {
  for (uint32_t l = 0; l < 32; ++l)
    if (operands[l] == nullptr) soft_ops->fail("ldmatrix: a lane of the warp has exited");
  for (uint32_t l = 0; l < 32; ++l) {
    for (uint32_t m = 0; m < 4; ++m) {
      uint32_t v = 0;
      for (uint32_t e = 0; e < 2; ++e) {
        const uint32_t row = kTrans ? l % 4 * 2 + e : l / 4, col = kTrans ? l / 4 : l % 4 * 2 + e;
        const SoftLdmatrix* const from = static_cast<const SoftLdmatrix*>(operands[m * 8 + row]);
        v |= static_cast<uint32_t>(static_cast<const uint16_t*>(from->row)[col]) << (16 * e);
      }
      static_cast<SoftLdmatrix*>(operands[l])->r[m] = v;
    }
  }
}
static inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, SOFT_PLACE_ARGS) {
  SOFT_PLACE("ldmatrix");
  SOFT_ACCESS(row, 16, 0);
  SoftLdmatrix op = {r, row};
  soft_ops->warp_collective(&soft_ldmatrix<false>, &op, kAllLanes, &soft_place);
}
static inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, SOFT_PLACE_ARGS) {
  SOFT_PLACE("ldmatrix.trans");
  SOFT_ACCESS(row, 16, 0);
  SoftLdmatrix op = {r, row};
  soft_ops->warp_collective(&soft_ldmatrix<true>, &op, kAllLanes, &soft_place);
}

// ---- clocks

static inline uint64_t global_timer_ns() { return static_cast<uint64_t>(clock64()); }
static inline void sleep_ns(uint32_t) { soft_ops->yield(); }

}  // namespace sj
