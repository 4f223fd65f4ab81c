// What NVRTC gives to device text without any header, for the host compiler: keywords, built-in variables, vector types,
// barriers, warp collectives, atomics, math. In front of every translation unit that libsoftnvrtc compiles.
#pragma once

#pragma GCC visibility push(hidden)

extern "C" {
extern const SoftThread* soft_current;
extern SoftBlock soft_block;
extern const SoftOps* soft_ops;
}

#define __CUDACC__ 1
#define __CUDACC_RTC__ 1
#define __NVCC__ 1
#define __CUDA_ARCH__ SOFT_CUDA_ARCH

#define __global__ __attribute__((used, noinline))
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __cluster_dims__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __attribute__((aligned(n)))

typedef decltype(sizeof(0)) size_t;
typedef decltype(static_cast<char*>(nullptr) - static_cast<char*>(nullptr)) ptrdiff_t;

// ---- built-in variables and vector types

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}
};

#define SOFT_VECTOR(T, base, a1, a2, a4)                                                                       \
  struct base##1 { T x; };                                                                                     \
  struct alignas(a2) base##2 { T x, y; };                                                                      \
  struct base##3 { T x, y, z; };                                                                               \
  struct alignas(a4) base##4 { T x, y, z, w; };                                                                \
  static inline constexpr base##1 make_##base##1(T x) { return {x}; }                                          \
  static inline constexpr base##2 make_##base##2(T x, T y) { return {x, y}; }                                  \
  static inline constexpr base##3 make_##base##3(T x, T y, T z) { return {x, y, z}; }                          \
  static inline constexpr base##4 make_##base##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SOFT_VECTOR(unsigned, uint, 4, 8, 16)
SOFT_VECTOR(signed char, char, 1, 2, 4)
SOFT_VECTOR(unsigned char, uchar, 1, 2, 4)
SOFT_VECTOR(short, short, 2, 4, 8)
SOFT_VECTOR(unsigned short, ushort, 2, 4, 8)
SOFT_VECTOR(int, int, 4, 8, 16)
SOFT_VECTOR(long, long, 8, 16, 16)
SOFT_VECTOR(unsigned long, ulong, 8, 16, 16)
SOFT_VECTOR(long long, longlong, 8, 16, 16)
SOFT_VECTOR(unsigned long long, ulonglong, 8, 16, 16)
SOFT_VECTOR(float, float, 4, 8, 16)
SOFT_VECTOR(double, double, 8, 16, 16)
#undef SOFT_VECTOR

#define threadIdx (*reinterpret_cast<const uint3*>(&soft_current->tid_x))
#define gridDim (*reinterpret_cast<const uint3*>(&soft_block.grid_x))
#define blockDim (*reinterpret_cast<const uint3*>(&soft_block.dim_x))
#define blockIdx (*reinterpret_cast<const uint3*>(&soft_block.idx_x))
static const int warpSize = 32;

// ---- barriers and warp collectives

#define SOFT_PLACE_ARGS const char *soft_file = __builtin_FILE(), int soft_line = __builtin_LINE()
#define SOFT_PLACE(name) const SoftPlace soft_place = {name, soft_file, soft_line}

static inline void __syncthreads(SOFT_PLACE_ARGS) {
  SOFT_PLACE("__syncthreads");
  soft_ops->block_barrier(0, &soft_place);
}
static inline int __syncthreads_count(int predicate, SOFT_PLACE_ARGS) {
  SOFT_PLACE("__syncthreads_count");
  return static_cast<int>(soft_ops->block_barrier(predicate != 0, &soft_place));
}
static inline int __syncthreads_and(int predicate, SOFT_PLACE_ARGS) {
  SOFT_PLACE("__syncthreads_and");
  return soft_ops->block_barrier(predicate == 0, &soft_place) == 0;
}
static inline int __syncthreads_or(int predicate, SOFT_PLACE_ARGS) {
  SOFT_PLACE("__syncthreads_or");
  return soft_ops->block_barrier(predicate != 0, &soft_place) != 0;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, SOFT_PLACE_ARGS) {
  SOFT_PLACE("__syncwarp");
  soft_ops->warp_collective(nullptr, nullptr, mask, &soft_place);
}

