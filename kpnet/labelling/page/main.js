// Puts the page together: which image is shown, the panel beside it, and the keys.

import * as server from "./server.js";
import {
  accept, addInstance, changed, commit, copy, deleteInstance, edit, instance, isPlaced, lastChange, listen, mend, moveTo, names,
  nextUnplaced, onSave, place, point, proposed, remove, revert, setAbsent, setBox, show, state, suspected, toggleHidden,
} from "./state.js";
import * as canvas from "./canvas.js";
import { askAboutChange, editSkeleton, element, showHelp } from "./dialogs.js";

const byId = (id) => document.getElementById(id);
const images = new Map(); // the last few, by index: promises of bitmaps
const KEPT = 4, POLL = 2000;

// Messages

let trouble = ""; // why the server does not take the labels
let timer = 0;
function banner(text, isTrouble = true) {
  clearTimeout(timer);
  byId("banner").querySelector("span").textContent = text;
  byId("banner").hidden = !text;
  byId("banner").className = isTrouble ? "" : "info";
  if (!isTrouble) timer = setTimeout(() => banner(trouble), 10000);
}
byId("banner-close").addEventListener("click", () => banner(""));

server.onServer({
  saving(waiting) {
    byId("saved").textContent = trouble ? "not saved" : waiting ? "saving …" : "saved";
    byId("saved").className = trouble ? "bad" : "";
  },
  trouble(message) {
    if (message || trouble) banner(message);
    trouble = message;
  },
  async conflict(index) {
    await reload(index);
    banner("Another page changed the labels of this image; they were loaded, and your last change was dropped.");
  },
  async changedOutside(message) {
    const load = await askAboutChange(`${message}.`);
    try {
      await server.settle(load);
      await reload(state.index);
      banner("");
    } catch (error) {
      banner(error.message);
    }
  },
});
onSave(server.save);
window.addEventListener("beforeunload", (event) => { if (server.waiting()) event.preventDefault(); });

// State of the server

function take(info) {
  state.info = info;
  for (const key of ["images", "order", "counts", "skeleton", "shape"]) state[key] = info[key];
}

async function reload(index) {
  take(await server.getState());
  state.undo = [];
  state.redo = [];
  if (index >= 0) show(index, await server.getLabels(index));
  await Promise.all([propose(state.index), suspect(state.index)]);
  changed();
}

async function poll() {
  try {
    if (!server.waiting() && !document.hidden) {
      const status = await server.getStatus();
      if (!server.waiting()) await follow(status);
    }
  } catch { /* the next change says what is wrong */ }
  setTimeout(poll, POLL);
}

let touched = false; // whether anything was done in the page, so that the image that is shown stays
for (const kind of ["keydown", "pointerdown", "wheel"]) {
  window.addEventListener(kind, () => { touched = true; }, { capture: true, passive: true });
}

async function follow(status) {
  const old = state.info;
  if (server.isNew(status)) {
    await reload(state.index);
    banner("Another page changed the labels; they were loaded.", false);
  } else if (status.order_revision !== old.order_revision) {
    take(await server.getState());
    const suspicious = state.info.queue === "suspicious", found = !suspicious || state.info.suspected;
    if (suspicious && found && !touched) return open(state.order[0]);
    state.order = [state.index, ...state.order.filter((index) => index !== state.index)];
    const next = suspicious ? "whose labels are most probably wrong" : "that the model is least sure of";
    if (found) banner(`The queue has a new order: next comes the image ${next}.`, false);
    await suspect(state.index);
  } else {
    Object.assign(state.info, status);
  }
  if (status.run !== old.run || status.training?.message !== old.training?.message) await propose(state.index);
  changed();
}

// Images

function image(index) {
  if (!images.has(index)) {
    images.set(index, server.getImage(index));
    images.get(index).catch(() => {}); // shown where it is waited for
    for (const key of images.keys()) {
      if (images.size <= KEPT) break;
      if (key === index || key === state.index) continue;
      images.get(key).then((bitmap) => bitmap.close(), () => {});
      images.delete(key);
    }
  }
  return images.get(index);
}

const position = () => state.order.indexOf(state.index);

async function open(index) {
  if (index === undefined || index < 0) return;
  state.index = index;
  const labels = server.getLabels(index), pixels = image(index);
  state.instances = [];
  state.proposals = [];
  state.suspicions = [];
  byId("trouble").hidden = true;
  changed();
  try {
    const found = await labels;
    if (state.index !== index) return;
    show(index, found);
    const next = state.skeleton ? nextUnplaced(0) : -1;
    state.point = next < 0 ? 0 : next;
    const bitmap = await pixels;
    if (state.index !== index) return;
    canvas.setImage(bitmap);
    byId("stage").dataset.image = index;
  } catch (error) {
    if (state.index !== index) return;
    canvas.setImage(null);
    byId("trouble").textContent = error.message;
    byId("trouble").hidden = false;
  }
  changed();
  const next = state.order[position() + 1];
  if (next !== undefined) image(next);
  await Promise.all([propose(index), suspect(index)]);
  if (next !== undefined && state.info.run) server.getProposals(next).catch(() => {});
}

