// The page: images and the camera in, points on the canvas and in the table out.
//
// Texts that come from the model (names, title) are set as text, never as HTML.

const about = JSON.parse(document.getElementById("about").textContent);
const byId = (id) => document.getElementById(id);
const [canvas, video, stage] = [byId("canvas"), byId("video"), byId("stage")];
const MANY = 20; // points whose names would hide the image
const LEAST_DRAG = 3; // pixels of the page
const COLUMNS = ["image", "instance", "name", "x", "y", "confidence"];
const crops = about.crop !== null;
const edges = about.edges.map((edge) => edge.map((name) => about.names.indexOf(name)));

const items = []; // images in the order in which they came: name, file, boxes and instances (null: not yet predicted)
const live = { name: "camera", boxes: [], instances: [] };
const shown = { item: null, source: null, size: null, highlight: null, drag: null };
let [model, camera, facing, asked] = [null, null, "user", 0]; // asked: how often a camera was opened or stopped

function say(text) {
  byId("status").textContent = text;
}

function complain(text) {
  const line = document.createElement("li");
  line.textContent = text;
  byId("problems").append(line);
}

function firstLine(error) {
  return String(error?.message ?? error).split("\n")[0].slice(0, 200);
}

// Drawing

function draw() {
  if (!shown.source) return;
  const boxes = shown.drag ? [...shown.item.boxes, shown.drag] : shown.item.boxes;
  const show = Object.fromEntries(["names", "edges", "ellipses"].map((what) => [what, byId(`show-${what}`).checked]));
  const radius = ellipseRadius(0.9, about.dof);
  const view = { names: about.names, edges, radius, show, boxes, highlight: shown.highlight };
  drawResult(canvas, shown.source, shown.size, shown.item.instances ?? [], view);
}

function display(item, source, size) {
  if (shown.source !== source) shown.source?.close?.();
  Object.assign(shown, { item, source, size });
  for (const [id, hidden] of [["hint", true], ["canvas", false], ["results", false], ["boxes", !crops]]) {
    byId(id).hidden = hidden;
  }
  stage.classList.remove("empty");
  draw();
  fillTable();
  byId("pages").hidden = camera !== null || items.length < (item === live ? 1 : 2);
  byId("place").textContent = item === live ? "camera" : `${items.indexOf(item) + 1} / ${items.length}: ${item.name}`;
}

// The table

function tableRows(item) {
  return (item.instances ?? []).flatMap(({ points, confidence }, instance) =>
    points.map(([x, y], i) => [instance, about.names[i], x, y, confidence ? confidence[i] : null]),
  );
}

function cellTexts([instance, name, x, y, confidence]) {
  return [String(instance), name, x.toFixed(2), y.toFixed(2), confidence === null ? "" : confidence.toFixed(3)];
}

/** Sets a cell's text, which may break after an underscore. */
function setText(cell, text) {
  if (cell.textContent === text) return;
  const parts = text.split(/(?<=_)/);
  cell.replaceChildren(...parts.flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part])));
}

function fillTable() {
  const [rows, body] = [tableRows(shown.item), byId("rows")];
  if (body.rows.length !== rows.length) {
    body.replaceChildren(
      ...rows.map((_, i) => {
        const row = document.createElement("tr");
        for (let k = 0; k < 5; k++) row.insertCell().className = k === 4 ? "confidence" : "";
        row.addEventListener("pointerenter", () => highlight(i));
        row.addEventListener("pointerleave", () => highlight(null));
        return row;
      }),
    );
  }
  rows.forEach((row, i) => cellTexts(row).forEach((text, k) => setText(body.rows[i].cells[k], text)));
  body.parentElement.classList.toggle("single", shown.item.instances?.length === 1);
  body.parentElement.classList.toggle("plain", !shown.item.instances?.[0]?.confidence);
  const count = shown.item === live ? 1 : items.filter((item) => item.instances).length;
  byId("copy").textContent = count > 1 ? `Copy table of ${count} images` : "Copy table";
}

function highlight(row) {
  shown.highlight = row === null ? null : row % about.names.length;
  draw();
}

/** The table of all images, or of the camera's frame, as `kpnet predict` writes it. */
function csvText() {
  const quote = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const number = (value) => (value === null ? "" : value.toFixed(4));
  const lines = (shown.item === live ? [live] : items).flatMap((item) =>
    tableRows(item).map(([instance, name, ...numbers]) =>
      [quote(item.name), instance, quote(name), ...numbers.map(number)].join(","),
    ),
  );
  return `${[COLUMNS.join(","), ...lines].join("\n")}\n`;
}