// The operand of a shuffle: `source` is a lane, or -1 for "my own value".
template <class T>
struct SoftShuffle {
  T value, result;
  int source;
  static void run(void** operands, unsigned mask) {
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
      SoftShuffle* const me = static_cast<SoftShuffle*>(operands[__builtin_ctz(rest)]);
      if (me == nullptr) continue;  // exited
      if (me->source < 0) {
        me->result = me->value;
        continue;
      }
      const SoftShuffle* const from = static_cast<const SoftShuffle*>(operands[me->source]);
      if (from == nullptr) soft_ops->fail("a shuffle reads the value of a lane that takes no part in it");
      me->result = from->value;
    }
  }
};

template <class T>
static inline T soft_shuffle(unsigned mask, T value, int source, const SoftPlace& place) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  SoftShuffle<T> op = {value, value, source};
  soft_ops->warp_collective(&SoftShuffle<T>::run, &op, mask, &place);
  return op.result;
}

template <class T>
static inline T __shfl_sync(unsigned mask, T v, int source, int width = 32, SOFT_PLACE_ARGS) {
  SOFT_PLACE("__shfl_sync");
  const int lane = static_cast<int>(soft_current->lane);
  return soft_shuffle(mask, v, (lane & ~(width - 1)) | (source & (width - 1)), soft_place);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T v, int lane_mask, int width = 32, SOFT_PLACE_ARGS) {
  SOFT_PLACE("__shfl_xor_sync");
  const int lane = static_cast<int>(soft_current->lane), source = lane ^ lane_mask;
  return soft_shuffle(mask, v, source < ((lane & ~(width - 1)) + width) ? source : -1, soft_place);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, SOFT_PLACE_ARGS) {
  SOFT_PLACE("__shfl_up_sync");
  const int lane = static_cast<int>(soft_current->lane), source = lane - static_cast<int>(delta);
  return soft_shuffle(mask, v, source >= (lane & ~(width - 1)) ? source : -1, soft_place);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, SOFT_PLACE_ARGS) {
  SOFT_PLACE("__shfl_down_sync");
  const int lane = static_cast<int>(soft_current->lane), source = lane + static_cast<int>(delta);
  return soft_shuffle(mask, v, source < ((lane & ~(width - 1)) + width) ? source : -1, soft_place);
}

struct SoftVote {
  int predicate;
  unsigned ballot, voters;
  static void run(void** operands, unsigned mask) {
    unsigned ballot = 0, voters = 0;
    for (unsigned l = 0; l < 32; ++l)
      if ((mask >> l & 1) && operands[l] != nullptr) {
        voters |= 1u << l;
        if (static_cast<SoftVote*>(operands[l])->predicate != 0) ballot |= 1u << l;
      }
    for (unsigned l = 0; l < 32; ++l)
      if (voters >> l & 1) static_cast<SoftVote*>(operands[l])->ballot = ballot, static_cast<SoftVote*>(operands[l])->voters = voters;
  }
};
static inline SoftVote soft_vote(unsigned mask, int predicate, const SoftPlace& place) {
  SoftVote op = {predicate, 0, 0};
  soft_ops->warp_collective(&SoftVote::run, &op, mask, &place);
  return op;
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, SOFT_PLACE_ARGS) {
  SOFT_PLACE("__ballot_sync");
  return soft_vote(mask, predicate, soft_place).ballot;
}
static inline int __any_sync(unsigned mask, int predicate, SOFT_PLACE_ARGS) {
  SOFT_PLACE("__any_sync");
  return soft_vote(mask, predicate, soft_place).ballot != 0;
}
static inline int __all_sync(unsigned mask, int predicate, SOFT_PLACE_ARGS) {
  SOFT_PLACE("__all_sync");
  const SoftVote vote = soft_vote(mask, predicate, soft_place);
  return vote.ballot == vote.voters;
}
static inline unsigned __activemask() { return 1u << soft_current->lane; }

