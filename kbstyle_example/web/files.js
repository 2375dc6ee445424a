// Written by `python -m kbstyle_example web --rebuild`.
self.KBSTYLE = {
  "version": "b672c87318d23c03",
  "weights": "853b70f234f6d21cb68e58242c8ddc3ea0e0e27ff15a2c086ba4fa11e18ae85d",
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
