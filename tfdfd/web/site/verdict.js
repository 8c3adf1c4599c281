// From the scored faces of all frames to the outcome, as tfdfd/faces/tracks.py and tfdfd/detect/: tracks of people,
// deciding faces, threshold, verdict, likelihood ratio and tested range. The outcome has the fields of detect's JSON.
// A frame is {index, time_s, faces: [{box, score, fake_probability, measures, appearance}]}, box and score rounded.
import {median} from "./faces.js";

const digits = (value, count) => Math.round(value * 10 ** count) / 10 ** count;
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const plural = (count) => count === 1 ? "" : "s";
const logit = (p) => { p = Math.min(Math.max(p, 1e-7), 1 - 1e-7); return Math.log(p) - Math.log1p(-p); };
const sigmoid = (x) => 1 / (1 + Math.exp(-Math.min(x, 700)));

// The outcome for one input with a face.
//   input: {path, kind, frames, requested, duration_s, message}; settings: those of settings.json.
export function judge(input, settings) {
  const {model} = settings;
  const tracks = tracksOf(input.frames, input.kind, settings.tracks);
  const leftOut = chooseDeciding(tracks, input.frames.map((frame) => frame.index), settings.deciding);
  const deciding = tracks.filter((track) => track.decides), scored = deciding.length ? deciding : tracks;
  const probability = Math.max(...scored.map((track) => track.fake_probability));
  const rule = ruleFor(model, deciding.length, settings.bound);
  const tested = compareWithTested(model.tested_range, deciding);
  const notes = [input.message, leftOut, rule.note, outsideNote(tested, settings.measures)].filter(Boolean);
  return {
    path: input.path, kind: input.kind, status: "ok", fake_probability: probability,
    verdict: testedVerdict(deciding.length ? verdictOf(probability, rule) : "inconclusive", rule, deciding, tested),
    frames_requested: input.requested,
    frames_scored: new Set(scored.flatMap((track) => track.frames.map((frame) => frame.index))).size,
    frames_damaged: 0, duration_s: input.duration_s, elapsed_s: input.elapsed_s, faces_judged: deciding.length,
    threshold: rule.threshold, inconclusive_band: rule.band, correction: rule.correction,
    likelihood_ratio: likelihoodRatio(model.likelihood_ratios, input.kind, probability, deciding.length, settings.support),
    tested_range: tested,
    faces: tracks.map(({track, fake_probability, decides, left_out, measures, frames}) => ({
      track, fake_probability, decides, ...(left_out && {left_out}),
      ...(Object.keys(measures).length && {measures}), frames,
    })),
    ...(notes.length && {message: notes.join("; ")}),
  };
}

// Tracks --------------------------------------------------------------------------------------------------------------

function tracksOf(frames, kind, settings) {
  // Faces in one image are different people, however alike.
  const numbers = kind === "image" ? frames.map(({faces}) => faces.map((_, i) => i)) : linkFaces(frames, settings);
  const tracks = new Map(), measured = new Map();
  frames.forEach((frame, f) => frame.faces.forEach((face, i) => {
    const number = numbers[f][i];
    if (!tracks.has(number)) { tracks.set(number, []); measured.set(number, []); }
    tracks.get(number).push({
      index: frame.index, time_s: frame.time_s, box: face.box, detector_score: face.score,
      fake_probability: face.fake_probability,
    });
    measured.get(number).push(face.measures);
  }));
  return [...tracks.keys()].sort((a, b) => a - b).map((track) => ({
    track, frames: tracks.get(track), measures: medians(measured.get(track)),
    fake_probability: digits(mean(tracks.get(track).map((frame) => frame.fake_probability)), 6),
  }));
}

function medians(measures) {
  const names = Object.keys(Object.assign({}, ...measures));
  return Object.fromEntries(names.map((name) => {
    return [name, digits(median(measures.filter((one) => name in one).map((one) => one[name])), 4)];
  }));
}

