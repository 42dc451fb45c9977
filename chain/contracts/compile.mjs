// Compiles src/*.sol with solc's wasm build and writes abi/NAME.abi, bin/NAME.bin
// and combined.json. Usage: node compile.mjs [OUTDIR]
// Two runs give the same bytes: no metadata hash, one pinned compiler, one pinned library.
import {mkdirSync, readFileSync, readdirSync, writeFileSync} from "node:fs";
import {createRequire} from "node:module";
import {dirname, join} from "node:path";
import {fileURLToPath} from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const require = createRequire(join(process.env.SHOAL_NODE_MODULES ?? here, "x.js"));
const solc = require("solc");
const contracts = ["Token", "Timelock", "Council", "Staking", "ShareFactory", "Shares", "Runs", "Settlement", "Disputes", "Equivocation", "Vouchers", "Convictions"];

const names = readdirSync(join(here, "src")).filter((f) => f.endsWith(".sol")).sort();
const sources = Object.fromEntries(names.map((f) => ["src/" + f, {content: readFileSync(join(here, "src", f), "utf8")}]));
const settings = {
  optimizer: {enabled: true, runs: 200},
  evmVersion: "prague",
  metadata: {bytecodeHash: "none", appendCBOR: false},
  outputSelection: {"*": {"*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]}},
};
const find = (path) => {
  try { return {contents: readFileSync(path.startsWith("src/") ? join(here, path) : require.resolve(path), "utf8")}; }
  catch (e) { return {error: String(e)}; }
};
const out = JSON.parse(solc.compile(JSON.stringify({language: "Solidity", sources, settings}), {import: find}));
for (const e of out.errors ?? []) if (e.severity === "error" || e.sourceLocation?.file.startsWith("src/")) console.error(e.formattedMessage);
if ((out.errors ?? []).some((e) => e.severity === "error")) process.exit(1);

const dir = process.argv[2] ?? here;
mkdirSync(join(dir, "abi"), {recursive: true});
mkdirSync(join(dir, "bin"), {recursive: true});
const combined = {contracts: {}, version: solc.version()};
for (const name of contracts) {
  const [file, all] = Object.entries(out.contracts).find(([f, c]) => f.startsWith("src/") && c[name]);
  const c = all[name];
  const size = c.evm.deployedBytecode.object.length / 2;
  if (size > 24576) { console.error(`${name}: ${size} bytes deployed, the limit is 24576`); process.exit(1); }
  console.log(`${name.padEnd(14)} ${size} bytes`);
  writeFileSync(join(dir, "abi", name + ".abi"), JSON.stringify(c.abi, null, 1) + "\n");
  writeFileSync(join(dir, "bin", name + ".bin"), c.evm.bytecode.object + "\n");
  // abigen would declare the struct that eip712Domain returns once for every contract
  combined.contracts[`${file}:${name}`] = {abi: c.abi.filter((x) => x.name !== "eip712Domain"), bin: c.evm.bytecode.object};
}
writeFileSync(join(dir, "combined.json"), JSON.stringify(combined));
