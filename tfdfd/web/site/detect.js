// Files in, outcomes out: several workers, and the frames of one file at a time. The outcome has the fields of detect's
// JSON. Everything that is loaded comes from the folder of this page, and its digests are checked.
import {openMedia, MediaError} from "./media.js";
import {judge} from "./verdict.js";

const MOST_WORKERS = 4;

async function fetchFile({path, sha256, bytes}) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} could not be loaded (status ${response.status})`);
  const data = await response.arrayBuffer();
  if (data.byteLength !== bytes) throw new Error(`${path} has ${data.byteLength} bytes instead of ${bytes}`);
  // Pages that are not opened by https: or from this machine have no digests.
  if (globalThis.crypto?.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
    const found = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== sha256) throw new Error(`${path} is not the file that the site was made with (SHA-256 ${found})`);
  }
  return data;
}

export class Detector {
  // Loads settings, networks and workers.
  static async load() {
    const settings = await (await fetch("settings.json", {cache: "no-cache"})).json();
    const {runtime, ...networks} = settings.files;
    const names = Object.keys(networks);
    const [binary, ...graphs] = await Promise.all([runtime, ...Object.values(networks)].map(fetchFile));
    const message = {
      binary, given: settings, networks: Object.fromEntries(names.map((name, i) => [name, new Uint8Array(graphs[i])])),
    };
    const count = Math.max(1, Math.min(MOST_WORKERS, navigator.hardwareConcurrency || 1));
    const workers = Array.from({length: count}, () => new Worker("worker.js", {type: "module"}));
    await Promise.all(workers.map((worker) => ask(worker, {start: message})));
    return new Detector(settings, workers);
  }

  constructor(settings, workers) {
    this.settings = settings;
    this.idle = workers;
    this.count = workers.length;
  }

  // The outcome for a File. `onFrame` gets each scored frame, in the order of being done, and the number of frames.
  // An aborted signal ends it with an AbortError after the frames under way.
  async detect(file, {signal, onFrame} = {}) {
    const start = performance.now();
    const seconds = () => (performance.now() - start) / 1000;
    let media;
    try {
      const {settings} = this;
      media = await openMedia(file, settings.frames, settings.limits);
      const frames = await this.scoreAll(media, {signal, onFrame, seconds});
      const notes = [];
      if (!frames.some((frame) => frame.faces.length)) {
        const where = media.kind === "image" ? "the image" : `the ${frames.length} frames looked at`;
        const {scale} = frames[0];
        const size = scale === 1 ? "" : ` (searched at ${Math.round(100 * Math.max(scale, 0.01))}% of its size)`;
        throw Object.assign(new MediaError("no_face", `no face was found in ${where}${size}`), {kind: media.kind});
      }
      if (frames.some((frame) => frame.crowded)) notes.push("only the strongest faces of a crowded frame were kept");
      return judge({
        path: file.name, kind: media.kind, frames, requested: media.requested, duration_s: media.duration_s,
        elapsed_s: Math.round(1000 * seconds()) / 1000, message: notes.join("; "),
      }, settings);
    } catch (error) {
      if (!(error instanceof MediaError)) throw error;
      const {status, message} = error;
      return {path: file.name, kind: media?.kind ?? null, status, fake_probability: null, verdict: null, message};
    } finally {
      media?.close();
    }
  }

  // The JSON document of an outcome, as of `tfdfd detect --json`.
  document(outcome) {
    const {handle, sha256, threshold} = this.settings.model;
    return {schema: 1, model: {handle, sha256, threshold}, results: [outcome]};
  }

  async scoreAll(media, {signal, onFrame, seconds}) {
    const frames = [], total = media.count ?? 1, busy = new Set();
    let failure = null;
    const {max_seconds: most} = this.settings.limits;
    const check = () => {
      signal?.throwIfAborted();
      if (failure) throw failure;
      if (seconds() > most) throw new MediaError("timeout", `not done after ${most} s`);
    };
    try {
      for await (const frame of media.frames) {
        check();
        while (!this.idle.length) await Promise.race(busy);
        check();
        const worker = this.idle.pop();
        const buffers = [(frame.rgba || frame.yuv).buffer];
        const work = ask(worker, {frame: {...frame, still: media.kind === "image"}}, buffers).then(({scored}) => {
          frames.push(scored);
          if (!signal?.aborted) onFrame?.(scored, frames.length, total);
        }).catch((error) => { failure = error; }).finally(() => {
          busy.delete(work);
          this.idle.push(worker);
        });
        busy.add(work);
      }
      while (busy.size) {
        await Promise.race(busy);
        check();
      }
      check();
    } finally {
      await Promise.all(busy);
    }
    return frames.sort((a, b) => a.index - b.index);
  }
}

// The answer of a worker to a message; a worker has one message at a time.
function ask(worker, message, transfer = []) {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({data}) => data.failed ? reject(new Error(data.failed)) : resolve(data);
    worker.onerror = (event) => reject(new Error(event.message || "a script could not be loaded"));
    worker.postMessage(message, transfer);
  });
}