// The track number of each face of each frame. Two faces of one frame never share a track.
export function linkFaces(frames, {min_affinity}) {
  const tracks = [];
  return frames.map(({faces}) => {
    const pairs = tracks.flatMap((track, t) => faces.map((face, i) => [affinity(track, face), t, i]));
    pairs.sort((a, b) => b[0] - a[0] || a[1] - b[1] || a[2] - b[2]);
    const assigned = new Map();
    for (const [value, t, i] of pairs) {
      if (value >= min_affinity && !assigned.has(i) && ![...assigned.values()].includes(t)) assigned.set(i, t);
    }
    return faces.map((face, i) => {
      if (!assigned.has(i)) {
        assigned.set(i, tracks.length);
        tracks.push({appearance: face.appearance});
      }
      const track = tracks[assigned.get(i)];
      track.box = face.box;
      track.appearance = track.appearance.map((value, k) => 0.7 * value + 0.3 * face.appearance[k]);
      return assigned.get(i);
    });
  });
}

// Mean of proximity and likeness: from below 0 (another person) to 1 (same position, size and appearance).
function affinity(track, face) {
  const [x, y, width, height] = track.box, [x2, y2, width2, height2] = face.box;
  const side = Math.max(width, height, width2, height2);
  const distance = Math.hypot(x + width / 2 - x2 - width2 / 2, y + height / 2 - y2 - height2 / 2) / side;
  const ratio = Math.abs(Math.log(Math.max(width * height, 1e-6) / Math.max(width2 * height2, 1e-6))) / 2;
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const scale = Math.sqrt(dot(track.appearance, track.appearance) * dot(face.appearance, face.appearance));
  return (Math.exp(-distance - ratio) + (scale ? dot(track.appearance, face.appearance) / scale : 0)) / 2;
}

// Deciding faces ------------------------------------------------------------------------------------------------------

// Sets `decides` and `left_out` of each track; returns a note on those that do not decide, or null.
export function chooseDeciding(tracks, sampled, settings) {
  const {min_side, bystander_side, bystander_share} = settings;
  const sides = tracks.map((track) => median(track.frames.map((frame) => Math.min(frame.box[2], frame.box[3]))));
  tracks.forEach((track, i) => {
    const isBystander = sides[i] < bystander_side && sides[i] < bystander_share * Math.max(...sides);
    track.left_out = sides[i] < min_side || isBystander ? "small" : null;
  });
  const rest = tracks.filter((track) => !track.left_out);
  let main = rest[0];
  for (const track of rest) {
    const longer = track.frames.length - main.frames.length;
    if (longer > 0 || (longer === 0 && confidence(track) > confidence(main))) main = track;
  }
  for (const track of rest) track.left_out = doubt(track, sampled, track === main, settings);
  for (const track of tracks) track.decides = !track.left_out;
  const out = tracks.filter((track) => !track.decides);
  if (!out.length) return null;
  const kinds = ["small", "doubtful", "passing"].filter((kind) => out.some((track) => track.left_out === kind)).join(" or ");
  if (out.length === tracks.length) {
    return `${out.length === 1 ? "the face is" : `all ${out.length} faces are`} too ${kinds} to decide`;
  }
  return `${out.length} ${kinds} face${out.length === 1 ? " does" : "s do"} not decide`;
}

const confidence = (track) => mean(track.frames.map((frame) => frame.detector_score));

function doubt(track, sampled, isMain, {sure, sure_enough, min_presence}) {
  if (confidence(track) < (isMain ? sure_enough : sure)) return "doubtful";
  if (isMain || sampled.length === 1) return null;
  const first = track.frames[0].index, last = track.frames[track.frames.length - 1].index;
  const between = sampled.filter((index) => first <= index && index <= last).length;
  return track.frames.length > 1 && track.frames.length >= min_presence * between ? null : "passing";
}

// Threshold and verdict -----------------------------------------------------------------------------------------------

const BY = {
  validation: "", operating_points: " by the operating points of the model card",
  odds: " by the odds, as the model card has no rates of genuine faces",
};

export function verdictOf(probability, {threshold, band}) {
  if (band && band[0] <= probability && probability <= band[1]) return "inconclusive";
  return probability >= threshold ? "fake" : "real";
}

// The rule for the highest score of some faces: {threshold, band, correction, note}.
export function ruleFor(model, faces, bound) {
  const band = model.inconclusive_band, [low, single] = band || [model.threshold, model.threshold];
  if (faces < 2) return {threshold: single, band, correction: "none", note: null};
  const [raised, correction] = raisedLogit(model, single, faces, bound);
  const threshold = Math.max(single, digits(sigmoid(raised), 6));
  if (threshold === single) return {threshold, band, correction, note: null};
  const note = `the threshold is ${threshold.toFixed(3)} instead of ${single.toFixed(3)}, corrected for ${faces} faces${BY[correction]}`;
  return {threshold, band: [low, threshold], correction, note};
}

