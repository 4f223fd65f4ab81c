#!/usr/bin/env bash
# Fuzzes what reads strangers' bytes, with clang's libFuzzer under AddressSanitizer and UBSan: no crash, no input over 1 s, no
# allocation over 512 MB. New inputs that reach new code are kept in build/fuzz/corpus; a finding's file is named and left there.
# Usage: tools/fuzz.sh [SECONDS [TARGET...]]   (default: 30 s each of gguf tokenizer options tuning cubin_entry bundle)
set -euo pipefail
. "$(dirname "$0")/deps.sh"
seconds=${1:-30}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(gguf tokenizer options tuning cubin_entry bundle)

install_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}" "${CLANG_PACKAGES[@]}"
provide_cuda
build=$ROOT/build/fuzz
configure clang -B "$build" -DSPARKJIT_FUZZ=ON
cmake --build "$build" --target "${targets[@]/%/_fuzz}" >&2

# The limit is of wall time: an input that took 1 s while the machine was busy, and doesn't when tried again, is no finding.
is_stall() {
  local input
  for input in "$build/$1"-timeout-*; do
    [ -f "$input" ] && "$build/tests/fuzz/$1_fuzz" -timeout=1 "$input" > /dev/null 2>&1 || return 1
    rm "$input"
    say "$1: stopped early by a stall of this machine"
  done
}

failed=()
for target in "${targets[@]}"; do
  work=$build/corpus/$target
  mkdir -p "$work"
  dictionary=$ROOT/tests/fuzz/$target.dict
  flags=(-max_total_time="$seconds" -timeout=1 -rss_limit_mb=2048 -malloc_limit_mb=512 -max_len=4096 -artifact_prefix="$build/$target-")
  [ -f "$dictionary" ] && flags+=(-dict="$dictionary")
  log=$build/$target.log
  "$build/tests/fuzz/${target}_fuzz" "${flags[@]}" -print_final_stats=1 "$work" "$ROOT/tests/fuzz/corpus/$target" > "$log" 2>&1 ||
    is_stall "$target" || failed+=("$target")
  echo "$target: $(sed -n 's/^stat::\(number_of_executed_units\|average_exec_per_sec\): */\1 /p' "$log" | tr '\n' ' ')" \
       "$(grep -m 1 -E '^SUMMARY' "$log" || true)"
done
[ ${#failed[@]} -eq 0 ] || { say "findings in ${failed[*]}: see $build/*.log"; exit 1; }
