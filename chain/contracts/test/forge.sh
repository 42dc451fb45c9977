#!/bin/sh
# Fuzz and invariant tests of the contracts by forge, from npm. Run in
# chain/contracts after `npm install`, or with SHOAL_NODE_MODULES set.
# forge wants a native compiler: out/solc is solc's wasm build behind the same
# two options.
set -eu
cd "$(dirname "$0")/.."
modules=${SHOAL_NODE_MODULES:-$PWD}/node_modules
forge=$modules/@foundry-rs/forge-linux-amd64/bin/forge
if [ ! -x "$forge" ] || [ ! -d "$modules/solc" ]; then
	echo "SKIPPED: the contracts were NOT fuzzed: no forge or solc under $modules (npm install)" >&2
	exit 0
fi
mkdir -p out
cat > out/solc.cjs <<EOF
const solc = require("$modules/solc");
if (process.argv.includes("--version")) {
  console.log("solc, the solidity compiler commandline interface\nVersion: " + solc.version().replace(".Emscripten.clang", ".Linux.g++"));
} else {
  process.stdout.write(solc.compile(require("fs").readFileSync(0, "utf8")));
}
EOF
# without an ending it would be a module here, as package.json says
printf '#!/bin/sh\nexec node "%s/out/solc.cjs" "$@"\n' "$PWD" > out/solc
chmod +x out/solc
exec "$forge" test --root . -R "@openzeppelin/=$modules/@openzeppelin/" "$@"
