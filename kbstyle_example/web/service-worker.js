// Keeps the page, so that it opens without a network and asks for nothing once it is loaded.

importScripts("files.js");

const NAME = `kbstyle-${self.KBSTYLE.version}`;
const ISOLATED = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

self.addEventListener("install", (event) => {
  const keep = async () => {
    const cache = await caches.open(NAME);
    await cache.addAll(self.KBSTYLE.files.map((file) => new Request(file, { cache: "no-cache" })));
    await self.skipWaiting();
  };
  event.waitUntil(keep());
});

self.addEventListener("activate", (event) => {
  const tidy = async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith("kbstyle-") && name !== NAME);
    await Promise.all(old.map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(tidy());
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== self.location.origin) return;
  event.respondWith(answer(event.request, url));
});

async function answer(request, url) {
  const cache = await caches.open(NAME);
  const wanted = url.pathname.endsWith("/") ? new URL("index.html", url).href : request.url;
  let found = await cache.match(wanted, { ignoreSearch: true });
  if (!found) {
    found = await fetch(request);
    if (found.ok && url.pathname.includes("/runtime/")) await cache.put(wanted, found.clone()); // WebGPU's, where used
    return found;
  }
  // Servers of static files don't send these; with them a browser lets the page have threads.
  const headers = new Headers(found.headers);
  for (const [name, value] of Object.entries(ISOLATED)) headers.set(name, value);
  return new Response(found.body, { status: found.status, statusText: found.statusText, headers });
}