async function propose(index) {
  if (!state.info.run || !state.skeleton || index < 0) return;
  try {
    const found = await server.getProposals(index);
    if (state.index === index) { state.proposals = found; changed(); }
  } catch { /* an image that cannot be read is shown as such */ }
}

async function suspect(index) {
  if (state.info.queue !== "suspicious" || index < 0) return;
  try {
    const found = await server.getSuspicions(index);
    if (state.index === index) { state.suspicions = found; changed(); }
  } catch { /* the next change says what is wrong */ }
}

const step = (by) => open(state.order[position() + by]);

function nextUnlabelled() {
  const from = position();
  for (let k = 1; k <= state.order.length; k++) {
    const index = state.order[(from + k) % state.order.length];
    if (state.counts[index] !== -1) return open(index);
  }
  banner("All images are labelled.", false);
}

async function copyPrevious() {
  const from = state.order[position() - 1];
  if (from === undefined) return banner("There is no image before this one.", false);
  const found = copy(await server.getLabels(from));
  if (!found.length) return banner("The image before this one has no labels.", false);
  for (const each of found) each.points = each.points.map((p) => p && [p[0], p[1], p[2], "proposed"]);
  edit(() => { state.instances = found; state.instance = 0; });
}

async function undo(redo) {
  const change = lastChange(redo);
  if (!change) return;
  if (change.index !== state.index) await open(change.index);
  revert(redo);
}

// The panel

const percent = (value) => (value === null || value === undefined ? "" : `${Math.round(100 * value)} %`);

function describe(p, offered) {
  if (p === null) return offered ? `proposed ${percent(offered[2])}` : "";
  return [["absent", "hidden", ""][p[2]], p[3] === "proposed" ? "proposed" : ""].filter(Boolean).join(", ") || "✓";
}

function drawPoints() {
  const list = byId("points");
  while (list.children.length > names().length) list.lastChild.remove();
  names().forEach((name, k) => {
    if (!list.children[k]) {
      const button = element("button");
      button.append(element("span"), element("span", "", { className: "what" }));
      button.addEventListener("click", () => { state.point = k; changed(); const p = point(); if (isPlaced(p)) canvas.reveal(p); });
      const item = element("li");
      item.append(button);
      list.append(item);
    }
    const [title, what] = list.children[k].firstChild.children;
    title.textContent = name;
    what.textContent = describe(instance()?.points[k] ?? null, proposed(state.instance)[k]);
    const now = k === state.point, button = list.children[k].firstChild;
    if (now && button.getAttribute("aria-current") !== "true") button.scrollIntoView({ block: "nearest" });
    button.setAttribute("aria-current", now);
  });
}

const SVG = "http://www.w3.org/2000/svg";
function svg(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** The little drawing: where the point is among the others, from labels, the model, or on a circle. */
function drawSkeleton() {
  const count = names().length, offered = proposed(state.instance);
  let places = state.shape?.map((p) => p && [100 * p[0], 100 * p[1]]);
  if (!places?.every(Boolean) && count && offered.length && offered.every(Boolean)) places = normalized(offered);
  places ??= [];
  for (let k = 0; k < count; k++) {
    const angle = (2 * Math.PI * k) / count - Math.PI / 2;
    places[k] ??= [50 + 46 * Math.cos(angle), 50 + 46 * Math.sin(angle)];
  }
  const sides = new Map((state.skeleton?.pairs ?? []).flatMap(([a, b]) => [[a, "left"], [b, "right"]]));
  const made = (state.skeleton?.edges ?? []).map(([a, b]) => {
    const [p, q] = [places[names().indexOf(a)], places[names().indexOf(b)]];
    return svg("line", { x1: p[0], y1: p[1], x2: q[0], y2: q[1] });
  });
  names().forEach((name, k) => {
    const kind = `${sides.get(name) ?? ""} ${k === state.point ? "now" : ""}`;
    made.push(svg("circle", { cx: places[k][0], cy: places[k][1], r: k === state.point ? 7 : 3.5, class: kind.trim() }));
  });
  byId("drawing").replaceChildren(...made);
}

function normalized(points) {
  const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
  const size = Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys), 1e-6);
  return points.map((p) => [((p[0] - Math.min(...xs)) / size) * 100, ((p[1] - Math.min(...ys)) / size) * 100]);
}