template <class T>
struct SoftMatch {
  T value;
  unsigned same;
  int all;
  static void run(void** operands, unsigned mask) {
    bool all = true;
    for (unsigned a = 0; a < 32; ++a) {
      if (!(mask >> a & 1) || operands[a] == nullptr) continue;
      SoftMatch* const me = static_cast<SoftMatch*>(operands[a]);
      me->same = 0;
      for (unsigned b = 0; b < 32; ++b) {
        if (!(mask >> b & 1) || operands[b] == nullptr) continue;
        if (__builtin_memcmp(&static_cast<SoftMatch*>(operands[b])->value, &me->value, sizeof(T)) == 0) me->same |= 1u << b;
        else all = false;
      }
    }
    for (unsigned a = 0; a < 32; ++a)
      if ((mask >> a & 1) && operands[a] != nullptr) static_cast<SoftMatch*>(operands[a])->all = all;
  }
};
template <class T>
static inline unsigned __match_any_sync(unsigned mask, T v, SOFT_PLACE_ARGS) {
  SOFT_PLACE("__match_any_sync");
  SoftMatch<T> op = {v, 0, 0};
  soft_ops->warp_collective(&SoftMatch<T>::run, &op, mask, &soft_place);
  return op.same;
}
template <class T>
static inline unsigned __match_all_sync(unsigned mask, T v, int* predicate, SOFT_PLACE_ARGS) {
  SOFT_PLACE("__match_all_sync");
  SoftMatch<T> op = {v, 0, 0};
  soft_ops->warp_collective(&SoftMatch<T>::run, &op, mask, &soft_place);
  *predicate = op.all;
  return op.all ? op.same : 0;
}

