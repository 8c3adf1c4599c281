// The page: files that a person adds, their progress, pictures, outcomes and JSON. Nothing of them is sent or stored.
import {Detector} from "./detect.js";
import {verdictOf, numberText} from "./verdict.js";
import {$, MEANING, STATUS, add, bytes, count, likelihood, onFiles, score} from "./words.js";

const MOST_FILES = 50, MOST_VIEWS = 32, OPEN_VIEWS = 4;
const waiting = [];
let detector = null;
let working = null;
let said = "";

// One announcement at a time replaces the one before; a screen reader hears the outcome, not each frame.
function say(text) {
  said = text;
  $("status").textContent = text;
}

function problem(text) {
  add($("problems"), "p", {textContent: text});
}

// One file of the list.
class Item {
  constructor(file) {
    this.file = file;
    this.abort = new AbortController();
    // Control characters and direction overrides would disguise a name.
    this.name = file.name.replace(/[\p{Cc}\p{Cf}\p{Cs}]/gu, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
    this.li = document.createElement("li");
    $("files").prepend(this.li);
    add(add(this.li, "h3"), "bdi", {textContent: this.name});
    const outcome = add(this.li, "p", {className: "outcome"});
    this.badge = add(outcome, "span", {className: "badge", hidden: true});
    this.text = add(outcome, "span", {textContent: "waiting"});
    this.bar = add(this.li, "progress", {max: 1, hidden: true});
    this.bar.setAttribute("aria-label", `Progress of ${this.name}`);
    this.words = add(this.li, "div");
    this.frames = add(this.li, "details", {open: true, hidden: true});
    add(this.frames, "summary", {textContent: "Frames and faces"});
    this.views = add(this.frames, "ul", {className: "views"});
    this.views.setAttribute("aria-label", `Frames of ${this.name} with their faces`);
    const links = add(this.li, "p", {className: "links"});
    this.save = add(links, "button", {type: "button", className: "main", textContent: "Save JSON", hidden: true});
    this.save.setAttribute("aria-label", `Save JSON of ${this.name}`);
    this.save.addEventListener("click", () => this.saveJson());
    this.remover = add(links, "button", {type: "button", textContent: "Cancel"});
    this.remover.setAttribute("aria-label", `Cancel: ${this.name}`);
    this.remover.addEventListener("click", () => remove(this));
  }

  async score() {
    this.text.textContent = "opening";
    this.bar.hidden = false;
    say(`${this.name} is being scored.`);
    try {
      const outcome = await detector.detect(this.file, {
        signal: this.abort.signal, onFrame: (frame, done, total) => this.addFrame(frame, done, total),
      });
      this.show(outcome);
    } catch (error) {
      if (this.abort.signal.aborted) return;
      this.text.textContent = `not scored: ${error.message}`;
      say(`${this.name}: not scored, ${error.message}.`);
    }
    this.bar.hidden = true;
    this.remover.textContent = "Remove";
    this.remover.setAttribute("aria-label", `Remove: ${this.name}`);
  }

  addFrame(frame, done, total) {
    this.text.textContent = `frame ${done} of ${total}`;
    this.bar.value = done / total;
    if (this.views.children.length >= MOST_VIEWS) return;
    const li = document.createElement("li");
    li.dataset.index = frame.index;
    const next = [...this.views.children].find((other) => Number(other.dataset.index) > frame.index);
    this.views.insertBefore(li, next || null);
    const canvas = add(li, "canvas", {width: frame.view.width, height: frame.view.height});
    const highest = frame.faces.length ? Math.max(...frame.faces.map((face) => face.fake_probability)) : null;
    const caption = `${total > 1 ? `${frame.time_s.toFixed(1)} s: ` : ""}${highest === null ? "no face" : score(highest)}`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${count(frame.faces.length, "face")}`);
    draw(canvas, frame);
    add(li, "span", {textContent: caption});
    this.frames.hidden = false;
  }

  show(outcome) {
    const {verdict, status, message} = outcome;
    this.outcome = outcome;
    this.badge.hidden = this.save.hidden = false;
    this.frames.open = this.views.children.length <= OPEN_VIEWS;
    this.badge.className = verdict ? `badge ${verdict}` : "badge";
    this.badge.textContent = verdict || STATUS[status] || status;
    this.text.textContent = verdict ? `P(fake) ${score(outcome.fake_probability)}` : "";
    if (verdict) {
      const frames = outcome.kind === "video" ? `, ${outcome.frames_scored} of ${count(outcome.frames_requested, "frame")}` : "";
      add(this.words, "p", {textContent: MEANING[verdict]});
      add(this.words, "p", {textContent: `${rule(outcome)} It is a score, not a measured chance that the file is fake.`});
      add(this.words, "p", {textContent: likelihood(outcome.likelihood_ratio)});
      add(this.words, "p", {textContent: range(outcome.tested_range)});
      add(this.words, "p", {className: "soft", textContent: `${count(outcome.faces.length, "face")}${frames}, ${outcome.elapsed_s.toFixed(1)} s`});
    }
    if (message) add(this.words, "p", {className: "soft", textContent: `Note: ${message}.`});
    say(`${this.name}: ${this.badge.textContent}${verdict ? `, ${this.text.textContent}` : `, ${message}`}.`);
  }

  saveJson() {
    const text = JSON.stringify(detector.document(this.outcome), null, 1) + "\n";
    const address = URL.createObjectURL(new Blob([text], {type: "application/json"}));
    const link = Object.assign(document.createElement("a"), {href: address, download: `${this.file.name}.json`});
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  }
}

// The frame and a box around each face, in the color of its own score.
function draw(canvas, {view, faces, width, height}) {
  const context = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  context.putImageData(new ImageData(view.rgba, view.width, view.height), 0, 0);
  const {threshold, inconclusive_band: band} = detector.settings.model;
  for (const {box: [x, y, w, h], fake_probability} of faces) {
    const place = [x * view.width / width, y * view.height / height, w * view.width / width, h * view.height / height];
    for (const [color, line] of [["#fff", 4], [style.getPropertyValue(`--${verdictOf(fake_probability, {threshold, band})}`), 2]]) {
      context.strokeStyle = color;
      context.lineWidth = line;
      context.strokeRect(...place);
    }
  }
}

function rule({faces_judged: judged, threshold, inconclusive_band: band, correction}) {
  if (!judged) return "No face is large and certain enough for a verdict, so the verdict is inconclusive for any score.";
  const limits = band
    ? `Scores above ${numberText(band[1])} point to fake, scores below ${numberText(band[0])} to real; in between it is too close to call.`
    : `Scores from ${numberText(threshold)} up point to fake, scores below it to real.`;
  return correction === "none" ? limits : `${limits} ${judged} faces decide, and the limit is the one for ${judged} faces.`;
}

function range({status}) {
  if (status === "not_known") return "Tested range: not known for this model.";
  if (status === "inside") return "Tested range: inside, by size, sharpness, compression and pose.";
  return "Outside the tested range: a verdict that rests on such a face is inconclusive.";
}

const items = new Set();

function update() {
  $("empty").hidden = items.size > 0;
  $("clear").hidden = !items.size;
}

function remove(item) {
  const focused = item.li.contains(document.activeElement);
  item.abort.abort();
  const place = waiting.indexOf(item);
  if (place >= 0) waiting.splice(place, 1);
  items.delete(item);
  item.li.remove();
  if (focused) $("choose").focus();
  say(`${item.name} is removed.`);
  update();
}

async function work() {
  if (working || !detector) return;
  while (waiting.length) {
    working = waiting.shift();
    await working.score();
    working = null;
  }
}

function take(files) {
  $("problems").replaceChildren();
  for (const file of files) {
    if (items.size >= MOST_FILES) {
      problem(`${file.name} was not added: the list has ${MOST_FILES} files, the most allowed; remove some.`);
      break;
    }
    const item = new Item(file);
    items.add(item);
    waiting.push(item);
  }
  update();
  work();
}

$("clear").addEventListener("click", () => { for (const item of [...items]) remove(item); $("choose").focus(); });
onFiles(take);
say("The model is being loaded; you can add files already.");
try {
  detector = await Detector.load();
  const {max_bytes, max_pixels} = detector.settings.limits;
  $("limits").textContent = `Pictures and videos up to ${bytes(max_bytes)} and ${max_pixels / 1e6} megapixels each. Scored one at a time.`;
  if (said.startsWith("The model is being")) say("Ready.");
  work();
} catch (error) {
  say("");
  problem(`The model could not be loaded: ${error.message}.`);
}
