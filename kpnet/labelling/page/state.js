// What the page knows, and its changes. Nothing here touches the document or the network.

export const state = {
  info: null, // what the server said of file, training and queue
  images: [], order: [], counts: [], skeleton: null, shape: null,
  index: -1, // the image that is shown
  instances: [], instance: 0, point: 0,
  proposals: [], // of the shown image: for each instance and point x, y, confidence, a, b, angle, or null
  suspicions: [], // of the shown image: {instance, kind, note, changes: [point, label as it was examined, mended one]}
  crosshair: null, // [x, y] in pixels of the image, once keys have moved it
  boxCorner: null, drawsBox: false,
  undo: [], redo: [],
};

const listeners = [];
export const listen = (listener) => listeners.push(listener);
export const changed = () => listeners.forEach((listener) => listener());

export const copy = (value) => JSON.parse(JSON.stringify(value));
export const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
export const names = () => state.skeleton?.names ?? [];
export const emptyInstance = () => ({ points: names().map(() => null), box: null });
export const instance = () => state.instances[state.instance];
export const point = () => instance()?.points[state.point] ?? null;
export const isPlaced = (each) => each !== null && each !== undefined && each[2] > 0;
export const round = (value) => Math.round(value * 1000) / 1000;

/** Show an image's instances; there is always one to put points into. */
export function show(index, instances) {
  state.index = index;
  state.instances = instances.length ? copy(instances) : [emptyInstance()];
  state.instance = Math.min(state.instance, state.instances.length - 1);
  state.crosshair = state.boxCorner = null;
  state.drawsBox = false;
}

/** Instances as they are saved: empty ones at the end are none. */
export function saved(instances) {
  const kept = copy(instances);
  while (kept.length && kept.at(-1).box === null && kept.at(-1).points.every((each) => each === null)) kept.pop();
  return kept;
}

let save = () => {};
export const onSave = (function_) => { save = function_; };

/** Keep a change for undo, and save it. */
export function commit(before) {
  if (same(before, state.instances)) return;
  state.undo.push({ index: state.index, before, after: copy(state.instances) });
  if (state.undo.length > 1000) state.undo.shift();
  state.redo = [];
  finish();
}

function finish() {
  const counted = state.instances.map((each) => each.points.filter((one) => one !== null).length);
  const whole = Math.min(...counted) === names().length;
  state.counts[state.index] = whole ? -1 : counted.reduce((a, b) => a + b, 0);
  save(state.index, saved(state.instances));
  changed();
}

export function edit(function_) {
  const before = copy(state.instances);
  function_();
  commit(before);
}

/** Undo, or redo: returns the image that the change was made on, which has to be shown first. */
export const lastChange = (redo) => (redo ? state.redo : state.undo).at(-1);

export function revert(redo) {
  const [from, to] = redo ? [state.redo, state.undo] : [state.undo, state.redo];
  const change = from.pop();
  if (!change) return;
  to.push(change);
  state.instances = copy(redo ? change.after : change.before);
  state.instance = Math.min(state.instance, state.instances.length - 1);
  finish();
}

export function nextUnplaced(from) {
  const points = instance().points;
  for (let step = 0; step < points.length; step++) {
    const k = (from + step) % points.length;
    if (points[k] === null) return k;
  }
  return -1;
}

/** Place the current point, or the next one without a label if it has one. */
export function place(x, y) {
  if (!state.skeleton) return;
  const k = point() === null ? state.point : nextUnplaced(state.point);
  if (k < 0) return;
  edit(() => { instance().points[k] = [round(x), round(y), 2, "person"]; });
  const next = nextUnplaced(k);
  state.point = next < 0 ? k : next;
  changed();
}

/** Move the current point without saving; `commit` does that at the end of a drag. */
export function moveTo(x, y) {
  const old = point();
  instance().points[state.point] = [round(x), round(y), isPlaced(old) ? old[2] : 2, "person"];
}

export function setAbsent() {
  edit(() => { instance().points[state.point] = point()?.[2] === 0 ? null : [null, null, 0, "person"]; });
  const next = nextUnplaced(state.point);
  if (next >= 0 && point() !== null) state.point = next;
  changed();
}

export function toggleHidden() {
  const old = point();
  if (isPlaced(old)) edit(() => { instance().points[state.point] = [old[0], old[1], old[2] === 1 ? 2 : 1, "person"]; });
}

export const remove = () => edit(() => { instance().points[state.point] = null; });

/** Proposals of an instance: those of its box, or of the whole image for the first. */
export function proposed(number) {
  const boxed = state.instances.map((each, k) => (each.box ? k : -1)).filter((k) => k >= 0);
  return state.proposals[boxed.length ? boxed.indexOf(number) : number] ?? [];
}

export function accept(least, all) {
  const offered = proposed(state.instance);
  edit(() => {
    offered.forEach((each, k) => {
      const wanted = all ? (each?.[2] ?? 1) >= least : k === state.point;
      if (each && wanted && instance().points[k] === null) instance().points[k] = [round(each[0]), round(each[1]), 2, "proposed"];
    });
  });
  const next = nextUnplaced(state.point);
  if (next >= 0) state.point = next;
  changed();
}

/** Suspicions that still hold: the labels are as they were when they were examined. */
export const suspected = () => state.suspicions.filter(({ instance, changes }) =>
  changes.every(([k, before]) => state.instances[instance] && same(state.instances[instance].points[k], before)));

/** Mend all that is suspected in the image, in one step. */
export function mend() {
  const found = suspected();
  edit(() => {
    for (const { instance, changes } of found) for (const [k, , after] of changes) state.instances[instance].points[k] = copy(after);
  });
}

export function addInstance() {
  if (!state.skeleton) return;
  state.instances.push(emptyInstance());
  state.instance = state.instances.length - 1;
  state.point = 0;
  changed();
}

export function deleteInstance() {
  edit(() => {
    state.instances.splice(state.instance, 1);
    if (!state.instances.length) state.instances.push(emptyInstance());
    state.instance = Math.min(state.instance, state.instances.length - 1);
  });
}

export function setBox(a, b) {
  const box = [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])].map(round);
  if (box[0] < box[2] && box[1] < box[3]) edit(() => { instance().box = box; });
  state.drawsBox = false;
  state.boxCorner = null;
}
