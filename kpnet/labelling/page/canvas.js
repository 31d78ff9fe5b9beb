// The image and its points: view, drawing, mouse and touch.
// A pixel's centre has whole coordinates, so the image reaches from -0.5 to its width - 0.5.

import { changed, commit, copy, isPlaced, moveTo, place, proposed, setBox, state, suspected } from "./state.js";

const stage = document.getElementById("stage");
const pixels = document.getElementById("pixels"), marks = document.getElementById("marks");
const LEFT = "#ff8c1a", RIGHT = "#3fa7ff", MIDDLE = "#f2f2f2", EDGE = "#ffe15a", PROPOSAL = "#c99bff", SUSPECTED = "#ff4d4d";
const MOST = 64, LEAST = 1 / 64, CLICK = 4; // zoom, and CSS pixels that a click may move

export const view = { scale: 1, x: 0, y: 0 }; // CSS pixels a pixel, and where the image's upper left edge is
let bitmap = null, asked = false;

export const toImage = (x, y) => [(x - view.x) / view.scale - 0.5, (y - view.y) / view.scale - 0.5];
export const toStage = (x, y) => [view.x + (x + 0.5) * view.scale, view.y + (y + 0.5) * view.scale];
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
export const inImage = ([x, y]) => (bitmap ? [clamp(x, -0.5, bitmap.width - 0.5), clamp(y, -0.5, bitmap.height - 0.5)] : [x, y]);
export const hasImage = () => bitmap !== null;
export const middle = () => inImage(toImage(stage.clientWidth / 2, stage.clientHeight / 2));

/** Where the browser paints the stage: its edges lie on whole pixels of the screen, those of the layout need not. */
function frame() {
  const box = stage.getBoundingClientRect(), ratio = window.devicePixelRatio;
  const snap = (value) => Math.round(value * ratio) / ratio;
  return { left: snap(box.left), top: snap(box.top), width: snap(box.right) - snap(box.left), height: snap(box.bottom) - snap(box.top) };
}

/** Show an image, or none; the view stays where the next image has the same size. */
export function setImage(image) {
  const keeps = bitmap && image && bitmap.width === image.width && bitmap.height === image.height;
  bitmap = image;
  if (!keeps) fit();
  draw();
}

export function fit() {
  if (!bitmap) return;
  view.scale = clamp(Math.min(stage.clientWidth / bitmap.width, stage.clientHeight / bitmap.height) * 0.98, LEAST, MOST);
  view.x = (stage.clientWidth - bitmap.width * view.scale) / 2;
  view.y = (stage.clientHeight - bitmap.height * view.scale) / 2;
  draw();
}

export function zoom(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  setScale(view.scale * factor, x, y);
}

export function setScale(scale, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  const [ix, iy] = toImage(x, y);
  view.scale = clamp(scale, LEAST, MOST);
  view.x += x - toStage(ix, iy)[0];
  view.y += y - toStage(ix, iy)[1];
  draw();
}

export function pan(dx, dy) {
  view.x += dx;
  view.y += dy;
  draw();
}

/** Bring a place of the image into sight. */
export function reveal(at) {
  const [x, y] = toStage(...at), edge = 20;
  pan(
    x < edge ? edge - x : x > stage.clientWidth - edge ? stage.clientWidth - edge - x : 0,
    y < edge ? edge - y : y > stage.clientHeight - edge ? stage.clientHeight - edge - y : 0,
  );
}

export function draw() {
  if (!asked) requestAnimationFrame(paint);
  asked = true;
}

function paint() {
  asked = false;
  // Whole pixels of the screen, so that an image at 1:1 is sharp.
  const ratio = window.devicePixelRatio;
  view.x = Math.round(view.x * ratio) / ratio;
  view.y = Math.round(view.y * ratio) / ratio;
  const { width, height } = frame();
  for (const canvas of [pixels, marks]) {
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== w || canvas.height !== h) {
      canvas.width = w;
      canvas.height = h;
      canvas.style.width = `${w / ratio}px`;
      canvas.style.height = `${h / ratio}px`;
    }
  }
  const image = pixels.getContext("2d"), over = marks.getContext("2d");
  image.setTransform(1, 0, 0, 1, 0, 0);
  image.clearRect(0, 0, pixels.width, pixels.height);
  over.setTransform(1, 0, 0, 1, 0, 0);
  over.clearRect(0, 0, marks.width, marks.height);
  if (!bitmap) return;
  image.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
  image.imageSmoothingEnabled = view.scale * ratio < 3;
  image.imageSmoothingQuality = "high";
  image.drawImage(bitmap, 0, 0);
  over.setTransform(ratio, 0, 0, ratio, 0, 0);
  state.instances.forEach((each, number) => drawInstance(over, each, number));
  drawCrosshair(over);
  stage.dataset.view = JSON.stringify(view);
}

