// What the person sees and does.

import { Camera } from "./camera.js";
import { Painter } from "./painter.js";
import { PictureError, SMALLEST_SIDE, blended, pixelsOf, read } from "./pictures.js";

const PHOTOGRAPHS = [
  ["chelsea_cat", "Cat"],
  ["coffee", "Cup of coffee"],
  ["eilean_donan", "Castle by the water"],
  ["astronaut", "Astronaut"],
];
const PAINTINGS = [
  ["cafe_terrace_at_night", "Café Terrace at Night"],
  ["harvest", "The Harvest"],
  ["church_at_auvers", "The Church at Auvers"],
  ["portrait_of_pere_tanguy", "Portrait of Père Tanguy"],
];

const at = (id) => document.getElementById(id);
const [frame, before, after, compare, strength] = ["frame", "before", "after", "compare", "strength"].map(at);
const painter = new Painter();
const chosen = { photograph: null, painting: null }; // ImageData each
let painted = null; // of chosen.photograph, at full strength
let name = "photograph";
let turn = 0; // of what was asked to be painted last; older answers are let go
const wishes = { photograph: 0, painting: 0 }; // the same, of what was chosen

// --- what is said ---------------------------------------------------------------------------------------------------

function say(text) {
  at("status").textContent = text;
}

function tell(id, text) {
  at(id).hidden = !text;
  at(id).querySelector("p").textContent = text;
}

function complain(error) {
  if (error instanceof PictureError) tell("error", error.message);
  else tell("error", `Something went wrong: ${error.message || error}`);
}

for (const id of ["error", "notice"]) at(id).querySelector("button").onclick = () => tell(id, "");

// --- painting -------------------------------------------------------------------------------------------------------

let engine; // what it runs on, in words
const loaded = painter.load(new URLSearchParams(location.search).get("engine")).then((found) => {
  const threads = `${found.threads} thread${found.threads === 1 ? "" : "s"}`;
  engine = found.engine === "webgpu" ? "WebGPU" : `WebAssembly, ${threads}`;
  document.documentElement.dataset.engine = found.engine;
  document.documentElement.dataset.threads = found.threads;
  if (found.lacking) tell("notice", `WebGPU was asked for and can’t be used: ${found.lacking}. It paints on WebAssembly instead.`);
});

const started = loaded.then(
  () => true,
  (error) => {
    say("");
    complain(new PictureError(`The network can’t be started: ${error.message}. A current Firefox, Chrome, Edge or Safari can run it.`));
    return false;
  },
);

