#!/usr/bin/env bash
# Fetches into .whl/ what a GPU machine with torch, transformers and accelerate, but without a network, still lacks.
# PYTHON_VERSION: the Python of that machine. Run it in the project's root, and copy .whl/ along.
set -eu
version=${PYTHON_VERSION:-3.12}
rm -rf .whl && mkdir .whl
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do platforms+=(--platform "${tag}_x86_64"); done
for package in datasets dill multiprocess diffusers docstring_parser jsonargparse typeshed_client lazy-importer frozendict \
  loguru einx torch-einops-utils vector-quantize-pytorch jsonschema jsonschema-specifications referencing rpds-py \
  platformdirs py-cpuinfo; do
  pinned=$(grep -iE "^${package//[-_]/[-_]}==" constraints.txt || echo "$package")
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
    "${platforms[@]}" -d .whl "$pinned" 2>/dev/null || echo "no wheel of $pinned"
done
du -sh .whl
