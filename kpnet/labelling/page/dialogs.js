// The dialogs: a skeleton, the keys, and a file that another program changed. Names are shown as text, never as HTML.

const byId = (id) => document.getElementById(id);

export function element(tag, text = "", properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  if (text) made.textContent = text;
  return made;
}

// Keys

export const KEYS = [
  ["Click, tap", "Place the named point; drag a point to move it"],
  ["Arrow keys", "Move the crosshair, or the chosen point, by 1 pixel; with Shift or Alt by 0.1, with Ctrl by 10"],
  ["Enter, Space", "Place the named point at the crosshair"],
  [", .", "Previous and next point"],
  ["h", "Hidden: covered, but its place is known"],
  ["x", "Absent: not in the image"],
  ["Delete, Backspace", "Remove the point's label"],
  ["n p", "Next and previous image (also Page down, Page up)"],
  ["u", "Next image that is not fully labelled"],
  ["c", "Copy the labels of the previous image"],
  ["y, Shift+Y", "Accept the model's point; all of them"],
  ["m", "Mend the labels that are suspected"],
  ["Ctrl+Z, Ctrl+Y", "Undo, redo"],
  ["+ − 0 1", "Zoom in and out, whole image, one to one"],
  ["w a s d", "Move the view"],
  ["i, o, Shift+I", "Add an instance, next instance, delete it"],
  ["b", "Draw the box: drag, or b at one corner of the crosshair and Enter at the other"],
  ["Escape", "Leave the crosshair or the box"],
  ["?", "This list"],
];

for (const row of KEYS) {
  const line = element("tr");
  line.append(...row.map((text) => element("td", text)));
  byId("keys").append(line);
}
byId("help-close").addEventListener("click", () => byId("help-dialog").close());
export const showHelp = () => byId("help-dialog").showModal();

// A changed file

export function askAboutChange(message) {
  byId("changed-text").textContent = message;
  const dialog = byId("changed-dialog");
  dialog.showModal();
  return new Promise((resolve) => {
    const choose = (load) => { dialog.close(); resolve(load); };
    byId("changed-load").onclick = () => choose(true);
    byId("changed-beside").onclick = () => choose(false);
    dialog.oncancel = (event) => event.preventDefault(); // one of the two has to be chosen
  });
}

// A skeleton

const listed = () => byId("names").value.split("\n").map((name) => name.trim()).filter(Boolean);

function select(names, value, label) {
  const made = element("select");
  made.setAttribute("aria-label", label);
  for (const name of names) made.append(element("option", name, { value: name }));
  if (names.includes(value)) made.value = value;
  else made.selectedIndex = -1;
  return made;
}

function addRow(place, values, labels) {
  const row = element("div", "", { className: "row" });
  row.append(...values.map((value, k) => select(listed(), value, labels[k])));
  const gone = element("button", "×", { type: "button" });
  gone.setAttribute("aria-label", "Remove");
  gone.addEventListener("click", () => row.remove());
  row.append(gone);
  byId(place).append(row);
}

const addPair = (pair) => addRow("pairs", pair, ["Left point", "Right point"]);
const addEdge = (edge) => addRow("edges", edge, ["From", "To"]);
const rows = (place) => [...byId(place).children]
  .map((row) => [...row.querySelectorAll("select")].map((each) => each.value))
  .filter((pair) => pair.every(Boolean));

function showNme(value) {
  const kind = select(["", "box", "diagonal", "two points"], Array.isArray(value) ? "two points" : value ?? "", "Length");
  kind.options[0].textContent = "the image's diagonal";
  kind.options[1].textContent = "the box";
  kind.options[2].textContent = "the diagonal of the image";
  kind.options[0].remove();
  if (!value) kind.value = "diagonal";
  const ends = [0, 1].map((k) => select(listed(), Array.isArray(value) ? value[k] : "", k ? "To" : "From"));
  const show = () => ends.forEach((end) => { end.hidden = kind.value !== "two points"; });
  kind.addEventListener("change", show);
  byId("nme").replaceChildren(kind, ...ends);
  show();
}

function readNme() {
  const [kind, a, b] = byId("nme").querySelectorAll("select");
  return kind.value === "two points" ? [a.value, b.value].filter(Boolean) : kind.value || null;
}

function fill(skeleton) {
  byId("names").value = (skeleton?.names ?? []).join("\n");
  byId("pairs").replaceChildren();
  byId("edges").replaceChildren();
  (skeleton?.pairs ?? []).forEach(addPair);
  (skeleton?.edges ?? []).forEach(addEdge);
  showNme(skeleton?.nme ?? null);
}

/** Ask for a skeleton. `suggest(names)` returns pairs, `save(skeleton)` throws what is wrong with it. */
export function editSkeleton(skeleton, suggest, save) {
  const dialog = byId("skeleton-dialog"), trouble = byId("skeleton-trouble");
  fill(skeleton);
  trouble.textContent = "";
  const attempt = async (act) => {
    trouble.textContent = "";
    try { await act(); } catch (error) { trouble.textContent = error.message; }
  };
  const suggestPairs = () => attempt(async () => {
    const { pairs, unpaired } = await suggest(listed());
    byId("pairs").replaceChildren();
    pairs.forEach(addPair);
    if (unpaired.length) trouble.textContent = `No other side found for ${unpaired.join(", ")}.`;
  });
  byId("names").onchange = async () => {
    const [edges, nme] = [rows("edges"), readNme()];
    byId("edges").replaceChildren();
    edges.filter((edge) => edge.every((name) => listed().includes(name))).forEach(addEdge);
    showNme(nme);
    if (listed().length) await suggestPairs();
  };
  byId("suggest").onclick = suggestPairs;
  byId("add-pair").onclick = () => addPair(["", ""]);
  byId("add-edge").onclick = () => addEdge(["", ""]);
  byId("connect").onclick = () => {
    byId("edges").replaceChildren();
    listed().slice(1).forEach((name, k) => addEdge([listed()[k], name]));
  };
  byId("skeleton-cancel").onclick = () => dialog.close();
  byId("skeleton-save").onclick = () => attempt(async () => {
    const nme = readNme(), made = { names: listed() };
    if (rows("pairs").length) made.pairs = rows("pairs");
    if (rows("edges").length) made.edges = rows("edges");
    if (nme?.length) made.nme = nme;
    for (const key of ["sigmas", "name"]) {
      if (skeleton?.[key] && JSON.stringify(skeleton.names) === JSON.stringify(made.names)) made[key] = skeleton[key];
    }
    await save(made);
    dialog.close();
  });
  dialog.showModal();
}
