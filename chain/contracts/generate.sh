#!/bin/sh
# Compiles the contracts and regenerates their Go bindings. Needs Node; run from chain/contracts.
# SHOAL_NODE_MODULES names a folder that holds node_modules, by default this one.
set -eu
out=${1:-.}
node compile.mjs "$out"
ABIGEN=${ABIGEN:-"go tool -modfile=$PWD/abigen.mod abigen"}
$ABIGEN --v2 --combined-json "$out/combined.json" --pkg contracts --out "$out/bindings.go"
rm "$out/combined.json"
if [ "$out" = . ]; then
	sha256sum package.json compile.mjs generate.sh src/*.sol abi/*.abi bin/*.bin bindings.go > artefacts.sha256
fi
