// Writes vectors.json: Merkle trees by @openzeppelin/merkle-tree 1.0.8 and
// EIP-712 digests by viem 2.57.20. Usage: node vectors.mjs > vectors.json
import {createRequire} from "node:module";
import {join} from "node:path";
const require = createRequire(join(process.env.SHOAL_NODE_MODULES ?? "../contracts", "x.js"));
const {StandardMerkleTree} = require("@openzeppelin/merkle-tree");
const {hashTypedData, encodeAbiParameters, keccak256, toHex, pad} = require("viem");

const h = (n) => keccak256(toHex(n));
const trees = [1, 2, 3, 7, 20].map((n) => {
  const rows = [...Array(n).keys()].map((i) => [h(99), i, pad(toHex(i * 7919 + 1), {size: 20}), BigInt(i) * 1000003n, BigInt(i) * 17n]);
  const t = StandardMerkleTree.of(rows, ["bytes32", "uint64", "address", "uint128", "uint128"]);
  return {run: h(99), rewards: rows.map((r) => ({index: r[1], account: r[2], amount: Number(r[3]), before: Number(r[4])})),
    root: t.root, proofs: rows.map((_, i) => t.getProof(i))};
});
const address = (n) => pad(toHex(n), {size: 20});
const domain = (name, n) => ({name, version: "1", chainId: 31337n, verifyingContract: address(n)});
const u = (s) => s.split(",").map((x) => { const [type, name] = x.split(" "); return {type, name}; });
const digest = (name, at, primaryType, fields, message) => hashTypedData({domain: domain(name, at), types: {[primaryType]: u(fields)}, primaryType, message});
console.log(JSON.stringify({
  trees,
  receipt: digest("Shoal Disputes", 4, "Receipt", "bytes32 run,uint64 epoch,address worker,uint8 kind,bytes32 subject,uint64 units",
    {run: h(1), epoch: 3n, worker: address(77), kind: 1, subject: h(2), units: 4096n}),
  epoch: digest("Shoal Settlement", 3, "Epoch", "bytes32 run,uint64 number,bytes32 commit,bytes32 rewards,bytes32 receipts,uint64 accounts,uint64 count,uint128 trainers,uint128 workers,uint128 validators,uint128 sponsor,uint128 total",
    {run: h(1), number: 3n, commit: h(2), rewards: h(3), receipts: h(4), accounts: 5n, count: 6n, trainers: 7n, workers: 8n, validators: 9n, sponsor: 10n, total: 34n}),
  voucher: digest("Shoal Vouchers", 5, "Voucher", "bytes32 channel,uint128 cumulative", {channel: h(1), cumulative: 10n ** 20n}),
  key: digest("Shoal Staking", 2, "KeyRegistration", "address owner,address key,uint256 nonce,uint256 deadline", {owner: address(9), key: address(8), nonce: 1n, deadline: 1700000000n}),
  run: keccak256(encodeAbiParameters([{type: "bytes32"}, {type: "address"}], [h(5), address(6)])),
}, null, 1));
