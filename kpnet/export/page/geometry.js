// Fits images into the model's input exactly as kpnet.coordinates and kpnet.data.images do.
//
// A pixel's centre is at an integer, and sizes are [height, width]. A matrix [a, b, c, d, e, f] maps pixels of the
// image to pixels of the input: x' = a x + b y + c and y' = d x + e y + f.

const SLIVER = 1e-3; // of a pixel: less of it does not count
const BAND = 512; // rows of an image that are read at once: a photo of any size needs little memory

function roundHalfEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

/** Where `region` (left, top, right, bottom) of an image lands, resized to `inner` at `top` and `left` of the input. */
function makeView(region, inner, top, left) {
  const [sx, sy] = [inner[1] / (region[2] - region[0]), inner[0] / (region[3] - region[1])];
  const [cx, cy] = [(sx - 1) / 2 + left - sx * region[0], (sy - 1) / 2 + top - sy * region[1]];
  return { region, inner, top, left, matrix: [sx, 0, cx, 0, sy, cy] };
}

/** The whole image, fitted into the input with its aspect ratio kept, centred on whole pixels. */
function letterbox(source, target) {
  const scale = Math.min(target[0] / source[0], target[1] / source[1]);
  const inner = source.map((side, i) => Math.min(target[i], Math.max(1, roundHalfEven(side * scale))));
  const [top, left] = inner.map((side, i) => Math.floor((target[i] - side) / 2));
  return makeView([0, 0, source[1], source[0]], inner, top, left);
}

/** The region of whole pixels around a box (x0, y0, x1, y1), with the aspect ratio of the input; null without area. */
function cropView(box, scale, source, target) {
  const clip = (value, side) => Math.min(Math.max(value, -0.5), side - 0.5);
  const [x0, y0, x1, y1] = box.map((value, i) => clip(value, source[1 - (i % 2)]));
  const [w, h] = [x1 - x0, y1 - y0];
  if (!(w > 0 && h > 0)) return null;
  const aspect = target[1] / target[0];
  const sides = [scale * Math.max(w, h * aspect), scale * Math.max(h, w / aspect)];
  const [width, height] = sides.map((side) => Math.max(1, roundHalfEven(side)));
  const left = roundHalfEven((x0 + x1) / 2 + 0.5 - width / 2);
  const top = roundHalfEven((y0 + y1) / 2 + 0.5 - height / 2);
  return makeView([left, top, left + width, top + height], target, 0, 0);
}

/** Of each of `target` pixels along an axis, the weights of the pixels from `first` on, of which it is the mean. */
function areaTaps(source, target) {
  const scale = source / target;
  return Array.from({ length: target }, (_, i) => {
    const [start, end] = [i * scale, (i + 1) * scale];
    const [whole, weights] = [Math.min(scale, source - start), []];
    let first = Math.floor(start);
    if (Math.min(end, first + 1) - start <= SLIVER) first++;
    for (let pixel = first; pixel < source; pixel++) {
      const share = Math.min(end, pixel + 1) - Math.max(start, pixel);
      if (share <= SLIVER) break;
      weights.push(share / whole);
    }
    return { first, step: 1, weights: Float32Array.from(weights) };
  });
}

/** The same where `source` is a multiple of `target`: whole pixels, which are added up and divided at the end. */
function wholeTaps(source, target) {
  const weights = new Float32Array(source / target).fill(1);
  return Array.from({ length: target }, (_, i) => ({ first: i * weights.length, step: 1, weights }));
}

/** The same of linear interpolation, in weights of 1 / 2048. Beyond the edges, the pixel at the edge is taken. */
function linearTaps(source, target) {
  return Array.from({ length: target }, (_, i) => {
    const at = Math.fround((i + 0.5) * (source / target) - 0.5);
    const [low, high] = [Math.floor(at), Math.floor(at) + 1].map((pixel) => Math.min(Math.max(pixel, 0), source - 1));
    const weight = roundHalfEven((at - Math.floor(at)) * 2048);
    return { first: low, step: high - low, weights: Float32Array.of(2048 - weight, weight) };
  });
}

