// Written by `python -m kbstyle_example web --rebuild`.
self.KBSTYLE = {
  "version": "fe0ab8e7f910d956",
  "weights": "9bc22d3014b079f86bd0a4a64fd94c4119eedc3784fe17d68f13af0ab7aee367",
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
