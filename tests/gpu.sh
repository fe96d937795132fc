#!/usr/bin/env bash
# The GPU operations on the GPU of this machine: `tests/gpu.sh` builds them in build/gpu and runs `pytest -m gpu`;
# `tests/gpu.sh memcheck|racecheck|initcheck|synccheck` runs a part of that under compute-sanitizer. More arguments go to
# pytest. Wants nvcc, a torch that sees the GPU, nanobind, CMake and ninja; REPSIM_CUDA_ARCHS to compile for less.
set -euo pipefail
cd "$(dirname "$0")/.."

tool=
case ${1:-} in
  memcheck | racecheck | initcheck | synccheck) tool=$1; shift ;;
esac

work=build/gpu # kept, so that only what has changed is built again
mkdir -p "$work"
cmake -S . -B "$work" -G Ninja -DCMAKE_BUILD_TYPE=Release -DREPSIM_CUDA=ON -DREPSIM_CUDA_ARCHS="${REPSIM_CUDA_ARCHS:-80;90a-real}" \
  -Dnanobind_DIR="$(python3 -m nanobind --cmake_dir)" -DPython_EXECUTABLE="$(command -v python3)" >"$work/log" ||
  { cat "$work/log"; exit 1; }
cmake --build "$work" >"$work/log" || { cat "$work/log"; exit 1; }
rm -rf "$work/site"
mkdir "$work/site"
cp -r repsim "$work/site"
rm -f "$work"/site/repsim/_c*.so
cp "$work"/_core.*.so "$work"/_cuda.*.so "$work/site/repsim"
if [[ -e $work/_hopper.so ]]; then cp "$work/_hopper.so" "$work/site/repsim"; fi
echo "== built in $SECONDS s"

# The checkout, whose repsim has no native modules, comes last: it is there for bench/.
export PYTHONSAFEPATH=1 PYTHONPATH="$PWD/$work/site:$PWD"
if [[ $tool ]]; then
  # Small shapes, every kernel; what the libraries beside it do is no part of the question.
  compute-sanitizer --tool "$tool" --kernel-name kns=repsim --error-exitcode 1 python3 -m pytest -q -p no:cacheprovider \
    tests/test_cuda.py -k "definition or one-tile or every_dtype or tell_apart or medians or pairs" "$@"
else
  mapfile -t files < <(grep -lE 'mark\.gpu' tests/test_*.py) # the others may want what is not there
  python3 -m pytest -q -p no:cacheprovider -m gpu "${files[@]}" "$@"
fi
echo "== passed in $SECONDS s"
