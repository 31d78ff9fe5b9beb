// Calls of the server. Changes wait in an outbox until the server has written them, and go out one after another.

import { same } from "./state.js";

const outbox = new Map(); // image to the instances that are to be written
const known = new Map(); // image to the instances that the server has, as far as the page knows
let revision = 0, busy = false, stopped = false, timer = 0;
let tell = {};

/** Functions that are called: saving(waiting), trouble(message), conflict(index), changedOutside(message). */
export const onServer = (functions) => { tell = functions; };
export const waiting = () => outbox.size > 0;

export class Refused extends Error {
  constructor(status, kind, message) { super(message); this.status = status; this.kind = kind; }
}

async function call(method, path, body) {
  let response;
  try {
    response = await fetch(`api/${path}`, {
      method, headers: method === "GET" ? {} : { "Content-Type": "application/json" },
      body: method === "GET" ? undefined : JSON.stringify(body ?? {}),
    });
  } catch {
    throw new Refused(0, "network", "The server does not answer: has kpnet label ended?");
  }
  if (response.ok) return response;
  let found = {};
  try { found = await response.json(); } catch { /* not of the application itself */ }
  throw new Refused(response.status, found.kind ?? "", found.error ?? `The server answers ${response.status}.`);
}

const json = async (method, path, body) => (await call(method, path, body)).json();
const take = (status) => { revision = status.revision; return status; };

export const getStatus = () => json("GET", "status");
export const isNew = (status) => status.revision !== revision;
export const getState = async () => { known.clear(); return take(await json("GET", "state")); };
export const putSkeleton = async (skeleton) => { known.clear(); return take(await json("PUT", "skeleton", skeleton)); };
export const suggestPairs = (names) => json("PUT", "pairs", { names });
export const train = () => json("POST", "train");
export const getSuspicions = async (index) => (await json("GET", `suspicions/${index}`)).suspicions;
export const getProposals = async (index) => (await json("GET", `proposals/${index}`)).instances;

export async function getLabels(index) {
  if (outbox.has(index)) return outbox.get(index);
  const found = await json("GET", `labels/${index}`);
  known.set(index, found.instances);
  return found.instances;
}

export async function getImage(index) {
  const response = await call("GET", `image/${index}`);
  // The pixels as they are: the server has applied EXIF, and no colour profile moves them.
  return createImageBitmap(await response.blob(), { imageOrientation: "none", colorSpaceConversion: "none" });
}

export function save(index, instances) {
  outbox.delete(index);
  outbox.set(index, instances);
  send();
}

async function send() {
  if (busy || stopped) return;
  busy = true;
  clearTimeout(timer);
  while (outbox.size && !stopped) {
    const [index, instances] = outbox.entries().next().value;
    tell.saving(true);
    try {
      revision = (await json("PUT", `labels/${index}`, { revision, instances })).revision;
      known.set(index, instances);
      if (outbox.get(index) === instances) outbox.delete(index);
      tell.trouble("");
    } catch (error) {
      if (error.kind === "stale") await resolve(index);
      else if (error.kind === "changed") { stopped = true; tell.changedOutside(error.message); }
      else if (error.status === 422) { outbox.delete(index); tell.trouble(`Not saved: ${error.message}`); tell.conflict(index); }
      else {
        tell.trouble(`Not saved yet: ${error.message} Your labels are kept in this page, which tries again.`);
        timer = setTimeout(send, 2000);
        break;
      }
    }
  }
  busy = false;
  tell.saving(outbox.size > 0);
}

/** Another page was faster: a change of another image does not matter, one of this image wins. */
async function resolve(index) {
  const found = await json("GET", `labels/${index}`).catch(() => null);
  if (!found) return;
  revision = found.revision;
  if (known.has(index) && same(known.get(index), found.instances)) return;
  outbox.delete(index);
  known.set(index, found.instances);
  tell.conflict(index);
}

/** After another program has changed the file: read it and drop what waits, or go on in a new file. */
export async function settle(load) {
  const status = await json("POST", load ? "reload" : "beside");
  if (load) outbox.clear();
  revision = status.revision;
  stopped = false;
  if (load) tell.saving(false);
  else await send();
}
