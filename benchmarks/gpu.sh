#!/usr/bin/env bash
# What to run on a machine with a GPU for a few minutes: tests, then times, the most important first. Random weights, so
# no bundle is needed. Run it in the project's root:
#
#     OUT=results bash benchmarks/gpu.sh
#
# It prints a line for each step and keeps all output in $OUT/gpu.tgz, which is rewritten after each step. Without a GPU
# it runs at tiny sizes (DEVICE=cpu), so that it stays whole. Wheels that the machine lacks may lie in .whl/
# (benchmarks/wheels.sh fetches them).
set -u
DEVICE=${DEVICE:-cuda} PYTHON=${PYTHON:-python3} BACK=$(realpath -m "${OUT:-outputs/gpu}")
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
mkdir -p "$BACK" "$WORK/out"
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TQDM_DISABLE=1
if ls .whl/*.whl >/dev/null 2>&1; then
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$WORK/site" .whl/*.whl || exit
  export PYTHONPATH=$WORK/site${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

step() { # name, limit in seconds, command
  local name=$1 limit=$2 began rc
  shift 2
  began=$SECONDS
  timeout "$limit" "$@" >"$WORK/out/$name.txt" 2>&1
  rc=$?
  echo "$name: exit $rc, $((SECONDS - began)) s: $(grep -v '^ *$' "$WORK/out/$name.txt" | tail -1 | cut -c1-160)" |
    tee -a "$WORK/out/summary.txt"
  tar -czf "$BACK/gpu.tgz.part" -C "$WORK/out" . && mv "$BACK/gpu.tgz.part" "$BACK/gpu.tgz"
}

bench() { # name, limit, options
  local name=$1 limit=$2
  shift 2
  step "$name" "$limit" "$PYTHON" -m sampling.bench --device "$DEVICE" --json "$WORK/out/$name.json" "$@"
}

if [ "$DEVICE" = cpu ]; then
  small=(--width 64 --depth 1 --grid 2 --batch 1,2 --repeats 1) large=("${small[@]}") training=(--shape debug --compiled false)
else
  small=(--width 1024 --depth 12 --grid 32 --batch 1,8,64 --repeats 1)
  large=(--width 1024 --depth 36 --grid 32 --batch 1,64 --repeats 1) training=(--shape parti-350m)
fi
step env 40 "$PYTHON" -m commands.tessera env
step tests 90 "$PYTHON" -m pytest -q -m cuda -p no:cacheprovider tests/test_cuda.py
bench bench-350m 60 "${small[@]}" --rivals false --profile true
step training 60 "$PYTHON" -m seq2seq.bench --device "$DEVICE" "${training[@]}"
bench bench-750m 60 "${large[@]}" --rivals false
bench rivals-350m 110 "${small[@]}" # last: the rivals compile themselves, for who knows how long
cat "$WORK/out/summary.txt" >"$BACK/summary.txt"
