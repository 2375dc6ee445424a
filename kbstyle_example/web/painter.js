// The page's side of the worker: promises for its answers.

export class Painter {
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #count = 0;
  #keys = new WeakMap();

  constructor() {
    this.#worker.onmessage = ({ data: { id, answer, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) resolve(answer);
      else reject(new Error(error));
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      for (const { reject } of this.#waiting.values()) reject(new Error(event.message || "the worker can't be started"));
      this.#waiting.clear();
    };
  }

  #ask(job, given = {}, moved = []) {
    const id = ++this.#count;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, job, ...given }, moved);
    });
  }

  /** Load runtime and networks; `wanted` "wasm" leaves a GPU alone, "webgpu" takes an emulated one, too, and tells what it lacks. */
  load(wanted) {
    return this.#ask("load", { wanted });
  }

  /** Encode a painting, once; what comes back stands for it. */
  async encode(painting) {
    if (!this.#keys.has(painting)) {
      const key = ++this.#count;
      const { width, height, data } = painting;
      const done = this.#ask("style", { key, width, height, rgba: data }).then(() => key);
      this.#keys.set(painting, done);
      done.catch(() => this.#keys.delete(painting));
    }
    return this.#keys.get(painting);
  }

  /** A photograph painted: ImageData and how long it took. */
  async paint(photograph, painting) {
    const key = await this.encode(painting);
    const { width, height, data } = photograph;
    const { painted, milliseconds } = await this.#ask("paint", { key, width, height, rgba: data });
    return { picture: new ImageData(painted, width, height), milliseconds };
  }
}
