// Where the compiler's access instrumentation (-fsanitize=thread, -fsanitize=alignment,bounds) lands in checked images: every
// read and write of device text becomes a call of SoftOps::check_access. Nothing of a sanitizer's own library is used.
#pragma once

#define SOFT_HOOK extern "C" __attribute__((visibility("hidden"), no_sanitize("thread"), no_sanitize("undefined")))
#define SOFT_HOOK_SIZE(n)                                                                                                     \
  SOFT_HOOK void __tsan_read##n(void* p) { soft_ops->check_access(p, n, 0, __builtin_return_address(0)); }                    \
  SOFT_HOOK void __tsan_write##n(void* p) { soft_ops->check_access(p, n, 1, __builtin_return_address(0)); }                   \
  SOFT_HOOK void __tsan_unaligned_read##n(void* p) { soft_ops->check_access(p, n, 8, __builtin_return_address(0)); }          \
  SOFT_HOOK void __tsan_unaligned_write##n(void* p) { soft_ops->check_access(p, n, 9, __builtin_return_address(0)); }         \
  SOFT_HOOK void __tsan_volatile_read##n(void* p) { soft_ops->check_access(p, n, 0, __builtin_return_address(0)); }           \
  SOFT_HOOK void __tsan_volatile_write##n(void* p) { soft_ops->check_access(p, n, 1, __builtin_return_address(0)); }
SOFT_HOOK_SIZE(1) SOFT_HOOK_SIZE(2) SOFT_HOOK_SIZE(4) SOFT_HOOK_SIZE(8) SOFT_HOOK_SIZE(16)
#undef SOFT_HOOK_SIZE
SOFT_HOOK void __tsan_read_range(void* p, unsigned long n) { soft_ops->check_access(p, n, 8, __builtin_return_address(0)); }
SOFT_HOOK void __tsan_write_range(void* p, unsigned long n) { soft_ops->check_access(p, n, 9, __builtin_return_address(0)); }
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
