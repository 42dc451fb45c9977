// node greedy.js MODEL.gguf PROMPT N: the greedy tokens of llama.cpp, and how
// many a second of the clock and of the processor, as JSON.
import { getLlama } from "node-llama-cpp";

const [, , path, prompt, n] = process.argv;
const llama = await getLlama({ build: "never", gpu: false, maxThreads: 1, logLevel: "error" });
const model = await llama.loadModel({ modelPath: path, gpuLayers: 0 });
// Keys and values in float32, as ours: in llama.cpp's default, float16, another token may be the likeliest.
const exact = { experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32", flashAttention: false };
const context = await model.createContext({ contextSize: 512, threads: 1, batchSize: 256, ...exact });
const ids = model.tokenize(prompt);
if (model.tokens.bos != null && model.tokens.shouldPrependBosToken) ids.unshift(model.tokens.bos);
const tokens = [];
let start, used;
for await (const t of context.getSequence().evaluate(ids, { temperature: 0 })) {
  if (tokens.length === 0) [start, used] = [process.hrtime.bigint(), process.cpuUsage()];
  tokens.push(t);
  if (tokens.length >= Number(n)) break;
}
const seconds = Number(process.hrtime.bigint() - start) / 1e9, cpu = process.cpuUsage(used);
console.log(JSON.stringify({ prompt: ids, tokens, rate: (tokens.length - 1) / seconds, cpuRate: (tokens.length - 1) / ((cpu.user + cpu.system) / 1e6) }));
process.exit(0);
