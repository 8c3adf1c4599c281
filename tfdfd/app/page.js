import {$, MEANING, STATUS, add, bytes, count, likelihood, onFiles, score} from "./words.js";

// Addresses are relative to the page's own, which contains the token.
const PENDING = ["uploading", "waiting", "scoring"];
let limits = {max_bytes: Infinity, max_queue: 1};
let pendingThere = 0;
let uploading = false;
let timer = 0;
const waitingHere = [];
const shown = new Map();

function set(node, name, value) {
  if (node[name] !== value) node[name] = value;
}

// Announcements are made once a poll, all in one, so that a screen reader does not drop any.
let said = [];

function problem(text, kind = "") {
  if ([...$("problems").children].some((p) => p.textContent === text)) return;
  add($("problems"), "p", {textContent: text, className: kind});
}

function item(file) {
  const li = document.createElement("li");
  const view = {li, state: null, first: false};
  const title = add(li, "h3");
  add(title, "bdi", {textContent: file.name});
  view.outcome = add(li, "p", {className: "outcome"});
  view.badge = add(view.outcome, "span");
  view.text = add(view.outcome, "span");
  view.bar = add(li, "progress", {max: 1});
  view.bar.setAttribute("aria-label", `Progress of ${file.name}`);
  view.meaning = add(li, "p");
  view.ratio = add(li, "p");
  view.detail = add(li, "p", {className: "soft"});
  const links = add(li, "p", {className: "links"});
  const address = `files/${file.number}`;
  view.report = add(links, "a", {className: "main", href: `${address}/report`, target: "_blank", rel: "noopener", textContent: "Open report"});
  view.report.setAttribute("aria-label", `Open report on ${file.name} in a new tab`);
  view.json = add(links, "a", {href: `${address}/result.json`, download: `${file.name}.json`, textContent: "Save JSON"});
  view.json.setAttribute("aria-label", `Save JSON of ${file.name}`);
  const button = add(links, "button", {type: "button", textContent: "Delete now"});
  button.setAttribute("aria-label", `Delete now: ${file.name}`);
  button.addEventListener("click", () => remove(address, `${file.name} is deleted`));
  $("files").prepend(li);
  return view;
}

function update(view, file, ahead) {
  const result = file.result;
  const verdict = result && result.verdict;
  const first = file.first ? `first face (at ${file.first.time_s.toFixed(1)} s) P(fake) ${score(file.first.fake_probability)}` : "";
  const words = {
    uploading: `uploading: ${bytes(file.received)}${file.size ? ` of ${bytes(file.size)}` : ""}`,
    waiting: ahead ? `waiting: ${count(ahead, "file")} before it` : "waiting",
    scoring: first ? `scoring; ${first}, no verdict yet` : "scoring",
    failed: "not scored",
    done: "",
  };
  set(view.badge, "className", verdict ? `badge ${verdict}` : "badge");
  set(view.badge, "textContent", result ? verdict || STATUS[result.status] || result.status : "");
  set(view.badge, "hidden", !result);
  set(view.text, "textContent", verdict ? `P(fake) ${score(result.fake_probability)}` : words[file.state]);
  set(view.meaning, "textContent", verdict ? MEANING[verdict] : "");
  set(view.ratio, "textContent", verdict && result.likelihood_ratio ? likelihood(result.likelihood_ratio) : "");
  let detail = file.message || (result && result.message) || "";
  if (verdict) {
    const frames = result.kind === "video" ? `, ${result.frames_scored} of ${count(result.frames_requested, "frame")}` : "";
    detail = `${count(result.faces_found, "face")}${frames}${detail ? `; ${detail}` : ""}`;
  }
  set(view.detail, "textContent", detail);
  view.bar.hidden = !PENDING.includes(file.state);
  if (file.state === "uploading" && file.size) view.bar.value = file.received / file.size;
  else view.bar.removeAttribute("value");
  view.report.hidden = view.json.hidden = file.state !== "done";
  if (file.first && !view.first && file.state === "scoring") said.push(`${file.name}: ${first}, no verdict yet.`);
  if (file.state !== view.state) {
    if (file.state === "waiting" || (file.state === "scoring" && view.state === "uploading")) said.push(`${file.name} is uploaded.`);
    if (file.state === "done") said.push(`${file.name}: ${view.badge.textContent}${verdict ? `, ${view.text.textContent}` : ""}.`);
    if (file.state === "failed") said.push(`${file.name}: not scored, ${file.message}.`);
  }
  view.state = file.state;
  view.first = Boolean(file.first);
}

