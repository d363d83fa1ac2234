#!/bin/sh
# Builds and tests one Linux binary in a container of the hosted workflow (.github/workflows/build.yml): the sources in
# the current folder, the target's name in TARGET, for glibc a Node in /node.
set -eu
case "$TARGET" in
  *-musl)
    apk add --no-cache clang cmake g++ git linux-headers lld llvm make ninja
    # Alpine leaves LLVM's tools where it keeps each version.
    LLVM_BIN="$(dirname "$(find /usr/lib/llvm*/bin -name llvm-readobj | sort -V | tail -n 1)")"
    export LLVM_BIN
    ;;
  *)
    export PATH="/node/bin:$PATH"
    dnf install -y clang lld llvm
    command -v cmake >/dev/null || dnf install -y cmake
    ;;
esac
git config --global --add safe.directory "$PWD"
npm ci --ignore-scripts
npm run build
CXX=clang++ npm run prebuild -- --native # packed a quarter smaller than by gcc
npm run prebuild:test -- "$TARGET"
