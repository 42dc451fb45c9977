// node decode.js MODEL.gguf THREADS: llama.cpp, asked for n tokens a line, answers with
// the seconds of one, by the clock and by the processor.
import { createInterface } from "node:readline";
import { getLlama } from "node-llama-cpp";

const [, , path, threads] = process.argv;
const llama = await getLlama({ build: "never", gpu: false, maxThreads: Number(threads), logLevel: "error" });
const model = await llama.loadModel({ modelPath: path, gpuLayers: 0 });
const context = await model.createContext({ contextSize: 256, threads: Number(threads), batchSize: 64 });
const sequence = context.getSequence();
for await (const line of createInterface({ input: process.stdin })) {
  const n = Number(line);
  await sequence.clearHistory();
  let left = n, start, used;
  for await (const t of sequence.evaluate([1], { temperature: 0, yieldEogToken: true })) {
    if (start === undefined) [start, used] = [process.hrtime.bigint(), process.cpuUsage()];
    else if (--left === 0) break;
  }
  const seconds = Number(process.hrtime.bigint() - start) / 1e9, cpu = process.cpuUsage(used);
  console.log(seconds / n, (cpu.user + cpu.system) / 1e6 / n);
}
process.exit(0);
