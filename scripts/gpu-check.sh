#!/bin/bash
# Everything that a GPU must settle, in one go: build, conformance of the emulator's primitives, tests, sanitizer,
# benchmark, flash-linear-attention beside it. For a machine with nvcc, cmake and g++; Node and a network are not needed.
#
#   bash scripts/gpu-check.sh             within BUDGET seconds (530); a summary last
#   ONLY="build tests" ...                of: build conformance tests sanitizer bench fla
#   RESULTS=DIR                           logs of the steps (build-cuda/gpu-check)
#   FLA_PATH=DIR                          a checkout of flash-linear-attention
#
# Writes bench/results/<gpu>-<date>.json, and ends with 1 where a step failed.
set -u
cd "$(dirname "$0")/.." || exit 2
BUDGET=${BUDGET:-530}
RESULTS=${RESULTS:-build-cuda/gpu-check}
BUILD=build-cuda/gpu
mkdir -p "$RESULTS"
SUMMARY=$RESULTS/summary.txt
: >"$SUMMARY"
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
failed=0

left() { echo $((BUDGET - SECONDS)); }
wanted() { [[ -z ${ONLY:-} || " $ONLY " == *" $1 "* ]]; }

# step LIMIT NAME COMMAND...: in its own time; output in NAME.log, its last line and its outcome in the summary.
step() {
  local limit=$1 name=$2 started=$SECONDS status outcome
  shift 2
  (($(left) < limit)) && limit=$(left)
  if ((limit < 5)); then
    echo "$name: not run, no time left" | tee -a "$SUMMARY"
    return 1
  fi
  timeout -k 3 "$limit" "$@" >"$RESULTS/$name.log" 2>&1 </dev/null
  status=$?
  case $status in
    0) outcome=passed ;;
    124 | 137) outcome="stopped after $limit s" ;;
    *) outcome="FAILED with $status" ;;
  esac
  ((status == 0)) || failed=1
  echo "$name: $outcome, $((SECONDS - started)) s; $(tail -1 "$RESULTS/$name.log" | cut -c1-140)" | tee -a "$SUMMARY"
  if ((status != 0)); then grep -E "error|FAIL|expected|CUDA|=========" "$RESULTS/$name.log" | head -15 | tee -a "$SUMMARY"; fi
  return $status
}

for tool in nvidia-smi nvcc cmake g++; do
  command -v $tool >/dev/null || { echo "gpu-check not run: $tool not found"; exit 2; }
done
GPU=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)
CAPABILITY=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
case $CAPABILITY in
  90) ARCH=90a ;;
  [0-9]*) ARCH=$CAPABILITY ;;
  *) echo "gpu-check not run: nvidia-smi sees no GPU"; exit 2 ;;
esac
{ echo "$GPU, sm_$ARCH, $(date -u +%FT%TZ)"; nvcc --version | tail -2; nvidia-smi; } >"$RESULTS/machine.log"
head -1 "$RESULTS/machine.log" | tee -a "$SUMMARY"

if wanted build; then
  step 60 configure cmake -S cuda -B $BUILD -DRANKONE_CUDA_TESTS=ON -DCMAKE_CUDA_ARCHITECTURES=$ARCH-real \
    -DCMAKE_CUDA_FLAGS=-Xptxas=-v
  step 300 build cmake --build $BUILD -j "$(nproc)" || { cat "$SUMMARY"; exit 1; }
  echo "kernels that spill: $(grep -E 'bytes spill' "$RESULTS/build.log" | grep -vc ' 0 bytes spill stores, 0 bytes spill loads')" |
    tee -a "$SUMMARY"
fi
export RANKONE_CUDA_PATH=$PWD/$BUILD/rankone_cuda.so

if wanted conformance; then
  for program in $BUILD/simt_*_test; do
    [[ -x $program ]] && step 30 "$(basename "$program")" "$program"
  done
fi
if wanted tests; then
  step 120 tests $BUILD/rankone_cuda_tests
  # Workspace that is read before it is written shows as NaN.
  RANKONE_CUDA_MEMORY=poisoned step 90 tests-poisoned $BUILD/rankone_cuda_tests --quick
fi
if wanted bench; then step 150 bench $BUILD/cuda_bench --seconds 0.25 --json "$RESULTS/bench.json"; fi
if wanted sanitizer; then
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck synccheck initcheck; do
      RANKONE_CUDA_MEMORY=direct step 40 $tool compute-sanitizer --tool $tool --error-exitcode 9 \
        $BUILD/rankone_cuda_tests --quick
    done
  else
    echo "sanitizer: compute-sanitizer not found" | tee -a "$SUMMARY"
  fi
fi
if wanted fla && command -v python3 >/dev/null; then
  limit=$(($(left) - 10))
  step $limit fla python3 -u bench/cuda/fla.py "$RANKONE_CUDA_PATH" --seconds $((limit - 15)) --json "$RESULTS/fla.json"
fi

# One file of results: the benchmark's, with what ran beside it.
NAME=$(echo "$GPU" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')
FILE=bench/results/$NAME-$(date -u +%F).json
if [[ -s $RESULTS/bench.json ]]; then
  if command -v python3 >/dev/null; then
    python3 - "$RESULTS" "$FILE" <<'PYTHON'
import json, os, sys

folder, target = sys.argv[1:]
def read(name):
    path = os.path.join(folder, name)
    return json.load(open(path)) if os.path.exists(path) else None
result = read("bench.json")
result["fla"] = read("fla.json")
result["summary"] = open(os.path.join(folder, "summary.txt")).read().splitlines()
json.dump(result, open(target, "w"), indent=2)
PYTHON
  else
    cp "$RESULTS/bench.json" "$FILE"
  fi
  echo "$FILE"
fi
echo
[[ -s $RESULTS/bench.log ]] && cat "$RESULTS/bench.log"
[[ -s $RESULTS/fla.log ]] && cat "$RESULTS/fla.log"
echo
cat "$SUMMARY"
echo "$SECONDS s in all"
exit $failed
