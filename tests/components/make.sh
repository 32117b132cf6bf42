#!/usr/bin/env bash
# Builds every component of the tests and puts it beside this script. Paths of the machine are
# mapped away, so that the same sources give the same bytes in any folder. Memory at the start is
# that of `millrace build`.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
export RUSTFLAGS="--remap-path-prefix=$root=millrace --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=registry -C link-arg=--initial-memory=2097152"
cargo build --release --locked --target wasm32-wasip2 --examples
for file in examples/*.rs; do
  name=$(basename "$file" .rs)
  cp "target/wasm32-wasip2/release/examples/$name.wasm" "$name.wasm"
done
ls -l -- *.wasm
