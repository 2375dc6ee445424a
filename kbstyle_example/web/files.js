// Written by `python -m kbstyle_example web --rebuild`.
self.KBSTYLE = {
  "version": "3c23588a8a45108e",
  "weights": "245738407a2e9995943ce83ebc5e0d8ece9c1912d0d7dbd97ca3fdb49b7c74f7",
  "files": [
    "app.webmanifest",
    "camera.js",
    "icon.svg",
    "index.html",
    "kbstyle-paint.onnx",
    "kbstyle-style.onnx",
    "numbers.js",
    "page.js",
    "painter.js",
    "pictures.js",
    "samples/astronaut.jpg",
    "samples/cafe_terrace_at_night.jpg",
    "samples/chelsea_cat.jpg",
    "samples/church_at_auvers.jpg",
    "samples/coffee.jpg",
    "samples/eilean_donan.jpg",
    "samples/harvest.jpg",
    "samples/portrait_of_pere_tanguy.jpg",
    "service-worker.js",
    "style.css",
    "worker.js",
    "files.js",
    "runtime/ort.wasm.min.mjs",
    "runtime/ort-wasm-simd-threaded.mjs",
    "runtime/ort-wasm-simd-threaded.wasm"
  ]
};