function raisedLogit({genuine_tails: tails, operating_points: points}, single, faces, bound) {
  const rate = -Math.expm1(Math.log1p(-bound) / faces);
  if (tails.length) return [Math.max(...tails.map((tail) => tailThreshold(tail, rate))), "validation"];
  const [low, high] = [points?.fpr_5, points?.fpr_1];
  if (low && high && 0 < high.fpr && high.fpr < low.fpr && low.fpr < 1 && logit(low.threshold) < logit(high.threshold)) {
    const slope = (logit(high.threshold) - logit(low.threshold)) / Math.log(low.fpr / high.fpr);
    return [logit(low.threshold) + slope * Math.log(low.fpr / rate), "operating_points"];
  }
  return [logit(single) + Math.log(faces), "odds"];
}

function tailThreshold({highest, n, n_above, mean_excess}, rate) {
  const exceeded = Math.trunc(rate * (n + 1) + 1e-9);
  if (exceeded) return logit(highest[Math.min(exceeded, highest.length) - 1]);
  return logit(highest[0]) + n_above * mean_excess * ((1 / (n + 1) / rate) ** (1 / n_above) - 1);
}

// What the score means ------------------------------------------------------------------------------------------------

export function likelihoodRatio(ratios, kind, probability, faces, scale) {
  const fitted = ratios.filter((one) => one.kinds.includes(kind));
  const unknown = (reason) => ({value: null, support: "not known", reason, domains: []});
  if (!fitted.length) return unknown("the model card has no calibration scores for this kind of input");
  if (faces !== 1) return unknown(`it is calibrated for one face; ${faces || "no"} faces decide`);
  const logs = fitted.map(({slope, offset, log10_bounds: [low, high]}) => {
    return Math.min(Math.max(slope * logit(probability) + offset, low), high);
  });
  const rounded = (log) => Number((10 ** log).toPrecision(3));
  const nearest = logs.reduce((one, other) => Math.abs(other) < Math.abs(one) ? other : one);
  const value = Math.min(...logs) > 0 || Math.max(...logs) < 0 ? rounded(nearest) : 1;
  const domains = fitted.map(({domain, n_real, n_fake}, i) => ({domain, value: rounded(logs[i]), n_real, n_fake}));
  return {value, support: support(value, scale), domains};
}

function support(value, scale) {
  const step = scale.find(([least]) => Math.max(value, 1 / value) >= least);
  if (!step) return "no support for one over the other";
  return `${step[1]} support for ${value > 1 ? "fake over real" : "real over fake"}`;
}

function compareWithTested(range, faces) {
  const ranges = range?.measures || {};
  if (!Object.keys(ranges).length || !faces.some((face) => Object.keys(face.measures).length)) {
    return {status: "not_known", outside: []};
  }
  const outside = faces.flatMap(({track, measures}) => Object.entries(measures)
    .filter(([name, value]) => name in ranges && !isWithin(value, ...ranges[name]))
    .map(([measure, value]) => ({track, measure, value, tested: ranges[measure]})));
  return {status: outside.length ? "outside" : "inside", outside};
}

const isWithin = (value, low, high) => (low === null || value >= low) && (high === null || value <= high);

// `real` rests on all faces; `fake` on any one that is fake by itself.
function testedVerdict(verdict, rule, faces, {outside}) {
  const tracks = new Set(outside.map((one) => one.track));
  const isSupported = verdict === "fake"
    ? faces.some((face) => !tracks.has(face.track) && verdictOf(face.fake_probability, rule) === "fake")
    : !tracks.size;
  return isSupported ? verdict : "inconclusive";
}

function outsideNote({outside}, measures) {
  const notes = new Set(outside.map(({measure, value, tested}) => {
    const range = [["from", tested[0]], ["to", tested[1]]].filter(([, end]) => end !== null);
    return `${measures[measure]} ${numberText(value)}, tested ${range.map(([word, end]) => `${word} ${numberText(end)}`).join(" ")}`;
  }));
  return notes.size ? `outside the tested range: ${[...notes].join("; ")}` : null;
}

export function numberText(value) {
  return value >= 1000 ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(3)));
}