function colours() {
  const found = (state.skeleton?.names ?? []).map(() => MIDDLE);
  for (const [left, right] of state.skeleton?.pairs ?? []) {
    found[state.skeleton.names.indexOf(left)] = LEFT;
    found[state.skeleton.names.indexOf(right)] = RIGHT;
  }
  return found;
}

function drawInstance(over, each, number) {
  const own = number === state.instance, offered = proposed(number), paint = colours();
  over.globalAlpha = own ? 1 : 0.45;
  const places = each.points.map((p, k) => (isPlaced(p) ? toStage(p[0], p[1]) : p === null && offered[k] ? toStage(offered[k][0], offered[k][1]) : null));
  if (each.box) {
    const [a, b] = [toStage(each.box[0], each.box[1]), toStage(each.box[2], each.box[3])];
    over.strokeStyle = "#7dff7d";
    over.lineWidth = 1.5;
    over.strokeRect(a[0], a[1], b[0] - a[0], b[1] - a[1]);
  }
  over.strokeStyle = EDGE;
  over.lineWidth = 1.2;
  for (const [a, b] of state.skeleton?.edges ?? []) {
    const [p, q] = [places[state.skeleton.names.indexOf(a)], places[state.skeleton.names.indexOf(b)]];
    if (p && q) { over.beginPath(); over.moveTo(...p); over.lineTo(...q); over.stroke(); }
  }
  each.points.forEach((p, k) => {
    if (!places[k]) return;
    const [x, y] = places[k], now = own && k === state.point;
    if (isPlaced(p)) drawPoint(over, x, y, paint[k], p[2] === 1, p[3] === "proposed", now);
    else drawProposal(over, x, y, offered[k], now);
  });
  for (const found of suspected()) if (found.instance === number) drawSuspicion(over, found.changes, each.points, offered);
  over.globalAlpha = 1;
}

function drawPoint(over, x, y, colour, hidden, isProposed, now) {
  const radius = now ? 6 : 4.5;
  over.beginPath();
  over.arc(x, y, radius, 0, 7);
  over.lineWidth = 4;
  over.strokeStyle = "#000a";
  over.stroke();
  over.lineWidth = 2;
  over.strokeStyle = isProposed ? PROPOSAL : colour;
  over.stroke();
  over.fillStyle = colour;
  if (!hidden && !now) over.fill(); // the chosen one stays open, so that the pixel beneath is seen
  if (now) { over.beginPath(); over.arc(x, y, 1.2, 0, 7); over.fill(); }
}

function drawProposal(over, x, y, [, , , a, b, angle], now) {
  over.strokeStyle = PROPOSAL;
  over.lineWidth = now ? 2.4 : 1.4;
  over.beginPath();
  over.moveTo(x - 4, y); over.lineTo(x + 4, y); over.moveTo(x, y - 4); over.lineTo(x, y + 4);
  over.stroke();
  if (a === null) return;
  over.setLineDash([4, 3]);
  over.beginPath();
  over.ellipse(x, y, a * view.scale, b * view.scale, angle, 0, 2 * Math.PI);
  over.stroke();
  over.setLineDash([]);
}

/** The labels that are suspected, each with a line to its mended place, and the model's points over them. */
function drawSuspicion(over, changes, points, offered) {
  for (const [k, before, after] of changes) {
    if (points[k] !== null && offered[k]) drawProposal(over, ...toStage(offered[k][0], offered[k][1]), offered[k], false);
    over.strokeStyle = SUSPECTED;
    over.lineWidth = 2;
    if (isPlaced(before)) { over.beginPath(); over.arc(...toStage(before[0], before[1]), 10, 0, 7); over.stroke(); }
    if (!isPlaced(before) || !isPlaced(after)) continue;
    over.beginPath();
    over.moveTo(...toStage(before[0], before[1]));
    over.lineTo(...toStage(after[0], after[1]));
    over.stroke();
  }
}

function drawCrosshair(over) {
  const at = state.crosshair;
  if (state.drawsBox && state.boxCorner && at) {
    const [a, b] = [toStage(...state.boxCorner), toStage(...at)];
    over.strokeStyle = "#7dff7d";
    over.strokeRect(a[0], a[1], b[0] - a[0], b[1] - a[1]);
  }
  if (!at) return;
  const [x, y] = toStage(...at);
  for (const [width, colour] of [[3, "#000a"], [1, "#fff"]]) {
    over.lineWidth = width;
    over.strokeStyle = colour;
    over.beginPath();
    over.moveTo(x - 22, y); over.lineTo(x - 4, y); over.moveTo(x + 4, y); over.lineTo(x + 22, y);
    over.moveTo(x, y - 22); over.lineTo(x, y - 4); over.moveTo(x, y + 4); over.lineTo(x, y + 22);
    over.stroke();
  }
}