template <class T, int kOp>  // 0 add, 1 min, 2 max, 3 and, 4 or, 5 xor
struct SoftReduce {
  T value;
  static void run(void** operands, unsigned mask) {
    bool has_any = false;
    T sum = {};
    for (unsigned l = 0; l < 32; ++l) {
      if (!(mask >> l & 1) || operands[l] == nullptr) continue;
      const T v = static_cast<SoftReduce*>(operands[l])->value;
      if (!has_any) sum = v;
      else if constexpr (kOp == 0) sum = static_cast<T>(static_cast<unsigned>(sum) + static_cast<unsigned>(v));
      else if constexpr (kOp == 1) sum = v < sum ? v : sum;
      else if constexpr (kOp == 2) sum = v > sum ? v : sum;
      else if constexpr (kOp == 3) sum &= v;
      else if constexpr (kOp == 4) sum |= v;
      else sum ^= v;
      has_any = true;
    }
    for (unsigned l = 0; l < 32; ++l)
      if ((mask >> l & 1) && operands[l] != nullptr) static_cast<SoftReduce*>(operands[l])->value = sum;
  }
};
#define SOFT_REDUCE(T, name, op)                                                  \
  static inline T name(unsigned mask, T v, SOFT_PLACE_ARGS) {                     \
    SOFT_PLACE(#name);                                                            \
    SoftReduce<T, op> operand = {v};                                              \
    soft_ops->warp_collective(&SoftReduce<T, op>::run, &operand, mask, &soft_place); \
    return operand.value;                                                         \
  }
SOFT_REDUCE(unsigned, __reduce_add_sync, 0) SOFT_REDUCE(int, __reduce_add_sync, 0)
SOFT_REDUCE(unsigned, __reduce_min_sync, 1) SOFT_REDUCE(int, __reduce_min_sync, 1)
SOFT_REDUCE(unsigned, __reduce_max_sync, 2) SOFT_REDUCE(int, __reduce_max_sync, 2)
SOFT_REDUCE(unsigned, __reduce_and_sync, 3) SOFT_REDUCE(unsigned, __reduce_or_sync, 4)
SOFT_REDUCE(unsigned, __reduce_xor_sync, 5)
#undef SOFT_REDUCE

static inline void __threadfence() { soft_ops->fence(); __atomic_thread_fence(5); }
static inline void __threadfence_block() { __atomic_thread_fence(5); }
static inline void __threadfence_system() { soft_ops->fence(); __atomic_thread_fence(5); }
static inline void __nanosleep(unsigned) { soft_ops->yield(); }
static inline void __trap() { soft_ops->fail("__trap()"); }
static inline void __brkpt() {}
static inline void __prof_trigger(int) {}
#define assert(condition) \
  do { if (!(condition)) soft_ops->fail("assertion failed: " #condition); } while (false)
extern "C" int printf(const char*, ...);

static inline size_t __cvta_generic_to_shared(const void* p) { return reinterpret_cast<size_t>(p); }
static inline size_t __cvta_generic_to_global(const void* p) { return reinterpret_cast<size_t>(p); }

// ---- atomics: relaxed order is what the language promises; the host's are at least as strong

#ifdef SOFT_CHECKED
#define SOFT_UNCHECKED __attribute__((no_sanitize("thread")))
#define SOFT_ACCESS(p, n, kind) soft_ops->check_access(p, n, kind, __builtin_return_address(0))
#else
#define SOFT_UNCHECKED
#define SOFT_ACCESS(p, n, kind) (void)0
#endif
#define SOFT_ATOMIC SOFT_UNCHECKED static __attribute__((noinline))

#define SOFT_ATOMIC_INT(T)                                                                                         \
  SOFT_ATOMIC T atomicAdd(T* p, T v) { SOFT_ACCESS(p, sizeof(T), 2); return __atomic_fetch_add(p, v, 4); }            \
  SOFT_ATOMIC T atomicAnd(T* p, T v) { SOFT_ACCESS(p, sizeof(T), 2); return __atomic_fetch_and(p, v, 4); }            \
  SOFT_ATOMIC T atomicOr(T* p, T v) { SOFT_ACCESS(p, sizeof(T), 2); return __atomic_fetch_or(p, v, 4); }              \
  SOFT_ATOMIC T atomicXor(T* p, T v) { SOFT_ACCESS(p, sizeof(T), 2); return __atomic_fetch_xor(p, v, 4); }            \
  SOFT_ATOMIC T atomicExch(T* p, T v) { SOFT_ACCESS(p, sizeof(T), 2); return __atomic_exchange_n(p, v, 4); }          \
  SOFT_ATOMIC T atomicCAS(T* p, T expected, T v) {                                                                \
    SOFT_ACCESS(p, sizeof(T), 2);                                                                                  \
    __atomic_compare_exchange_n(p, &expected, v, false, 4, 4);                                                     \
    return expected;                                                                                               \
  }                                                                                                                \
  SOFT_ATOMIC T atomicMin(T* p, T v) {                                                                            \
    SOFT_ACCESS(p, sizeof(T), 2);                                                                                  \
    T old = __atomic_load_n(p, 0);                                                                                 \
    while (!__atomic_compare_exchange_n(p, &old, v < old ? v : old, false, 4, 0)) {}                               \
    return old;                                                                                                    \
  }                                                                                                                \
  SOFT_ATOMIC T atomicMax(T* p, T v) {                                                                            \
    SOFT_ACCESS(p, sizeof(T), 2);                                                                                  \
    T old = __atomic_load_n(p, 0);                                                                                 \
    while (!__atomic_compare_exchange_n(p, &old, v > old ? v : old, false, 4, 0)) {}                               \
    return old;                                                                                                    \
  }
SOFT_ATOMIC_INT(int) SOFT_ATOMIC_INT(unsigned) SOFT_ATOMIC_INT(unsigned long long) SOFT_ATOMIC_INT(long long)
#undef SOFT_ATOMIC_INT
static inline int atomicSub(int* p, int v) { return atomicAdd(p, -v); }
static inline unsigned atomicSub(unsigned* p, unsigned v) { return atomicAdd(p, 0u - v); }
SOFT_ATOMIC unsigned atomicInc(unsigned* p, unsigned limit) {
  SOFT_ACCESS(p, 4, 2);
  unsigned old = __atomic_load_n(p, 0);
  while (!__atomic_compare_exchange_n(p, &old, old >= limit ? 0 : old + 1, false, 4, 0)) {}
  return old;
}
SOFT_ATOMIC unsigned atomicDec(unsigned* p, unsigned limit) {
  SOFT_ACCESS(p, 4, 2);
  unsigned old = __atomic_load_n(p, 0);
  while (!__atomic_compare_exchange_n(p, &old, old == 0 || old > limit ? limit : old - 1, false, 4, 0)) {}
  return old;
}
SOFT_ATOMIC float atomicAdd(float* p, float v) {
  SOFT_ACCESS(p, 4, 2);
  float old, next;
  __atomic_load(p, &old, 0);
  do next = old + v;
  while (!__atomic_compare_exchange(p, &old, &next, false, 4, 0));
  return old;
}
SOFT_ATOMIC double atomicAdd(double* p, double v) {
  SOFT_ACCESS(p, 8, 2);
  double old, next;
  __atomic_load(p, &old, 0);
  do next = old + v;
  while (!__atomic_compare_exchange(p, &old, &next, false, 4, 0));
  return old;
}
SOFT_ATOMIC float atomicExch(float* p, float v) {
  SOFT_ACCESS(p, 4, 2);
  float old;
  __atomic_exchange(p, &v, &old, 4);
  return old;
}

// ---- loads with a cache hint

template <class T> static inline T __ldg(const T* p) { return *p; }
template <class T> static inline T __ldcg(const T* p) { return *p; }
template <class T> static inline T __ldca(const T* p) { return *p; }
template <class T> static inline T __ldcs(const T* p) { return *p; }
template <class T> static inline T __ldlu(const T* p) { return *p; }
template <class T> static inline T __ldcv(const T* p) { return *p; }
template <class T> static inline void __stcg(T* p, T v) { *p = v; }
template <class T> static inline void __stcs(T* p, T v) { *p = v; }
template <class T> static inline void __stwb(T* p, T v) { *p = v; }
template <class T> static inline void __stwt(T* p, T v) { *p = v; }

// ---- bits and integers

static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }
static inline int __clzll(long long v) { return v == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(v)); }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline unsigned __brev(unsigned v) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (v >> i & 1u) << (31 - i);
  return r;
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
  const unsigned long long all = static_cast<unsigned long long>(b) << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned select = s >> (4 * i) & 15;
    unsigned byte = static_cast<unsigned>(all >> (8 * (select & 7))) & 0xff;
    if (select & 8) byte = byte & 0x80 ? 0xff : 0;
    r |= byte << (8 * i);
  }
  return r;
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned s) {
  return static_cast<unsigned>((static_cast<unsigned long long>(hi) << 32 | lo) << (s & 31) >> 32);
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned s) {
  return static_cast<unsigned>((static_cast<unsigned long long>(hi) << 32 | lo) >> (s & 31));
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32); }
static inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<long long>(a) * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
static inline int __mul24(int a, int b) { return (a << 8 >> 8) * (b << 8 >> 8); }
static inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffff) * (b & 0xffffff); }
static inline int __dp4a(int a, int b, int c) {
  unsigned sum = static_cast<unsigned>(c);
  for (int i = 0; i < 4; ++i)
    sum += static_cast<unsigned>(static_cast<signed char>(a >> (8 * i)) * static_cast<signed char>(b >> (8 * i)));
  return static_cast<int>(sum);
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; ++i) c += (a >> (8 * i) & 0xff) * (b >> (8 * i) & 0xff);
  return c;
}
#define SOFT_BYTES(name, expression)                                                          \
  static inline unsigned name(unsigned a, unsigned b) {                                       \
    unsigned r = 0;                                                                           \
    for (int i = 0; i < 32; i += 8) {                                                         \
      const int x = static_cast<int>(a >> i & 0xff), y = static_cast<int>(b >> i & 0xff);     \
      r |= (static_cast<unsigned>(expression) & 0xff) << i;                                   \
    }                                                                                         \
    return r;                                                                                 \
  }
