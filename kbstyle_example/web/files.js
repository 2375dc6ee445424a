// Written by `python -m kbstyle_example web --rebuild`.
self.KBSTYLE = {
  "version": "14ae38178d375aa0",
  "weights": "a786e3f8baf765633a5b6410165034f95f3fdb28478d0a2482615d8a7bbeb812",
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