// Mouse, pen and touch

const fingers = new Map();
let grip = null; // what one finger does: {from, at, point, before, moved}

const where = (event) => {
  const { left, top } = frame();
  return [event.clientX - left, event.clientY - top];
};

function hit([x, y], reach) {
  let best = null, nearest = reach;
  state.instances.forEach((each, number) => each.points.forEach((p, k) => {
    if (!isPlaced(p)) return;
    const [px, py] = toStage(p[0], p[1]), distance = Math.hypot(px - x, py - y) + (number === state.instance ? 0 : 3);
    if (distance < nearest) { nearest = distance; best = { number, k, dx: px - x, dy: py - y }; }
  }));
  return best;
}

stage.addEventListener("pointerdown", (event) => {
  if (!bitmap || event.button > 0) return;
  stage.setPointerCapture(event.pointerId);
  const at = where(event);
  fingers.set(event.pointerId, at);
  if (fingers.size > 1) { release(); return; }
  grip = { from: at, at, point: null, before: null, moved: false };
  state.crosshair = null;
  if (state.drawsBox) { state.boxCorner = toImage(...at); return; }
  const found = hit(at, event.pointerType === "touch" ? 22 : 9);
  if (found) {
    state.instance = found.number;
    state.point = found.k;
    grip.point = found;
    grip.before = copy(state.instances);
    changed();
  }
});

stage.addEventListener("pointermove", (event) => {
  if (!fingers.has(event.pointerId)) return;
  const at = where(event), old = fingers.get(event.pointerId);
  if (fingers.size === 2) pinch(event.pointerId, old, at);
  fingers.set(event.pointerId, at);
  if (!grip || fingers.size > 1) return;
  const threshold = grip.point ? (event.pointerType === "touch" ? CLICK : 1) : CLICK;
  grip.moved ||= Math.hypot(at[0] - grip.from[0], at[1] - grip.from[1]) > threshold;
  if (!grip.moved) return;
  if (state.drawsBox) state.crosshair = toImage(...at);
  else if (grip.point) { moveTo(...inImage(toImage(at[0] + grip.point.dx, at[1] + grip.point.dy))); changed(); }
  else pan(at[0] - grip.at[0], at[1] - grip.at[1]);
  grip.at = at;
  draw();
});

stage.addEventListener("pointerup", (event) => {
  const at = where(event), only = fingers.size === 1;
  fingers.delete(event.pointerId);
  if (!grip || !only) return;
  const done = grip;
  grip = null;
  if (state.drawsBox) {
    if (done.moved) { state.crosshair = null; setBox(inImage(state.boxCorner), inImage(toImage(...at))); }
    changed();
  } else if (done.point) {
    if (done.moved) commit(done.before);
  } else if (!done.moved) {
    const [x, y] = toImage(...done.from);
    if (x >= -0.5 && y >= -0.5 && x <= bitmap.width - 0.5 && y <= bitmap.height - 0.5) place(x, y);
  }
});

stage.addEventListener("pointercancel", (event) => { fingers.delete(event.pointerId); release(); });

/** Let go of what one finger held; a point that it moved goes back. */
function release() {
  if (grip?.before && grip.moved) { state.instances = grip.before; changed(); }
  grip = null;
}

function pinch(id, old, at) {
  const other = [...fingers].find(([key]) => key !== id)[1];
  const spread = (a) => Math.max(Math.hypot(a[0] - other[0], a[1] - other[1]), 1);
  const centre = [(old[0] + other[0]) / 2, (old[1] + other[1]) / 2];
  zoom(spread(at) / spread(old), ...centre);
  pan((at[0] - old[0]) / 2, (at[1] - old[1]) / 2);
}

stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 30 : 1;
  zoom(Math.exp(-clamp(event.deltaY * lines, -300, 300) * (event.ctrlKey ? 0.01 : 0.0022)), ...where(event));
  changed();
}, { passive: false });

stage.addEventListener("dblclick", (event) => event.preventDefault());
new ResizeObserver(() => draw()).observe(stage);

export function filter(brightness, contrast) {
  pixels.style.filter = brightness === 100 && contrast === 100 ? "" : `brightness(${brightness}%) contrast(${contrast}%)`;
}