SOFT_BYTES(__vadd4, x + y) SOFT_BYTES(__vsub4, x - y) SOFT_BYTES(__vcmpeq4, x == y ? 0xff : 0)
SOFT_BYTES(__vcmpne4, x != y ? 0xff : 0) SOFT_BYTES(__vcmpgeu4, x >= y ? 0xff : 0)
#undef SOFT_BYTES
static inline unsigned __vsubss4(unsigned a, unsigned b) {
  unsigned r = 0;
  for (int i = 0; i < 32; i += 8) {
    const int d = static_cast<signed char>(a >> i) - static_cast<signed char>(b >> i);
    r |= (static_cast<unsigned>(d < -128 ? -128 : d > 127 ? 127 : d) & 0xff) << i;
  }
  return r;
}

#define SOFT_MIN_MAX(T)                                                  \
  static inline constexpr T min(T a, T b) { return b < a ? b : a; }      \
  static inline constexpr T max(T a, T b) { return a < b ? b : a; }
SOFT_MIN_MAX(int) SOFT_MIN_MAX(unsigned) SOFT_MIN_MAX(long) SOFT_MIN_MAX(unsigned long)
SOFT_MIN_MAX(long long) SOFT_MIN_MAX(unsigned long long)
#undef SOFT_MIN_MAX