async function copyTable() {
  try {
    await navigator.clipboard.writeText(csvText());
    say("The table is copied as CSV.");
  } catch {
    complain("This browser does not let the page copy: use Save CSV.");
  }
}

function saveTable() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csvText()], { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Images

/** A function that reads RGBA pixels of an image or a video, black outside of it, through a canvas of its own. */
function pixelReader(source) {
  const copy = document.createElement("canvas");
  const context = copy.getContext("2d", { willReadFrequently: true });
  return (left, top, width, height) => {
    [copy.width, copy.height] = [width, height]; // which also clears it
    context.drawImage(source, -left, -top);
    return context.getImageData(0, 0, width, height).data;
  };
}

/** Decodes a file as kpnet does: turned as its EXIF says, its colours not converted. */
async function decode(file) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  try {
    return await createImageBitmap(file, options);
  } catch {
    throw new Error("not an image that this browser can read");
  }
}

async function predictItem(item, image) {
  const size = [image.height, image.width];
  const views = model.views(size, item.boxes);
  item.instances = await model.predict(model.inputs(pixelReader(image), views), views);
  return size;
}

async function openItem(item) {
  const image = await decode(item.file);
  const size = item.instances ? [image.height, image.width] : await predictItem(item, image);
  if (camera) image.close();
  else display(item, image, size);
}

async function addFiles(files) {
  stopCamera();
  byId("problems").replaceChildren();
  for (const [i, file] of files.entries()) {
    say(files.length > 1 ? `Predicting image ${i + 1} of ${files.length} …` : "Predicting …");
    const item = { name: file.name, file, boxes: [], instances: null };
    try {
      items.push(item);
      await openItem(item);
    } catch (error) {
      items.splice(items.indexOf(item), 1);
      complain(`${file.name}: ${firstLine(error)}`);
    }
  }
  say(items.length ? `${items.length} image${items.length > 1 ? "s" : ""} predicted.` : "Ready.");
}

async function step(by) {
  const at = (items.indexOf(shown.item) + by + items.length) % items.length;
  await openItem(items[at]).catch((error) => complain(`${items[at].name}: ${firstLine(error)}`));
}

// Boxes

async function setBoxes(boxes) {
  const { item, source, size } = shown;
  const empty = boxes.find((box) => !cropView(box, about.box_scale, size, model.size));
  if (empty) {
    const numbers = empty.map((value) => +value.toFixed(1)).join(", ");
    complain(`Box ${numbers}: no area on this image of ${size[1]}x${size[0]}.`);
    return draw();
  }
  item.boxes = boxes;
  if (item === live && camera) return; // the next frame has them
  await predictItem(item, source);
  if (shown.source === source) display(item, source, size);
}

function pixelAt(event) {
  const room = canvas.getBoundingClientRect();
  const scale = shown.size[1] / room.width;
  return [(event.clientX - room.left) * scale - 0.5, (event.clientY - room.top) * scale - 0.5];
}

function listenToBoxes() {
  canvas.classList.add("boxing");
  let start = null;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    start = pixelAt(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!start) return;
    const end = pixelAt(event);
    shown.drag = [0, 1].map((k) => Math.min(start[k], end[k])).concat([0, 1].map((k) => Math.max(start[k], end[k])));
    draw();
  });
  canvas.addEventListener("pointerup", () => {
    const [box, least] = [shown.drag, (LEAST_DRAG * shown.size[1]) / canvas.clientWidth];
    [start, shown.drag] = [null, null];
    if (box && box[2] - box[0] > least && box[3] - box[1] > least) setBoxes([...shown.item.boxes, box]).catch(fail);
    else draw();
  });
  canvas.addEventListener("pointercancel", () => {
    [start, shown.drag] = [null, null];
    draw();
  });
  byId("clear-boxes").addEventListener("click", () => setBoxes([]).catch(fail));
  byId("box-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const box = byId("box-edges").value.split(/[\s,;]+/).filter(Boolean).map(Number);
    if (box.length !== 4 || !box.every(Number.isFinite)) return complain("Expected four numbers: x0, y0, x1, y1.");
    byId("box-edges").value = "";
    setBoxes([...shown.item.boxes, box]).catch(fail);
  });
}

// The camera

