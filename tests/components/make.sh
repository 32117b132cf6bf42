#!/usr/bin/env bash
# Builds every component of the tests and puts it beside this script.
set -euo pipefail
cd "$(dirname "$0")"
cargo build --release --locked --target wasm32-wasip2 --examples
for name in identity work trap spin bomb misbehave map_upper wants_more; do
  cp "target/wasm32-wasip2/release/examples/$name.wasm" "$name.wasm"
done
ls -l -- *.wasm