function drawTraining() {
  const training = state.info?.training;
  byId("training").hidden = !training;
  if (!training) return;
  const runs = training.state === "running";
  byId("train").disabled = runs;
  byId("epochs").hidden = !runs;
  byId("epochs").max = training.epochs;
  byId("epochs").value = training.epoch;
  const texts = {
    idle: "", running: `epoch ${training.epoch} of ${training.epochs}`, done: `trained: ${training.message}`,
    failed: `The training failed: ${training.message}`,
  };
  const text = texts[training.state];
  if (byId("training-state").textContent !== text) byId("training-state").textContent = text;
}

function drawSuspicions() {
  byId("suspecting").hidden = state.info?.queue !== "suspicious";
  const found = suspected();
  byId("mend").disabled = !found.length || !canvas.hasImage();
  const lines = found.map(({ kind, note, changes }) => {
    const named = changes.slice(0, 3).map(([k]) => names()[k]).join(", ");
    return `${kind} (${named}${changes.length > 3 ? `, … ${changes.length} in all` : ""}): ${note}`;
  });
  byId("suspicion").textContent = lines.join("; ") || "Nothing in this image.";
}

function drawComparison() {
  const command = state.info?.compare;
  byId("comparing").hidden = !command;
  if (!command) return;
  const done = state.counts.filter((count) => count === -1).length, all = state.images.length;
  byId("comparison").textContent = done < all ? `${done} of ${all} images are fully labelled again.` : `All ${all} images are labelled again. Compare: ${command}`;
}

function drawPanel() {
  const number = position(), p = point(), name = names()[state.point] ?? "";
  if (document.activeElement !== byId("place")) byId("place").value = number + 1;
  byId("of").textContent = `/ ${state.images.length}`;
  byId("name").textContent = byId("name").title = state.images[state.index] ?? "";
  byId("previous").disabled = number <= 0;
  byId("next").disabled = number >= state.images.length - 1;
  byId("undo").disabled = !state.undo.length;
  byId("redo").disabled = !state.redo.length;
  byId("current").textContent = name || "No skeleton yet";
  const at = isPlaced(p) ? p : state.crosshair;
  byId("where").textContent = at ? `${at[0].toFixed(2)}, ${at[1].toFixed(2)}` : p ? "absent" : "";
  byId("hidden").setAttribute("aria-pressed", p?.[2] === 1);
  byId("absent").setAttribute("aria-pressed", p?.[2] === 0);
  byId("hidden").disabled = !isPlaced(p);
  byId("delete").disabled = p === null;
  const open = Boolean(instance()) && Boolean(state.skeleton) && canvas.hasImage();
  for (const id of ["absent", "copy", "box", "instance-add"]) byId(id).disabled = !open;
  byId("proposing").hidden = !state.info?.run;
  byId("model").textContent = [state.info?.run, state.info?.ranking].filter(Boolean).join(" · ");
  byId("accept").disabled = !proposed(state.instance)[state.point] || p !== null;
  byId("accept-all").disabled = !proposed(state.instance).length;
  byId("instance").textContent = `Instance ${state.instance + 1} of ${state.instances.length}${instance()?.box ? ", with a box" : ""}`;
  byId("instance-next").disabled = state.instances.length < 2;
  byId("box-delete").disabled = !instance()?.box;
  byId("box").setAttribute("aria-pressed", state.drawsBox);
  byId("zoom").textContent = percent(canvas.view.scale);
  byId("file").textContent = state.info?.file ?? "";
}

listen(() => { drawPanel(); drawPoints(); drawSkeleton(); drawTraining(); drawSuspicions(); drawComparison(); canvas.draw(); });

// Actions

function skeleton() {
  editSkeleton(state.skeleton, server.suggestPairs, async (made) => {
    take(await server.putSkeleton(made));
    state.undo = [];
    state.redo = [];
    state.point = 0;
    await open(state.index < 0 ? state.order[0] : state.index);
  });
}

const acceptAll = () => accept(Number(byId("least").value) / 100, true);
function choosePoint(by) {
  if (!names().length) return;
  state.point = (state.point + by + names().length) % names().length;
  changed();
  if (isPlaced(point())) canvas.reveal(point());
}

function arrow(dx, dy, event) {
  const by = event.shiftKey || event.altKey ? 0.1 : event.ctrlKey || event.metaKey ? 10 : 1;
  if (!canvas.hasImage() || !state.skeleton) return;
  const p = point();
  if (isPlaced(p) && !state.drawsBox) {
    const before = copy(state.instances);
    moveTo(...canvas.inImage([p[0] + dx * by, p[1] + dy * by]));
    commit(before);
    canvas.reveal(point());
  } else {
    const [x, y] = state.crosshair ?? canvas.middle().map(Math.round);
    state.crosshair = canvas.inImage([Math.round((x + dx * by) * 1000) / 1000, Math.round((y + dy * by) * 1000) / 1000]);
    canvas.reveal(state.crosshair);
    changed();
  }
}

