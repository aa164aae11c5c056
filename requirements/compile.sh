#!/usr/bin/env bash
# Resolves the pinned, hashed requirement files from pyproject.toml. The files name no index, so that they work with any mirror.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
compile() { # compile OUTPUT ARGUMENT...
  local output=$1
  shift
  "$uv" pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 "$@" --output-file "requirements/$output"
  echo "requirements/$output: $(grep -c '^[a-z]' "requirements/$output") packages"
}
compile bootstrap.txt - <<<'uv'
compile operator.txt pyproject.toml --extra operator
compile server-cpu.txt pyproject.toml --extra server --extra cpu
compile server-gpu.txt pyproject.toml --extra server --extra gpu
compile dev.txt pyproject.toml --extra operator --extra server --extra cpu --extra log --extra register --extra cli --group dev
compile build.txt - <<<'hatchling>=1.27'
