// The network, in a thread of its own, so that the page answers while it paints.

import { LONGEST_STYLE_SIDE, fitted, onWhite, pixels, planes, resized, seen } from "./numbers.js";

const RUNTIME = new URL("runtime/", import.meta.url).href;
const BUILDS = { webgpu: "ort.webgpu.min.mjs", wasm: "ort.wasm.min.mjs" };
let engine = null;
const codes = new Map(); // of paintings, by the key that the page gives

async function start(name, networks) {
  const ort = await import(RUNTIME + BUILDS[name]).catch(() => {
    throw new Error("the folder “runtime” beside this page is missing, or can’t be loaded");
  });
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = RUNTIME;
  const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1;
  ort.env.wasm.numThreads = threads;
  const options = { executionProviders: [name], graphOptimizationLevel: "all", logSeverityLevel: 3 };
  const style = await ort.InferenceSession.create(networks[0], options); // one after the other: both start the runtime
  const paint = await ort.InferenceSession.create(networks[1], options);
  return { ort, name, threads, style, paint };
}

async function load({ wanted }) {
  const fetched = ["kbstyle-style.onnx", "kbstyle-paint.onnx"].map(async (name) => {
    const answer = await fetch(new URL(name, import.meta.url));
    if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
    return new Uint8Array(await answer.arrayBuffer());
  });
  const gpu = wanted === "wasm" ? null : navigator.gpu?.requestAdapter().catch(() => null);
  const [adapter, ...networks] = await Promise.all([gpu, ...fetched]);
  const emulated = adapter?.info?.isFallbackAdapter ?? adapter?.isFallbackAdapter; // slower than WebAssembly by far
  let lacking = wanted === "webgpu" && !adapter ? "this browser has no WebGPU" : null;
  if (adapter && (!emulated || wanted === "webgpu")) {
    try {
      engine = await start("webgpu", networks);
    } catch (error) {
      engine = null; // WebAssembly does it as well
      if (wanted === "webgpu") lacking = error.message;
    }
  }
  engine ??= await start("wasm", networks);
  return { engine: engine.name, threads: engine.threads, lacking };
}

async function run(session, feeds) {
  const tensors = Object.entries(feeds).map(([name, { data, dims }]) => [name, new engine.ort.Tensor("float32", data, dims)]);
  const found = await session.run(Object.fromEntries(tensors));
  const out = found[session.outputNames[0]];
  const result = { data: await out.getData(), dims: out.dims };
  return result;
}

async function style({ key, rgba, width, height }) {
  const [w, h] = fitted(width, height, LONGEST_STYLE_SIDE);
  const painting = planes(resized(onWhite(rgba), width, height, w, h), w, h);
  const [input] = engine.style.inputNames;
  codes.set(key, await run(engine.style, { [input]: painting }));
  return {};
}

async function paint({ key, rgba, width, height }) {
  const begun = performance.now();
  const [content, code] = engine.paint.inputNames;
  const { data, dims } = codes.get(key);
  const feeds = { [content]: planes(seen(rgba, width, height), width, height), [code]: { data, dims } };
  const out = await run(engine.paint, feeds);
  const painted = pixels(out.data, out.dims, width, height);
  return { painted, milliseconds: performance.now() - begun };
}

const jobs = { load, style, paint, forget: async ({ key }) => (codes.delete(key), {}) };
let last = Promise.resolve(); // one at a time, in order

self.onmessage = ({ data: { id, job, ...given } }) => {
  last = last.then(async () => {
    try {
      const answer = await jobs[job](given);
      self.postMessage({ id, answer }, answer.painted ? [answer.painted.buffer] : []);
    } catch (error) {
      self.postMessage({ id, error: String(error?.message ?? error) });
    }
  });
};