// ---- floating point

extern "C" {
float sqrtf(float); float cbrtf(float); float expf(float); float exp2f(float); float expm1f(float); float logf(float);
float log2f(float); float log10f(float); float log1pf(float); float powf(float, float); float sinf(float); float cosf(float);
float tanf(float); float tanhf(float); float sinhf(float); float coshf(float); float atanf(float); float atan2f(float, float);
float asinf(float); float acosf(float); float erff(float); float erfcf(float); float fabsf(float); float floorf(float);
float ceilf(float); float truncf(float); float rintf(float); float nearbyintf(float); float roundf(float); float fmodf(float, float);
float fmaf(float, float, float); float fminf(float, float); float fmaxf(float, float); float copysignf(float, float);
float ldexpf(float, int); float hypotf(float, float); void sincosf(float, float*, float*); float frexpf(float, int*);
double sqrt(double); double exp(double); double exp2(double); double log(double); double log2(double); double pow(double, double);
double sin(double); double cos(double); double tanh(double); double fabs(double); double floor(double); double ceil(double);
double trunc(double); double rint(double); double round(double); double fma(double, double, double); double fmin(double, double);
double fmax(double, double); double erf(double); double ldexp(double, int); void sincos(double, double*, double*);
long lrintf(float); long lroundf(float); void* memcpy(void*, const void*, size_t); void* memset(void*, int, size_t);
}
static inline int abs(int v) { return v < 0 ? -v : v; }
static inline long long llabs(long long v) { return v < 0 ? -v : v; }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline bool isnan(float v) { return __builtin_isnan(v); }
static inline bool isinf(float v) { return __builtin_isinf(v); }
static inline bool isfinite(float v) { return __builtin_isfinite(v); }
static inline bool signbit(float v) { return __builtin_signbit(v); }
static inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
static inline double rsqrt(double v) { return 1.0 / sqrt(v); }
static inline float exp10f(float v) { return powf(10.0f, v); }
static inline float sinpif(float v) { return static_cast<float>(sin(3.14159265358979323846 * v)); }
static inline float cospif(float v) { return static_cast<float>(cos(3.14159265358979323846 * v)); }
static inline void sincospif(float v, float* s, float* c) { *s = sinpif(v); *c = cospif(v); }
static inline float normcdff(float v) { return 0.5f * erfcf(-v * 0.70710678f); }
static inline float __expf(float v) { return expf(v); }
static inline float __exp10f(float v) { return exp10f(v); }
static inline float __logf(float v) { return logf(v); }
static inline float __log2f(float v) { return log2f(v); }
static inline float __log10f(float v) { return log10f(v); }
static inline float __powf(float a, float b) { return powf(a, b); }
static inline float __sinf(float v) { return sinf(v); }
static inline float __cosf(float v) { return cosf(v); }
static inline float __tanf(float v) { return tanf(v); }
static inline void __sincosf(float v, float* s, float* c) { sincosf(v, s, c); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float v) { return 1.0f / v; }
static inline float __fsqrt_rn(float v) { return sqrtf(v); }
static inline float __frsqrt_rn(float v) { return 1.0f / sqrtf(v); }
static inline float __saturatef(float v) { return v > 0.0f ? (v < 1.0f ? v : 1.0f) : 0.0f; }
// Never contracted into a fused multiply-add, as their _rn says.
__attribute__((noinline)) static float __fmul_rn(float a, float b) { return a * b; }
__attribute__((noinline)) static float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return __fadd_rn(a, -b); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }

