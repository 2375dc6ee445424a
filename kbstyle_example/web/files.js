// Written by `python -m kbstyle_example web --rebuild`.
self.KBSTYLE = {
  "version": "bfa4df1cf7094976",
  "weights": "2f26a37c4bd01bd0f1c30acf05bba7f5ac13c252a38e64a5282548117d1fa8ce",
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
