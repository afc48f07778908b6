#!/usr/bin/env bash
# Builds the C kernels in place, beside ops/native/library.py, where Python looks first.
# Usage: tools/build_native.sh [CMAKE_BUILD_TYPE], Release if none is given.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
cmake -S "$top" -B "$top/build/native" -DCMAKE_BUILD_TYPE="${1:-Release}" >/dev/null
cmake --build "$top/build/native" --parallel "$(getconf _NPROCESSORS_ONLN)"
find "$top/build/native" -maxdepth 1 -name 'libfoveate_ops.*' -exec cp {} "$top/src/foveate/ops/native/" \;
