#!/usr/bin/env bash
# The native tests under a sanitizer: `tests/sanitize.sh address` (with undefined behaviour) or `tests/sanitize.sh thread`.
# More arguments go to pytest; tests among them replace the choice made here: `tests/sanitize.sh address tests/test_cka.py`.
# Wants the test requirements, GCC and its sanitizer libraries; installs the build requirements where they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."

sanitizer=${1:-}
case $sanitizer in
  address) preload="libasan.so libstdc++.so" ;; # libstdc++, so that the sanitizer finds the throw it replaces
  thread) preload="libtsan.so" ;;
  *) echo "usage: tests/sanitize.sh address|thread [pytest arguments]" >&2; exit 2 ;;
esac
shift
# The native code through every caller that has a shape of its own; the rest of the tests adds no native path. Left out
# is what limits or measures memory, which a sanitizer takes for itself.
tests=("$@")
[[ " $* " == *" tests/"* ]] || tests+=(
  tests/test_{core,cka,feature_space,fuzz,graphs,neighbours}.py
  -k "not memory and not refused_threads and not 65536"
)

work=build/sanitize-$sanitizer # kept, so that only what has changed is built again
mkdir -p "$work"
python -c "import nanobind, cmake, ninja" 2>/dev/null || pip install -q -c constraints.txt nanobind cmake ninja
python -m cmake -S . -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DREPSIM_SANITIZE="$sanitizer" \
  -Dnanobind_DIR="$(python -m nanobind --cmake_dir)" -DPython_EXECUTABLE="$(command -v python)" >"$work/log" ||
  { cat "$work/log"; exit 1; }
python -m cmake --build "$work/build" >"$work/log" || { cat "$work/log"; exit 1; }

rm -rf "$work/site"
mkdir "$work/site"
cp -r repsim "$work/site"
rm -f "$work"/site/repsim/_core.*
cp "$work"/build/_core.*.so "$work/site/repsim"
echo "== $sanitizer sanitizer: built in $SECONDS s"

libraries=$(for name in $preload; do "${CXX:-c++}" -print-file-name="$name"; done)
export LD_PRELOAD="${libraries//$'\n'/ }" PYTHONPATH="$PWD/$work/site" OMP_NUM_THREADS=1 REPSIM_NUM_THREADS=3
# Python and the libraries beside it are no part of the question: they leak at exit and their threads are not watched.
export ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS="ignore_noninstrumented_modules=1 halt_on_error=1"
export UBSAN_OPTIONS=print_stacktrace=1
python -m pytest -q -p no:cacheprovider --timeout=600 "${tests[@]}"
echo "== $sanitizer sanitizer: passed in $SECONDS s"