async function openCamera() {
  byId("problems").replaceChildren();
  if (!navigator.mediaDevices?.getUserMedia) {
    return complain("This browser gives no camera to a page that is opened from the disk: try another browser.");
  }
  try {
    const wanted = { facingMode: facing, width: { ideal: 640 }, height: { ideal: 480 } };
    const mine = ++asked;
    const stream = await navigator.mediaDevices.getUserMedia({ video: wanted });
    if (mine !== asked) return stream.getTracks().forEach((track) => track.stop()); // another click, or images, came
    camera = video.srcObject = stream;
    await video.play();
  } catch (error) {
    stopCamera();
    const known = { NotAllowedError: "the browser did not allow it", NotFoundError: "none was found" };
    return complain(`Camera: ${known[error.name] ?? firstLine(error)}.`);
  }
  byId("camera").textContent = "Stop camera";
  const devices = await navigator.mediaDevices.enumerateDevices();
  byId("turn").hidden = devices.filter(({ kind }) => kind === "videoinput").length < 2;
  runCamera(camera).catch(fail);
}

function stopCamera() {
  asked += 1;
  camera?.getTracks().forEach((track) => track.stop());
  camera = video.srcObject = null;
  byId("camera").textContent = "Open camera";
  byId("turn").hidden = true;
  if (shown.item === live) display(live, shown.source, shown.size);
}

function nextFrame() {
  return new Promise((resolve) => {
    // A page in the background gets no frames: the timer notices that the camera was stopped meanwhile.
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resolve);
    else requestAnimationFrame(resolve);
    setTimeout(resolve, 1000);
  });
}

/** Predicts frame after frame. A model of clips sees each among its neighbours; at the start the first is repeated. */
async function runCamera(stream) {
  let [held, since, count] = [[], performance.now(), 0];
  while (camera === stream) {
    const frame = await createImageBitmap(video);
    const size = [frame.height, frame.width];
    const views = model.views(size, live.boxes);
    const key = JSON.stringify([size, live.boxes]);
    if (held[0]?.key !== key) held.splice(0).forEach((each) => each.frame.close());
    held.push({ key, frame, inputs: model.inputs(pixelReader(frame), views) });
    while (held.length < model.frames) held.unshift({ ...held[0], frame: await createImageBitmap(frame) });
    const instances = await model.predict(views.map((_, i) => held.map((each) => each.inputs[i])), views);
    const middle = held[about.window[0]];
    live.instances = instances;
    if (camera === stream) display(live, await createImageBitmap(middle.frame), size);
    while (held.length >= model.frames) held.shift().frame.close();
    count++;
    if (performance.now() - since > 500) {
      say(`${((1000 * count) / (performance.now() - since)).toFixed(1)} frames a second`);
      [since, count] = [performance.now(), 0];
    }
    await nextFrame();
  }
  held.forEach((each) => each.frame.close());
}

// The start

function fail(error) {
  complain(`The prediction failed: ${firstLine(error)}`);
}

function describe() {
  document.title = byId("title").textContent = about.title;
  const frames = about.window[0] + 1 + about.window[1];
  const kind = frames > 1 ? `clips of ${frames} frames` : "images";
  const [height, width] = about.input_size;
  const colours = about.channels === 1 ? "grey" : "RGB";
  byId("summary").textContent = `${about.names.length} points from ${kind} of ${width}x${height} pixels, ${colours}`;
  byId("runtime").textContent = about.runtime;
  byId("origin").textContent = `Made by kpnet ${about.kpnet} from weights ${about.weights.slice(0, 12)}.`;
  byId("show-names").checked = about.names.length <= MANY;
  byId("edges-option").hidden = !edges.length;
}

function listen() {
  byId("files").addEventListener("change", (event) => {
    addFiles([...event.target.files]).catch(fail);
    event.target.value = ""; // the same file can be chosen again
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("dragenter", () => stage.classList.add("over"));
  addEventListener("dragleave", (event) => event.relatedTarget || stage.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    if (model) addFiles([...event.dataTransfer.files]).catch(fail);
  });
  byId("camera").addEventListener("click", () => (camera ? stopCamera() : openCamera().catch(fail)));
  byId("turn").addEventListener("click", () => {
    facing = facing === "user" ? "environment" : "user";
    stopCamera();
    openCamera().catch(fail);
  });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("copy").addEventListener("click", copyTable);
  byId("save").addEventListener("click", saveTable);
  for (const what of ["names", "edges", "ellipses"]) byId(`show-${what}`).addEventListener("change", draw);
  addEventListener("resize", draw);
  if (crops) listenToBoxes();
}

describe();
listen();
try {
  model = await Model.load(about);
  byId("ellipses-option").hidden = !model.session.outputNames.includes("covariance");
  byId("files").disabled = byId("camera").disabled = false;
  say("Ready.");
} catch (error) {
  say("");
  complain(`The model cannot be loaded in this browser: ${firstLine(error)}`);
}