/** RGBA pixels as floats of 1 (grey, with the weights of OpenCV) or 3 channels. */
function toChannels(rgba, channels) {
  const count = rgba.length / 4;
  const out = new Float32Array(count * channels);
  for (let i = 0; i < count; i++) {
    const at = 4 * i;
    if (channels === 1) {
      out[i] = (9798 * rgba[at] + 19235 * rgba[at + 1] + 3735 * rgba[at + 2] + 16384) >> 15;
    } else {
      for (let c = 0; c < 3; c++) out[3 * i + c] = rgba[at + c];
    }
  }
  return out;
}

/** Adds up rows (`width` columns of `channels` floats) along x by the taps; the result begins at row `start`. */
function resizeColumns(rows, width, channels, taps, area, out, start) {
  const count = rows.length / (width * channels);
  for (let y = 0; y < count; y++) {
    for (let x = 0; x < taps.length; x++) {
      const { first, step, weights } = taps[x];
      for (let c = 0; c < channels; c++) {
        let [sum, at] = [0, (y * width + first) * channels + c];
        for (let k = 0; k < weights.length; k++, at += step * channels) {
          sum = Math.fround(sum + Math.fround(weights[k] * rows[at]));
        }
        out[((start + y) * taps.length + x) * channels + c] = area ? sum : Math.floor(sum / 16);
      }
    }
  }
}

/** Adds up a row of the result along y, and rounds it to bytes. */
function resizeRow(narrow, stride, { first, step, weights }, area, round, out) {
  const sums = new Float32Array(stride);
  for (let k = 0; k < weights.length; k++) {
    const at = (first + k * step) * stride;
    for (let i = 0; i < stride; i++) {
      const product = weights[k] * narrow[at + i];
      sums[i] = sums[i] + (area ? Math.fround(product) : Math.floor(product / 65536));
    }
  }
  for (let i = 0; i < stride; i++) out[i] = round(sums[i]);
}

/** The taps for shrinking by `down` and `across`, or for linear interpolation, and how their sums become bytes. */
function resizing(down, across, area) {
  if (!area) return [linearTaps, (sum) => Math.floor((sum + 2) / 4)];
  if (!Number.isInteger(down) || !Number.isInteger(across)) return [areaTaps, roundHalfEven];
  const scale = Math.fround(1 / (down * across));
  if (down === 2 && across === 2) return [wholeTaps, (sum) => Math.floor(sum * scale + 0.5)];
  return [wholeTaps, (sum) => roundHalfEven(Math.fround(sum * scale))];
}

/**
 * The model's input, Uint8Array of [height, width, channels]: the view's region of an image, resized by area averaging
 * where both sides shrink or stay, else linearly, with the roundings of OpenCV. `read(left, top, width, height)` gives
 * RGBA pixels of the image, black outside of it.
 */
function fitImage(read, view, target, channels) {
  const [left, top, right, bottom] = view.region;
  const [width, height] = [right - left, bottom - top];
  const area = view.inner[0] <= height && view.inner[1] <= width;
  const [makeTaps, round] = resizing(height / view.inner[0], width / view.inner[1], area);
  const [columns, rows] = [makeTaps(width, view.inner[1]), makeTaps(height, view.inner[0])];
  const narrow = new Float32Array(height * view.inner[1] * channels);
  for (let y = 0; y < height; y += BAND) {
    const band = toChannels(read(left, top + y, width, Math.min(BAND, height - y)), channels);
    resizeColumns(band, width, channels, columns, area, narrow, y);
  }
  const input = new Uint8Array(target[0] * target[1] * channels);
  const stride = view.inner[1] * channels;
  rows.forEach((taps, y) => {
    const start = ((view.top + y) * target[1] + view.left) * channels;
    resizeRow(narrow, stride, taps, area, round, input.subarray(start, start + stride));
  });
  return input;
}

/** Radius, in standard deviations, of the ellipse that holds the true point; `dof` null for normal errors. */
function ellipseRadius(probability, dof) {
  if (dof === null) return Math.sqrt(-2 * Math.log1p(-probability));
  return Math.sqrt((dof - 2) * Math.expm1((-2 / dof) * Math.log1p(-probability)));
}

/** Half axes (in standard deviations) and angle of the ellipse of a covariance [xx, xy, yx, yy]. */
function ellipseAxes([xx, xy, , yy]) {
  const [mean, half] = [(xx + yy) / 2, Math.hypot((xx - yy) / 2, xy)];
  return [Math.sqrt(mean + half), Math.sqrt(Math.max(mean - half, 0)), Math.atan2(2 * xy, xx - yy) / 2];
}
