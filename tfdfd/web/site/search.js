// Face search on copies of bounded size, as tfdfd/faces/detectors.py.
import {cut, resizeArea, round} from "./pixels.js";

// The faces of a video frame, in its own pixels. `detect`: async picture -> faces; `settings`: `search` of settings.json.
export async function searchFrame(image, detect, {video_side}) {
  return (await searchWhole(image, detect, video_side)).faces;
}

// The faces of an image in descending order of score, and the largest scale searched; a large or elongated one is
// searched in parts.
export async function searchStill(image, detect, settings) {
  const {image_side: side, elongated: ratio, second_look, clear_face, part_scale, most_pixels} = settings;
  const short = Math.min(image.width, image.height), long = Math.max(image.width, image.height);
  const affordable = (scale, overlapping) => Math.min(scale, Math.sqrt(most_pixels / (overlapping * image.width * image.height)));
  const whole = Math.min(1, side / long), elongated = long >= ratio * short && whole < 1;
  let scale = whole, parts;
  if (elongated) {
    scale = Math.max(whole, affordable(Math.min(1, side / (2 * short)), 2));
    parts = await searchParts(image, detect, side, scale, Math.min(short, side / scale / 2));
  } else {
    parts = [(await searchWhole(image, detect, side)).faces.map((face) => ({face, isCut: false}))];
  }
  const finer = affordable(part_scale, 1.5);
  const clear = parts.flat().some(({face}) => face.box[2] * scale >= clear_face);
  if (scale < finer && (elongated || (whole < second_look && !clear))) {
    parts.push(...await searchParts(image, detect, side, finer, side / finer / 4));
    scale = finer;
  }
  return {faces: parts.length > 1 ? merge(parts, settings.same) : parts[0].map(({face}) => face), scale};
}

async function searchWhole(image, detect, side) {
  const scale = Math.min(1, side / Math.max(image.width, image.height));
  return {faces: (await detect(shrink(image, scale))).map((face) => scaled(face, 1 / scale)), scale};
}

// For each part of the image, its faces, and whether a border inside the image cuts each.
async function searchParts(image, detect, longest, scale, overlap) {
  const parts = [], side = longest / scale;
  for (const [left, right] of spans(image.width, side, overlap)) {
    for (const [top, bottom] of spans(image.height, side, overlap)) {
      const faces = await detect(shrink(cut(image, left, top, right, bottom), scale));
      parts.push(faces.map((face) => moved(scaled(face, 1 / scale), [left, top, right, bottom], image)));
    }
  }
  return parts;
}

// Equal intervals of at most `longest` that cover `length`; successive ones share at least `overlap`.
export function spans(length, longest, overlap) {
  const side = Math.min(Math.trunc(longest), length);
  const count = longest >= length || side >= length ? 1 : 1 + Math.ceil((length - side) / Math.max(1, side - overlap));
  return Array.from({length: count}, (_, i) => {
    const start = count === 1 ? 0 : round(i * (length - side) / (count - 1));
    return [start, start + side];
  });
}

function shrink(image, scale) {
  if (scale === 1) return image;
  return resizeArea(image, Math.max(1, round(image.width * scale)), Math.max(1, round(image.height * scale)));
}

function scaled(face, factor) {
  const landmarks = face.landmarks && face.landmarks.map((point) => point.map((value) => Math.fround(value * Math.fround(factor))));
  return {...face, box: face.box.map((value) => value * factor), landmarks};
}

function moved(face, [left, top, right, bottom], {width, height}) {
  const [x, y, w, h] = face.box, near = 0.02 * Math.max(w, h);
  const isCut = (x < near && left > 0) || (y < near && top > 0) ||
    (x + w > right - left - near && right < width) || (y + h > bottom - top - near && bottom < height);
  const landmarks = face.landmarks && face.landmarks.map(([px, py]) => [Math.fround(px + left), Math.fround(py + top)]);
  return {face: {...face, box: [x + left, y + top, w, h], landmarks}, isCut};
}

// The faces of all parts without duplicates: whole faces take precedence over cut ones, then higher scores.
function merge(parts, same) {
  const byRank = (a, b) => b.score - a.score || b.box[2] - a.box[2];
  const ranked = parts.flatMap((faces, number) => faces.map((each) => ({...each, number})));
  ranked.sort((a, b) => a.isCut - b.isCut || byRank(a.face, b.face) || a.number - b.number);
  const kept = [];
  for (const each of ranked) {
    // Faces of one part are distinct: the detector has merged duplicates.
    if (kept.every((other) => other.number === each.number || shared(each.face.box, other.face.box) < same)) kept.push(each);
  }
  return kept.map(({face}) => face).sort(byRank);
}

// Area of the intersection of two boxes as a fraction of the smaller.
function shared([x, y, w, h], [x2, y2, w2, h2]) {
  const width = Math.min(x + w, x2 + w2) - Math.max(x, x2), height = Math.min(y + h, y2 + h2) - Math.max(y, y2);
  return Math.max(width, 0) * Math.max(height, 0) / Math.max(Math.min(w * h, w2 * h2), 1e-9);
}
