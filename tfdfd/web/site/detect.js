// Files in, outcomes out: several workers, and the frames of one file at a time. The outcome has the fields of detect's
// JSON. Everything that is loaded comes from the folder of this page, and its digests are checked.
import {openMedia, MediaError} from "./media.js";
import {judge} from "./verdict.js";

const MOST_WORKERS = 4;
const CONVERTED = "the browser converted the colors of this kind of video (such as 10 bits a value), so P(fake) may differ by some " +
  "thousandths from that of tfdfd detect";

async function fetchFile({path, sha256, bytes}) {
  // Asks again, so that the cache of the browser does not mix an earlier site with this one.
  const response = await fetch(path, {cache: "no-cache"});
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
    const start = {
      binary, given: settings, networks: Object.fromEntries(names.map((name, i) => [name, new Uint8Array(graphs[i])])),
    };
    const count = Math.max(1, Math.min(MOST_WORKERS, navigator.hardwareConcurrency || 1));
    const detector = new Detector(settings, start);
    await Promise.all(Array.from({length: count}, () => detector.addWorker()));
    return detector;
  }

  constructor(settings, start) {
    this.settings = settings;
    this.start = start;
    this.idle = [];
  }

  async addWorker() {
    const worker = new Worker("worker.js", {type: "module"});
    await ask(worker, {start: this.start});
    this.idle.push(worker);
  }

  // The outcome for a File. `onFrame` gets each scored frame, in the order of being done, and the number of frames.
  // An aborted signal ends it at once, with an AbortError.
  async detect(file, {signal, onFrame} = {}) {
    const start = performance.now(), {settings} = this, {max_seconds: most} = settings.limits;
    let media, timer;
    const stopped = new Promise((_, reject) => {
      signal?.addEventListener("abort", () => reject(signal.reason));
      timer = setTimeout(() => reject(new MediaError("timeout", `not done after ${most} s`)), 1000 * most);
    });
    stopped.catch(() => {}); // it is heard only where it is awaited
    try {
      media = await Promise.race([openMedia(file, settings.frames, settings.limits), stopped]);
      const frames = await this.scoreAll(media, stopped, onFrame);
      const notes = [];
      if (!frames.some((frame) => frame.faces.length)) {
        const where = media.kind === "image" ? "the image" : `the ${frames.length} frames looked at`;
        const {scale} = frames[0];
        const size = scale === 1 ? "" : ` (searched at ${Math.round(100 * Math.max(scale, 0.01))}% of its size)`;
        throw new MediaError("no_face", `no face was found in ${where}${size}`);
      }
      if (media.converted) notes.push(CONVERTED);
      if (frames.some((frame) => frame.crowded)) notes.push("only the strongest faces of a crowded frame were kept");
      return judge({
        path: file.name, kind: media.kind, frames, requested: media.requested, duration_s: media.duration_s,
        elapsed_s: Math.round(performance.now() - start) / 1000, message: notes.join("; "),
      }, settings);
    } catch (error) {
      if (!(error instanceof MediaError)) throw error;
      const {status, message} = error;
      return {path: file.name, kind: media?.kind ?? null, status, fake_probability: null, verdict: null, message};
    } finally {
      clearTimeout(timer);
      media?.close();
    }
  }

  // The JSON document of an outcome, as of `tfdfd detect --json`.
  document(outcome) {
    const {handle, sha256, threshold} = this.settings.model;
    return {schema: 1, model: {handle, sha256, threshold}, results: [outcome]};
  }

  async scoreAll(media, stopped, onFrame) {
    const frames = [], total = media.count ?? 1, busy = new Map();
    let isOver = false;
    const next = () => Promise.race([...busy.keys(), stopped]);
    try {
      while (true) {
        const {value: frame, done} = await Promise.race([media.frames.next(), stopped]);
        if (done) break;
        if (!this.idle.length) await next();
        const worker = this.idle.pop();
        media.converted ||= frame.converted;
        const message = {frame: {...frame, still: media.kind === "image"}};
        const work = ask(worker, message, [(frame.rgba || frame.yuv).buffer]).then(({scored}) => {
          if (isOver) return;
          busy.delete(work);
          this.idle.push(worker);
          frames.push(scored);
          onFrame?.(scored, frames.length, total);
        });
        work.catch(() => {}); // it is heard only where it is awaited
        busy.set(work, worker);
      }
      while (busy.size) await next();
    } finally {
      // After an error, workers that are still at work, or whose script failed, are replaced.
      isOver = true;
      media.frames.return().catch(() => {});
      if (busy.size) {
        for (const worker of busy.values()) worker.terminate();
        await Promise.all(Array.from(busy, () => this.addWorker()));
      }
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
