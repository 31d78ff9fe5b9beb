// Draws an image and its predictions on a canvas.

const LABEL_GAP = 7; // pixels between a point and its name
const NO_CONFIDENCE = "#ff2b2b";

/** From red (confidence 0) to green (confidence 1), as kpnet draws points elsewhere. */
function pointColour(confidence) {
  return confidence === null ? NO_CONFIDENCE : `hsl(${Math.round(120 * Math.min(Math.max(confidence, 0), 1))} 95% 48%)`;
}

/** Fits the canvas to an image and the width that it has; returns the canvas pixels of a pixel of the image. */
function sizeCanvas(canvas, [height, width]) {
  const room = Math.max(canvas.parentElement.clientWidth, 1);
  const shown = Math.min(room / width, (0.75 * window.innerHeight) / height);
  const scale = shown * (window.devicePixelRatio || 1);
  canvas.style.width = `${Math.max(1, Math.round(width * shown))}px`;
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  return canvas.width / width;
}

/**
 * Draws the instances over the source. `view` has `names`, `edges` (pairs of indices), `radius` of the ellipses in
 * standard deviations, `show` (names, ellipses, edges), `boxes`, and `highlight`: the index of a point, or null.
 */
function drawResult(canvas, source, size, instances, view) {
  const scale = sizeCanvas(canvas, size);
  const context = canvas.getContext("2d");
  const unit = canvas.width / Math.max(canvas.clientWidth, 1); // canvas pixels per pixel of the page
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  const place = ([x, y]) => [(x + 0.5) * scale, (y + 0.5) * scale];
  context.lineWidth = 1.5 * unit;
  for (const box of view.boxes) strokeBox(context, box, place, unit);
  const taken = [];
  for (const { points, confidence, covariance } of instances) {
    const at = points.map(place);
    const sure = points.map((_, i) => (confidence ? confidence[i] : null));
    if (view.show.edges) strokeEdges(context, at, view.edges, unit);
    if (view.show.ellipses && covariance) {
      at.forEach((centre, i) => strokeEllipse(context, centre, covariance[i], view.radius * scale, sure[i], unit));
    }
    at.forEach((centre, i) => fillDot(context, centre, sure[i], unit, view.highlight === i, points.length));
    if (view.show.names) at.forEach((centre, i) => writeName(context, centre, view.names[i], taken, unit));
  }
}

function strokeBox(context, [x0, y0, x1, y1], place, unit) {
  const [left, top] = place([x0, y0]);
  const [right, bottom] = place([x1, y1]);
  for (const [colour, width] of [["#000a", 3.5], ["#fff", 1.5]]) {
    context.strokeStyle = colour;
    context.lineWidth = width * unit;
    context.strokeRect(left, top, right - left, bottom - top);
  }
}

function strokeEdges(context, at, edges, unit) {
  context.strokeStyle = "#ffd23fcc";
  context.lineWidth = 1.5 * unit;
  context.beginPath();
  for (const [a, b] of edges) {
    context.moveTo(...at[a]);
    context.lineTo(...at[b]);
  }
  context.stroke();
}

function strokeEllipse(context, [x, y], covariance, radius, confidence, unit) {
  const [major, minor, angle] = ellipseAxes(covariance);
  context.strokeStyle = pointColour(confidence);
  context.lineWidth = 1.2 * unit;
  context.beginPath();
  context.ellipse(x, y, major * radius, minor * radius, angle, 0, 2 * Math.PI);
  context.stroke();
}

function fillDot(context, [x, y], confidence, unit, highlighted, count) {
  const radius = (count > 30 ? 2.2 : 3.2) * unit;
  context.fillStyle = pointColour(confidence);
  context.strokeStyle = "#000b";
  context.lineWidth = unit;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
  context.stroke();
  if (!highlighted) return;
  context.strokeStyle = "#fff";
  context.lineWidth = 2 * unit;
  context.beginPath();
  context.arc(x, y, radius + 5 * unit, 0, 2 * Math.PI);
  context.stroke();
}

/** Writes a name beside its point where it covers no other name and stays on the canvas; else not at all. */
function writeName(context, [x, y], name, taken, unit) {
  context.font = `${12 * unit}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const text = name.length > 24 ? `${name.slice(0, 23)}…` : name;
  const [width, height, gap] = [context.measureText(text).width, 14 * unit, LABEL_GAP * unit];
  const corners = [
    [x + gap, y - height / 2],
    [x - gap - width, y - height / 2],
    [x - width / 2, y - gap - height],
    [x - width / 2, y + gap],
  ];
  const fits = ([left, top]) =>
    left >= 0 && top >= 0 && left + width <= context.canvas.width && top + height <= context.canvas.height &&
    !taken.some((box) => left < box[2] && left + width > box[0] && top < box[3] && top + height > box[1]);
  const corner = corners.find(fits);
  if (!corner) return;
  taken.push([corner[0], corner[1], corner[0] + width, corner[1] + height]);
  context.lineWidth = 3 * unit;
  context.lineJoin = "round";
  context.strokeStyle = "#000c";
  context.fillStyle = "#fff";
  context.strokeText(text, corner[0], corner[1] + height / 2);
  context.fillText(text, corner[0], corner[1] + height / 2);
}