function show(state) {
  limits = state.limits;
  set($("limits"), "textContent",
    `Pictures and videos up to ${bytes(limits.max_bytes)} each. Scored one at a time; ${count(limits.max_queue, "file")} can wait.`);
  for (const note of state.notes) problem(`Note: ${note}`, "note");
  const numbers = new Set(state.files.map((file) => file.number));
  for (const [number, view] of shown) {
    if (numbers.has(number)) continue;
    const focused = view.li.contains(document.activeElement);
    view.li.remove();
    shown.delete(number);
    if (focused) $("choose").focus();
  }
  let ahead = 0;
  for (const file of state.files) {
    if (!shown.has(file.number)) shown.set(file.number, item(file));
    update(shown.get(file.number), file, ahead);
    if (PENDING.includes(file.state)) ahead += 1;
  }
  pendingThere = ahead;
  $("empty").hidden = state.files.length > 0;
  $("clear").hidden = state.files.length === 0;
  if (said.length) $("status").textContent = said.join(" ");
  else if (!state.ready) set($("status"), "textContent", "The model is being loaded; you can add files already.");
  else if ($("status").textContent.startsWith("The model is being")) $("status").textContent = "Ready.";
  said = [];
  return !state.ready || ahead > 0 || waitingHere.length > 0;
}

async function poll() {
  clearTimeout(timer);
  let busy = false;
  try {
    const response = await fetch("files");
    if (!response.ok) throw new Error(`status ${response.status}`);
    busy = show(await response.json());
    $("gone")?.remove();
  } catch {
    problem("No answer: 'tfdfd app' has ended, and everything of this session is deleted. This page is only a memory of it.");
    $("problems").lastChild.id = "gone";
  }
  clearTimeout(timer);
  timer = setTimeout(poll, busy ? 300 : 2500);
  upload();
}

async function upload() {
  if (uploading || !waitingHere.length || pendingThere >= limits.max_queue) return;
  uploading = true;
  const file = waitingHere.shift();
  try {
    if (file.size > limits.max_bytes) throw new Error(`larger than ${bytes(limits.max_bytes)}`);
    const sent = fetch(`files?name=${encodeURIComponent(file.name)}`, {
      method: "POST", headers: {"Content-Type": "application/octet-stream"}, body: file,
    });
    timer = setTimeout(poll, 100);
    const response = await sent;
    if (response.status === 429) waitingHere.unshift(file);
    else if (!response.ok) throw new Error((await response.json()).error);
  } catch (error) {
    const why = error instanceof TypeError ? "it was deleted, or it cannot be read (a folder cannot be added)" : error.message;
    problem(`${file.name} was not added: ${why}`);
  }
  uploading = false;
  poll();
}

async function remove(address, text) {
  try {
    const response = await fetch(address, {method: "DELETE"});
    if (response.ok) {
      said.push(`${text}.`);
      show(await response.json());
    }
  } catch { /* poll() reports it */ }
  poll();
}

function take(list) {
  $("problems").querySelectorAll("p:not(.note):not(#gone)").forEach((p) => p.remove());
  waitingHere.push(...list);
  upload();
}

$("clear").addEventListener("click", () => { waitingHere.length = 0; remove("files", "Everything is deleted"); $("choose").focus(); });
onFiles(take);
poll();
