// Unpacks what the page holds, and runs the model: images and matrices in, points in pixels of the image out.

const SLICE = 1 << 20; // characters of base64 that are decoded at once; a multiple of 4

/** Unpacks gzip in base64 from a script element, and removes the element. */
async function unpack(id) {
  const element = document.getElementById(id);
  const text = element.textContent.trim();
  element.remove();
  const bytes = new ReadableStream({
    start(controller) {
      for (let i = 0; i < text.length; i += SLICE) {
        controller.enqueue(Uint8Array.from(atob(text.slice(i, i + SLICE)), (c) => c.charCodeAt(0)));
      }
      controller.close();
    },
  });
  return new Response(bytes.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

class Model {
  /** `about` is the page's description of the model: see kpnet/export/page/build.py. */
  constructor(about, ort, session) {
    Object.assign(this, { about, ort, session });
    this.channels = about.channels;
    this.size = about.input_size;
    this.frames = about.window[0] + 1 + about.window[1];
    this.busy = Promise.resolve();
  }

  static async load(about) {
    const code = new Blob([await unpack("runtime-code")], { type: "text/javascript" });
    const ort = await import(URL.createObjectURL(code));
    ort.env.wasm.numThreads = 1; // several need headers that a page from the disk has not
    ort.env.wasm.wasmBinary = await unpack("runtime-wasm");
    ort.env.wasm.wasmPaths = { wasm: "unpacked" }; // never fetched, as the binary is there
    const weights = await unpack("model");
    const options = { executionProviders: ["wasm"] };
    return new Model(about, ort, await ort.InferenceSession.create(new Uint8Array(weights), options));
  }

  /** The views of an image of size [height, width]: of each box, or of the whole image without boxes. */
  views(size, boxes) {
    if (!boxes.length) return [letterbox(size, this.size)];
    return boxes.map((box) => cropView(box, this.about.box_scale, size, this.size));
  }

  /** The inputs of an image, a Uint8Array for each view. */
  inputs(read, views) {
    return views.map((view) => fitImage(read, view, this.size, this.channels));
  }

  /** Predicts instances from their inputs: for each view a Uint8Array, or an array of them, the frames of a clip. */
  predict(inputs, views) {
    const run = this.busy.then(() => this.run(inputs, views));
    this.busy = run.catch(() => {});
    return run;
  }

  async run(inputs, views) {
    const clips = inputs.map((input) => (Array.isArray(input) ? input : Array(this.frames).fill(input)));
    const length = this.size[0] * this.size[1] * this.channels;
    const pixels = new Uint8Array(clips.length * this.frames * length);
    clips.flat().forEach((input, i) => pixels.set(input, i * length));
    const clip = this.frames > 1 ? [this.frames] : [];
    const found = await this.session.run({
      images: new this.ort.Tensor("uint8", pixels, [clips.length, ...clip, ...this.size, this.channels]),
      matrices: new this.ort.Tensor("float32", views.flatMap((view) => view.matrix), [clips.length, 2, 3]),
    });
    const result = views.map((_, i) => ({
      points: rowsOf(found.points, i, 2),
      confidence: found.confidence ? rowsOf(found.confidence, i, 1).flat() : null,
      covariance: found.covariance ? rowsOf(found.covariance, i, 4) : null,
    }));
    for (const tensor of Object.values(found)) tensor.dispose();
    if (!result.every(({ points }) => points.flat().every(Number.isFinite))) throw new Error("a point is not finite");
    return result;
  }
}

/** Row `i` of a tensor [B, K, …] as K arrays of `width` numbers. */
function rowsOf(tensor, i, width) {
  const points = tensor.dims[1];
  const values = tensor.data.subarray(i * points * width, (i + 1) * points * width);
  return Array.from({ length: points }, (_, k) => Array.from(values.subarray(k * width, (k + 1) * width)));
}