static inline float __int_as_float(int v) { return __builtin_bit_cast(float, v); }
static inline int __float_as_int(float v) { return __builtin_bit_cast(int, v); }
static inline float __uint_as_float(unsigned v) { return __builtin_bit_cast(float, v); }
static inline unsigned __float_as_uint(float v) { return __builtin_bit_cast(unsigned, v); }
static inline double __longlong_as_double(long long v) { return __builtin_bit_cast(double, v); }
static inline long long __double_as_longlong(double v) { return __builtin_bit_cast(long long, v); }
// Conversions saturate and turn NaN into 0, as on the device; the host's are undefined out of range.
static inline int soft_to_int(float v) {
  return v != v ? 0 : v >= 2147483648.0f ? 2147483647 : v <= -2147483648.0f ? -2147483647 - 1 : static_cast<int>(v);
}
static inline unsigned soft_to_uint(float v) {
  return v != v || v <= 0.0f ? 0u : v >= 4294967296.0f ? 0xffffffffu : static_cast<unsigned>(v);
}
static inline int __float2int_rn(float v) { return soft_to_int(rintf(v)); }
static inline long long __float2ll_rn(float v) {   // saturates, NaN becomes the least, as cvt.rni.s64.f32
  if (!(v >= -9223372036854775808.0f)) return -9223372036854775807LL - 1;
  return v >= 9223372036854775808.0f ? 9223372036854775807LL : static_cast<long long>(rintf(v));
}
static inline int __float2int_rz(float v) { return soft_to_int(truncf(v)); }
static inline int __float2int_rd(float v) { return soft_to_int(floorf(v)); }
static inline int __float2int_ru(float v) { return soft_to_int(ceilf(v)); }
static inline unsigned __float2uint_rn(float v) { return soft_to_uint(rintf(v)); }
static inline unsigned __float2uint_rz(float v) { return soft_to_uint(truncf(v)); }
static inline float __int2float_rn(int v) { return static_cast<float>(v); }
static inline float __uint2float_rn(unsigned v) { return static_cast<float>(v); }
static inline float __ll2float_rn(long long v) { return static_cast<float>(v); }
static inline float __ull2float_rn(unsigned long long v) { return static_cast<float>(v); }
static inline float __double2float_rn(double v) { return static_cast<float>(v); }

#ifdef __x86_64__
static inline long long clock64() { return static_cast<long long>(__builtin_ia32_rdtsc()); }
#else
static inline long long clock64() { return 0; }
#endif
static inline long long clock() { return clock64(); }
#define __builtin_assume(x) do { if (!(x)) __builtin_unreachable(); } while (false)

#pragma GCC visibility pop
