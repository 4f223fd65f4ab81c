#!/usr/bin/env bash
# From nothing to generated text on Debian 12 or Ubuntu 24.04: installs packages, builds sparkjit, fetches a small model,
# and lets it write; on the GPU if there is one, else on the CPU.
# Usage: tools/quickstart.sh [PROMPT]
set -euo pipefail
. "$(dirname "$0")/deps.sh"
prompt=${1:-"The capital of France is"}

install_packages "${BUILD_PACKAGES[@]}"
provide_cuda
provide_model
configure release -DSPARKJIT_TESTS=OFF -B "$ROOT/build/quickstart"
cmake --build "$ROOT/build/quickstart" --target sparkjit >&2

sparkjit=$ROOT/build/quickstart/sparkjit
"$sparkjit" doctor >&2
say "$sparkjit run -m $MODEL -p \"$prompt\" -n 48 --temp 0 --timings"
printf '%s' "$prompt"
"$sparkjit" run -m "$MODEL" -p "$prompt" -n 48 --temp 0 --timings
