// Where the compiler's access instrumentation (-fsanitize=thread, -fsanitize=alignment,bounds) lands in checked images: every
// read and write of device text becomes a call of SoftOps::check_access. Nothing of a sanitizer's own library is used.
#pragma once

#define SOFT_HOOK extern "C" __attribute__((visibility("hidden"), no_sanitize("thread"), no_sanitize("undefined")))
// Most accesses need no check: stacks (a warp's operands lie on those of its lanes), and what threadIdx and the like read.
static inline __attribute__((always_inline)) bool soft_is_inside(const void* p, const void* object, unsigned long n_bytes) {
  return reinterpret_cast<unsigned long>(p) - reinterpret_cast<unsigned long>(object) < n_bytes;
}
static inline __attribute__((always_inline)) bool soft_is_own(const void* p) {
  return soft_is_inside(p, soft_block.stacks, soft_block.stacks_bytes) || soft_is_inside(p, &soft_current, sizeof soft_current) ||
         soft_is_inside(p, soft_current, sizeof(SoftThread)) || soft_is_inside(p, &soft_block, sizeof soft_block);
}
#define SOFT_CHECK(p, n, kind) \
  if (!soft_is_own(p)) soft_ops->check_access(p, n, kind, __builtin_return_address(0))
#define SOFT_HOOK_SIZE(n)                                                           \
  SOFT_HOOK void __tsan_read##n(void* p) { SOFT_CHECK(p, n, 0); }                   \
  SOFT_HOOK void __tsan_write##n(void* p) { SOFT_CHECK(p, n, 1); }                  \
  SOFT_HOOK void __tsan_unaligned_read##n(void* p) { SOFT_CHECK(p, n, 8); }         \
  SOFT_HOOK void __tsan_unaligned_write##n(void* p) { SOFT_CHECK(p, n, 9); }        \
  SOFT_HOOK void __tsan_volatile_read##n(void* p) { SOFT_CHECK(p, n, 0); }          \
  SOFT_HOOK void __tsan_volatile_write##n(void* p) { SOFT_CHECK(p, n, 1); }
SOFT_HOOK_SIZE(1) SOFT_HOOK_SIZE(2) SOFT_HOOK_SIZE(4) SOFT_HOOK_SIZE(8) SOFT_HOOK_SIZE(16)
#undef SOFT_HOOK_SIZE
SOFT_HOOK void __tsan_read_range(void* p, unsigned long n) { SOFT_CHECK(p, n, 8); }
SOFT_HOOK void __tsan_write_range(void* p, unsigned long n) { SOFT_CHECK(p, n, 9); }
SOFT_HOOK void __tsan_func_entry(void*) {}
SOFT_HOOK void __tsan_func_exit() {}
SOFT_HOOK void __tsan_init() {}

struct SoftSourceLocation {
  const char* file;
  unsigned line, column;
};
static void soft_fail_at(const char* what, const SoftSourceLocation* at) {
  char text[512];
  extern int snprintf(char*, unsigned long, const char*, ...) __asm__("snprintf");
  snprintf(text, sizeof text, "%s at %s(%u)", what, at->file, at->line);
  soft_ops->fail(text);
}
SOFT_HOOK void __ubsan_handle_type_mismatch_v1_abort(void* data, void*) {
  soft_fail_at("misaligned access", static_cast<SoftSourceLocation*>(data));
}
SOFT_HOOK void __ubsan_handle_out_of_bounds_abort(void* data, void*) {
  soft_fail_at("array index out of bounds", static_cast<SoftSourceLocation*>(data));
}