function enter() {
  if (!state.crosshair) return;
  if (state.drawsBox && state.boxCorner) { setBox(state.boxCorner, state.crosshair); changed(); }
  else place(...state.crosshair);
}

function box() {
  state.drawsBox = !state.drawsBox;
  state.boxCorner = state.drawsBox ? state.crosshair : null;
  changed();
}

function escape() {
  state.crosshair = state.boxCorner = null;
  state.drawsBox = false;
  changed();
}

function nextInstance() {
  state.instance = (state.instance + 1) % state.instances.length;
  changed();
}

async function train() {
  try { Object.assign(state.info, await server.train()); changed(); } catch (error) { banner(error.message); }
}

const CLICKS = {
  previous: () => step(-1), next: () => step(1), unlabelled: nextUnlabelled, undo: () => undo(false), redo: () => undo(true),
  help: showHelp, mend, hidden: toggleHidden, absent: setAbsent, delete: remove, copy: copyPrevious, accept: () => accept(0, false),
  "accept-all": acceptAll, "instance-next": nextInstance, "instance-add": addInstance, "instance-delete": deleteInstance,
  box, "box-delete": () => edit(() => { instance().box = null; }), "zoom-in": () => { canvas.zoom(1.25); changed(); },
  "zoom-out": () => { canvas.zoom(0.8); changed(); }, "zoom-fit": () => { canvas.fit(); changed(); },
  "zoom-one": () => { canvas.setScale(1); changed(); }, "edit-skeleton": skeleton, train,
};
for (const [id, act] of Object.entries(CLICKS)) byId(id).addEventListener("click", act);

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const PANS = { w: [0, 60], a: [60, 0], s: [0, -60], d: [-60, 0] };
const PLAIN = {
  Enter: enter, " ": enter, ",": () => choosePoint(-1), ".": () => choosePoint(1), h: toggleHidden, x: setAbsent, Delete: remove,
  Backspace: remove, n: () => step(1), p: () => step(-1), PageDown: () => step(1), PageUp: () => step(-1), u: nextUnlabelled,
  c: copyPrevious, y: () => accept(0, false), Y: acceptAll, "+": CLICKS["zoom-in"], "=": CLICKS["zoom-in"],
  "-": CLICKS["zoom-out"], 0: CLICKS["zoom-fit"], 1: CLICKS["zoom-one"], i: addInstance, I: deleteInstance, o: nextInstance,
  b: box, m: mend, Escape: escape, "?": showHelp,
};
const NEEDS_POINT = new Set(["h", "x", "Delete", "Backspace", "y", "Y", "c", "i", "I", "o", "b", "m", "Enter", " "]);

document.addEventListener("keydown", (event) => {
  const target = event.target;
  if (document.querySelector("dialog[open]") || target.matches?.("input, select, textarea")) return;
  if (target.matches?.("button, summary") && ["Enter", " "].includes(event.key)) return;
  const control = event.ctrlKey || event.metaKey, key = event.key;
  let act = null;
  if (control && key.toLowerCase() === "z") act = () => undo(event.shiftKey);
  else if (control && key.toLowerCase() === "y") act = () => undo(true);
  else if (ARROWS[key]) act = () => arrow(...ARROWS[key], event);
  else if (control || event.altKey) return;
  else if (PANS[key]) act = () => canvas.pan(...PANS[key]);
  else act = PLAIN[key];
  if (!act || (NEEDS_POINT.has(key) && !control && !(state.skeleton && instance() && canvas.hasImage()))) return;
  event.preventDefault();
  act();
});

byId("place").addEventListener("change", (event) => {
  const wanted = Math.round(Number(event.target.value)) - 1;
  event.target.blur();
  if (wanted >= 0 && wanted < state.order.length) open(state.order[wanted]);
  else changed();
});
byId("instances").addEventListener("toggle", () => changed());
for (const id of ["brightness", "contrast"]) {
  byId(id).addEventListener("input", () => canvas.filter(Number(byId("brightness").value), Number(byId("contrast").value)));
}

// The beginning

try {
  take(await server.getState());
  const first = state.info.queue === "suspicious" ? undefined : state.order.find((index) => state.counts[index] !== -1);
  await open(first ?? state.order[0]);
  if (!state.skeleton) skeleton();
} catch (error) {
  banner(error.message);
}
poll();