function put(canvas, picture) {
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    [canvas.width, canvas.height] = [picture.width, picture.height];
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

function showPhotograph(photograph) {
  put(before, photograph);
  frame.style.setProperty("--ratio", photograph.width / photograph.height);
}

async function paint() {
  const mine = ++turn;
  const { photograph, painting } = chosen;
  if (!photograph || !painting || camera.live) return;
  frame.classList.add("working");
  at("download").disabled = true;
  try {
    if (!(await started)) return; // it was said why
    if (mine === turn) say("Painting…");
    const { picture, milliseconds } = await withRoom(photograph, painting, mine);
    if (mine !== turn) return;
    painted = picture;
    put(after, picture);
    frame.classList.add("painted");
    at("download").disabled = false;
    say(`Painted ${picture.width} × ${picture.height} in ${(milliseconds / 1000).toFixed(2)} s · ${engine}`);
    performance.mark("painted");
    // For whoever waits for it: tests and measurements.
    Object.assign(document.documentElement.dataset, { milliseconds: milliseconds.toFixed(1), painted: mine });
    keepOffline();
  } catch (error) {
    if (mine !== turn) return;
    say("");
    complain(error);
  } finally {
    if (mine === turn) frame.classList.remove("working");
  }
}

/** Painted; where memory doesn't reach, again at half the pixels. */
async function withRoom(photograph, painting, mine) {
  try {
    return await painter.paint(photograph, painting);
  } catch (error) {
    const memory = /memory|alloc|out of bounds/i.test(error.message);
    if (!memory || photograph.width * photograph.height < 2 ** 18 || mine !== turn) throw error;
    put(before, photograph);
    const smaller = pixelsOf(before, (photograph.width * photograph.height) / 2).data;
    tell("notice", `This device hasn’t enough memory for ${photograph.width} × ${photograph.height}: it is painted at ${smaller.width} × ${smaller.height}.`);
    chosen.photograph = smaller;
    showPhotograph(smaller);
    return withRoom(smaller, painting, mine);
  }
}

function choose(kind, picture) {
  chosen[kind] = picture;
  if (kind === "photograph") {
    painted = null;
    frame.classList.remove("painted");
    showPhotograph(picture);
  }
  return paint();
}

// --- sliders and the file that is saved -----------------------------------------------------------------------------

function slide() {
  frame.style.setProperty("--split", `${compare.value}%`);
  frame.classList.toggle("all-painted", compare.value < 12);
  frame.classList.toggle("all-photo", compare.value > 84);
  compare.setAttribute("aria-valuetext", `photograph ${compare.value} %, painting ${100 - compare.value} %`);
}

function strengthen() {
  after.style.opacity = strength.value / 100;
  at("strength-said").textContent = `${strength.value} %`;
}

compare.oninput = slide;
strength.oninput = strengthen;
slide();
strengthen();

at("download").onclick = async () => {
  if (!painted) return;
  const picture = blended(chosen.photograph, painted, strength.value / 100);
  const canvas = document.createElement("canvas");
  put(canvas, picture);
  const file = await new Promise((done) => canvas.toBlob(done, "image/png"));
  if (!file) return complain(new Error("the picture can’t be written as PNG."));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = `${name}-painted.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  say(`${link.download} is saved.`);
};

// --- samples --------------------------------------------------------------------------------------------------------

function thumb(kind, label, source) {
  const box = document.createElement("label");
  box.title = label;
  box.innerHTML = `<input type="radio" name="${kind}"><img alt="" decoding="async" draggable="false">`;
  const [input, image] = box.children;
  input.setAttribute("aria-label", label);
  image.src = source;
  return { box, input, image };
}

function sample(kind, file, label) {
  const { box, input, image } = thumb(kind, label, `samples/${file}.jpg`);
  input.onchange = async () => {
    const mine = ++wishes[kind];
    tell("error", "");
    if (kind === "photograph") tell("notice", "");
    try {
      await image.decode();
    } catch {
      return complain(new PictureError(`The sample “${label}” can’t be loaded.`));
    }
    if (mine !== wishes[kind]) return; // something else was chosen meanwhile
    stopCamera(kind);
    if (kind === "photograph") name = file;
    const picture = pixelsOf(image).data; // of the image that is shown: nothing is asked for again
    samplesRead.set(file, samplesRead.get(file) ?? picture);
    await choose(kind, samplesRead.get(file));
  };
  at(`${kind}s`).append(box);
  return input;
}

const samplesRead = new Map(); // a painting keeps its code that way
const first = [
  ...PHOTOGRAPHS.map(([file, label]) => sample("photograph", file, label)).slice(2, 3),
  ...PAINTINGS.map(([file, label]) => sample("painting", file, label)).slice(3),
];

// --- files ----------------------------------------------------------------------------------------------------------

async function take(kind, file) {
  const mine = ++wishes[kind];
  tell("error", "");
  tell("notice", "");
  try {
    const { data, scaled } = await read(file);
    if (mine !== wishes[kind]) return;
    if (kind === "painting" && Math.min(data.width, data.height) < SMALLEST_SIDE) {
      throw new PictureError(`“${file.name}” is too small for a painting: ${data.width} × ${data.height}; at least 16 pixels a side show strokes.`);
    }
    stopCamera(kind);
    if (kind === "photograph") name = (file.name || "photograph").replace(/\.[^.]*$/, "");
    if (scaled && kind === "photograph") {
      tell("notice", `${scaled.width} × ${scaled.height} is more than can be painted at once here (4 million pixels): it was scaled down to ${data.width} × ${data.height}.`);
    }
    own(kind, data, file.name);
    await choose(kind, data);
  } catch (error) {
    complain(error);
  }
}

/** A picture of one's own stands before the samples, chosen; the one before it goes. */
function own(kind, picture, label) {
  const list = at(`${kind}s`);
  list.querySelector(".own")?.remove();
  const small = document.createElement("canvas");
  const side = Math.min(picture.width, picture.height);
  [small.width, small.height] = [160, 160];
  const whole = document.createElement("canvas");
  put(whole, picture);
  small.getContext("2d").drawImage(whole, (picture.width - side) / 2, (picture.height - side) / 2, side, side, 0, 0, 160, 160);
  const { box, input } = thumb(kind, `Yours: ${label || "picture"}`, small.toDataURL());
  box.classList.add("own");
  input.checked = true;
  const called = name;
  input.onchange = () => {
    ++wishes[kind];
    stopCamera(kind);
    if (kind === "photograph") name = called;
    choose(kind, picture);
  };
  list.prepend(box);
}

for (const kind of ["photograph", "painting"]) {
  const input = at(`${kind}-file`);
  input.onchange = () => {
    const [file] = input.files;
    if (file) take(kind, file);
    input.value = ""; // the same file again is a change, too
  };
}

// --- dropping and pasting -------------------------------------------------------------------------------------------

const drop = at("drop");
const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  drop.hidden = false;
  const over = event.target.closest?.("[data-kind]");
  for (const half of drop.children) half.classList.toggle("over", half === over);
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.hidden = true;
});
addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  drop.hidden = true;
  const kind = event.target.closest?.("[data-kind]")?.dataset.kind ?? "photograph";
  const [file] = event.dataTransfer.files;
  if (file) take(kind, file);
});
addEventListener("paste", (event) => {
  const [file] = event.clipboardData?.files ?? [];
  if (file) take("photograph", file);
});

// --- camera ---------------------------------------------------------------------------------------------------------

const camera = new Camera({
  async onFrame(picture) {
    const { painting } = chosen;
    if (!(await started) || !painting) return camera.stop();
    const { picture: out } = await painter.paint(picture, painting);
    if (!camera.live) return;
    showPhotograph(picture);
    put(after, out);
    [chosen.photograph, painted] = [picture, out];
    frame.classList.add("painted");
    at("download").disabled = false;
  },
  onRate(rate, width, height) {
    at("rate").textContent = `${rate < 10 ? rate.toFixed(1) : Math.round(rate)} frames a second · ${width} × ${height}`;
  },
  onError(error) {
    stopCamera("photograph");
    complain(error);
  },
});

function showCamera(live) {
  at("camera").setAttribute("aria-pressed", live);
  at("camera").querySelector("span").textContent = live ? "Stop" : "Camera";
  at("shot").hidden = at("rate").hidden = !live;
  if (!live) at("rate").textContent = "";
}

/** A photograph that is chosen ends the camera's picture; a painting doesn't. */
function stopCamera(kind) {
  if (kind !== "photograph" || !camera.live) return;
  camera.stop();
  showCamera(false);
}

at("camera").onclick = async () => {
  tell("error", "");
  if (camera.live) {
    stopCamera("photograph");
    return say("The camera is off.");
  }
  const before = at("status").textContent;
  try {
    say("Asking for the camera…");
    await camera.start();
    ++turn; // what is being painted isn't waited for
    ++wishes.photograph;
    frame.classList.remove("working");
    for (const input of at("photographs").querySelectorAll("input")) input.checked = false;
    name = "camera";
    showCamera(true);
    say(`Live · ${engine ?? "loading"}`);
  } catch (error) {
    say(before);
    complain(error);
  }
};

at("shot").onclick = async () => {
  const { data } = camera.whole();
  stopCamera("photograph");
  own("photograph", data, "from the camera");
  await choose("photograph", data);
};

// --- offline --------------------------------------------------------------------------------------------------------

let kept = false;
function keepOffline() {
  if (kept || !("serviceWorker" in navigator) || !window.isSecureContext) return;
  kept = true; // after the first picture: it shall not wait for this
  navigator.serviceWorker
    .register("service-worker.js", { updateViaCache: "none" })
    .then(() => navigator.serviceWorker.ready)
    .then(() => {
      at("offline").hidden = false;
      document.documentElement.dataset.offline = "ready";
    })
    .catch(() => {}); // a private window, or storage that is full: the page works all the same
}

for (const input of first) {
  input.checked = true;
  input.onchange();
}
