#!/usr/bin/env bash
# Under clang's AddressSanitizer and UBSan: unit tests, the fuzz targets of what reads strangers' files on random mutations of the
# seeds, and every test that needs a GPU, on the software GPU. Part of check.sh; ends with the summary of the last of them.
# Usage: tools/check_sanitizers.sh [--build-only | SECONDS a fuzz target; default 4]
set -euo pipefail
. "$(dirname "$0")/deps.sh"

install_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}" "${CLANG_PACKAGES[@]}"
provide_cuda

asan=$ROOT/build/asan
configure_check asan
cmake --build "$asan" --target check_sanitized >&2
say "sanitized build made after $SECONDS s"
[ "${1:-}" != --build-only ] || exit 0
ctest --test-dir "$asan" -j2 --output-on-failure -LE "softgpu|$PLAIN_LABELS"
fuzzers=$(cd "$ROOT/tests/fuzz" && ls *_fuzz.cpp | sed 's/_fuzz\.cpp$//')

# A blind search: one led by coverage (tools/fuzz.sh) needs a build of its own, more time than all of this takes.
fuzz_options=abort_on_error=1:max_allocation_size_mb=512:malloc_context_size=2:quarantine_size_mb=16
fuzz() {
  mkdir -p "$ROOT/build/asan/fuzz/$1" && cd "$ROOT/build/asan/fuzz/$1"
  ASAN_OPTIONS=$fuzz_options "$ROOT/build/asan/tests/fuzz/fuzz_$1_replay" "$ROOT/tests/fuzz/corpus/$1" "$2" > log 2>&1 ||
    { tail -n 40 log; echo "fuzz_$1_replay fails; its input, in base64:"; base64 fuzz-input; return 1; }
  echo "$1: $(tail -n 1 log)"
}
export -f fuzz && export ROOT fuzz_options
printf '%s\n' $fuzzers | xargs -P 2 -I{} bash -c 'fuzz {} '"${1:-4}"
say "fuzzed after $SECONDS s"

exec ctest --test-dir "$asan" -j2 --output-on-failure -L softgpu
