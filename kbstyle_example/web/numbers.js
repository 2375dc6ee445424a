// Pixels to the network's numbers and back, as Python's `stylize` does it.

export const LONGEST_STYLE_SIDE = 512;
const SMALLEST_SIDE = 16;

/** Round to the nearest, halves to even, as torch does. */
function rounded(x) {
  const down = Math.floor(x);
  const rest = x - down;
  return rest < 0.5 || (rest === 0.5 && down % 2 === 0) ? down : down + 1;
}

/** RGBA on white → RGB: as paintings are read. */
export function onWhite(rgba) {
  const out = new Uint8ClampedArray((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    const alpha = rgba[from + 3] / 255;
    for (let c = 0; c < 3; c++) out[to + c] = Math.round(255 + alpha * (rgba[from + c] - 255));
  }
  return out;
}

/** RGBA → RGB; what is fully transparent takes the nearest colours around it, so that no hidden colour is painted with. */
export function seen(rgba, width, height) {
  const out = new Uint8ClampedArray(width * height * 3);
  let hidden = 0;
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    out[to] = rgba[from];
    out[to + 1] = rgba[from + 1];
    out[to + 2] = rgba[from + 2];
    hidden += rgba[from + 3] === 0;
  }
  if (!hidden) return out;
  if (hidden === width * height) return out.fill(255);
  // A pyramid of means over 2×2, weighted by alpha; each coarser level knows colours further away.
  let level = { width, height, sums: new Float32Array(width * height * 4) };
  for (let k = 0; k < rgba.length; k += 4) {
    level.sums[k + 3] = rgba[k + 3] / 255;
    for (let c = k; c < k + 3; c++) level.sums[c] = (rgba[c] / 255) * level.sums[k + 3];
  }
  const levels = [];
  do levels.push((level = halved(level)));
  while (Math.max(level.width, level.height) > 1);
  let found = null;
  for (const at of levels.reverse()) {
    const colours = new Float32Array(at.width * at.height * 3);
    for (let y = 0; y < at.height; y++) {
      for (let x = 0; x < at.width; x++) {
        const k = y * at.width + x;
        const weight = at.sums[4 * k + 3];
        const coarse = found && (y >> 1) * found.width + (x >> 1);
        for (let c = 0; c < 3; c++) colours[3 * k + c] = weight > 0 ? at.sums[4 * k + c] / weight : found.colours[3 * coarse + c];
      }
    }
    found = { width: at.width, colours };
  }
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const k = y * width + x;
      const near = (y >> 1) * found.width + (x >> 1);
      if (rgba[4 * k + 3] === 0) for (let c = 0; c < 3; c++) out[3 * k + c] = rounded(found.colours[3 * near + c] * 255);
    }
  }
  return out;
}

function halved({ width, height, sums }) {
  const half = { width: (width + 1) >> 1, height: (height + 1) >> 1 };
  half.sums = new Float32Array(half.width * half.height * 4);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const to = 4 * ((y >> 1) * half.width + (x >> 1));
      for (let c = 0; c < 4; c++) half.sums[to + c] += sums[4 * (y * width + x) + c] / 4;
    }
  }
  return half;
}

/** What each output position takes of one line: bicubic (a = −0.5), widened when scaling down so that nothing aliases. */
function taps(from, to) {
  const scale = from / to;
  const wide = Math.max(1, scale);
  const cubic = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0);
  return Array.from({ length: to }, (_, k) => {
    const centre = (k + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - 2 * wide + 0.5));
    const last = Math.min(from, Math.floor(centre + 2 * wide + 0.5));
    const weights = Float64Array.from({ length: last - first }, (_, j) => cubic(Math.abs((first + j - centre + 0.5) / wide)));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: weights.map((weight) => weight / total) };
  });
}

/** RGB in another size: along the rows, then along the columns, in 8 bits each. */
export function resized(rgb, width, height, toWidth, toHeight) {
  let out = rgb;
  if (toWidth !== width) {
    const lines = taps(width, toWidth);
    out = new Uint8ClampedArray(toWidth * height * 3);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < toWidth; x++) {
        const { first, weights } = lines[x];
        for (let c = 0; c < 3; c++) {
          let sum = 0;
          for (let j = 0, at = (y * width + first) * 3 + c; j < weights.length; j++, at += 3) sum += weights[j] * rgb[at];
          out[(y * toWidth + x) * 3 + c] = Math.floor(sum + 0.5);
        }
      }
    }
  }
  if (toHeight === height) return out;
  const lines = taps(height, toHeight);
  const row = toWidth * 3;
  const result = new Uint8ClampedArray(toHeight * row);
  for (let y = 0; y < toHeight; y++) {
    const { first, weights } = lines[y];
    for (let x = 0; x < row; x++) {
      let sum = 0;
      for (let j = 0, at = first * row + x; j < weights.length; j++, at += row) sum += weights[j] * out[at];
      result[y * row + x] = Math.floor(sum + 0.5);
    }
  }
  return result;
}

/** Height and width in the same proportion, the longer one `longest`. */
export function fitted(width, height, longest) {
  const scale = longest / Math.max(width, height);
  return [Math.max(1, rounded(width * scale)), Math.max(1, rounded(height * scale))];
}

/** RGB of 8 bits → planes in 0..1; sides below 16 grow by repeating the edge. */
export function planes(rgb, width, height) {
  const [w, h] = [Math.max(SMALLEST_SIDE, width), Math.max(SMALLEST_SIDE, height)];
  const out = new Float32Array(3 * w * h);
  const numbers = Float32Array.from({ length: 256 }, (_, k) => k / 255);
  for (let y = 0, to = 0; y < h; y++) {
    for (let x = 0; x < w; x++, to++) {
      const from = (Math.min(y, height - 1) * width + Math.min(x, width - 1)) * 3;
      for (let c = 0; c < 3; c++) out[c * w * h + to] = numbers[rgb[from + c]];
    }
  }
  return { data: out, dims: [1, 3, h, w] };
}

/** Planes in 0..1 → RGBA of 8 bits, cut to the size that was wanted. */
export function pixels(data, dims, width, height) {
  const [, , h, w] = dims;
  const out = new Uint8ClampedArray(width * height * 4);
  for (let y = 0, to = 0; y < height; y++) {
    for (let from = y * w; from < y * w + width; from++, to += 4) {
      for (let c = 0; c < 3; c++) out[to + c] = data[c * h * w + from] * 255; // a clamped array rounds halves to even
      out[to + 3] = 255;
    }
  }
  return out;
}
