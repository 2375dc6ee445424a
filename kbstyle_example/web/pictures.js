// Pictures in: files and what the camera shows, as pixels the network can take. Nothing here leaves the machine.

export const MOST_PIXELS = 2 ** 22; // painted at once: whole features of more don't fit into a page's memory
export const MOST_TO_OPEN = 100e6; // pixels; more can end the tab before anything can be said
export const MOST_BYTES = 100 * 2 ** 20;
export const SMALLEST_SIDE = 16;

/** An error whose message is for the person in front of the page. */
export class PictureError extends Error {}

const millions = (count) => (count / 1e6).toFixed(count < 1e7 ? 1 : 0).replace(/\.0$/, "");

/** Width and height as the head of a PNG, JPEG or GIF file says, or null. */
export function saidSize(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length > 24 && view.getUint32(0) === 0x89504e47) return [view.getUint32(16), view.getUint32(20)];
  if (bytes.length > 10 && view.getUint32(0) === 0x47494638) return [view.getUint16(6, true), view.getUint16(8, true)];
  if (bytes.length > 4 && view.getUint16(0) === 0xffd8) {
    let at = 2;
    while (at + 9 < bytes.length && bytes[at] === 0xff) {
      const marker = bytes[at + 1];
      const frame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
      if (frame) return [view.getUint16(at + 7), view.getUint16(at + 5)];
      at += 2 + view.getUint16(at + 2);
    }
  }
  return null;
}

/** A file as pixels: upright, in sRGB, scaled down where it has more than `most` pixels. */
export async function read(file, { most = MOST_PIXELS } = {}) {
  const name = file.name || "The picture";
  if (!file.size) throw new PictureError(`“${name}” is empty.`);
  if (file.size > MOST_BYTES) {
    const size = Math.round(file.size / 2 ** 20);
    throw new PictureError(`“${name}” is too large: ${size} MB, and at most 100 MB can be opened here.`);
  }
  const said = saidSize(new Uint8Array(await file.slice(0, 2 ** 18).arrayBuffer()));
  if (said && said[0] * said[1] > MOST_TO_OPEN) {
    const got = `${said[0]} × ${said[1]}, ${millions(said[0] * said[1])} million pixels`;
    throw new PictureError(`“${name}” is too large: ${got}. At most ${millions(MOST_TO_OPEN)} million can be opened here; scale it down first.`);
  }
  let image;
  try {
    image = await createImageBitmap(file, { premultiplyAlpha: "none" });
  } catch {
    const picture = file.type.startsWith("image/") || said;
    throw new PictureError(
      picture
        ? `“${name}” can’t be opened: it is damaged, or of a kind this browser doesn’t know. JPEG, PNG and WebP always work.`
        : `“${name}” isn’t a picture. JPEG, PNG and WebP work.`,
    );
  }
  try {
    return { ...pixelsOf(image, most), name };
  } finally {
    image.close();
  }
}

/** An image, bitmap or video frame as pixels, at most `most` of them. */
export function pixelsOf(image, most = MOST_PIXELS) {
  const width = image.naturalWidth || image.videoWidth || image.width;
  const height = image.naturalHeight || image.videoHeight || image.height;
  const scale = Math.min(1, Math.sqrt(most / (width * height)));
  const size = [Math.max(1, Math.floor(width * scale)), Math.max(1, Math.floor(height * scale))];
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = scale < 1 ? size : [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const data = context.getImageData(0, 0, canvas.width, canvas.height);
  return { data, scaled: scale < 1 ? { width, height } : null };
}

/** The painting over the photograph as the strength says, in steps of 1/255; the photograph's transparency stays. */
export function blended(photograph, painted, strength) {
  const out = new ImageData(photograph.width, photograph.height);
  const [below, above, into] = [photograph.data, painted.data, out.data];
  for (let k = 0; k < into.length; k += 4) {
    for (let c = k; c < k + 3; c++) into[c] = Math.round(below[c] + strength * (above[c] - below[c]));
    into[k + 3] = below[k + 3];
  }
  return out;
}
