// MTCNN face detector, as tfdfd/faces/mtcnn.py: pyramid, three networks, suppression and boxes.
// A row of boxes is [x1, y1, x2, y2, score]; a face is {box: [x, y, width, height], score, landmarks: [[x, y], ...]}.
import {resizeArea, round, sampleBox} from "./pixels.js";

const f32 = Math.fround;

// Finds the faces of a picture, in descending order of score.
//   run: async (name of a network, float32 values, their dimensions) -> {data, dims}.
//   settings: `mtcnn` of settings.json.
export async function detectFaces(image, run, settings) {
  let boxes = await propose(image, run, settings);
  ({boxes} = await refine(image, boxes, "rnet", 24, settings.refine_threshold, run));
  boxes = square(boxes, survivors(boxes, settings.overlap));
  const found = await refine(image, boxes, "onet", 48, settings.output_threshold, run);
  const faces = [];
  for (const i of survivors(found.boxes, settings.overlap, true)) {
    const row = found.boxes[i];
    const [x1, x2] = [row[0], row[2]].map((x) => Math.min(Math.max(x, 0), image.width - 1));
    const [y1, y2] = [row[1], row[3]].map((y) => Math.min(Math.max(y, 0), image.height - 1));
    if (x2 > x1 && y2 > y1) {
      faces.push({box: [x1, y1, x2 - x1, y2 - y1], score: row[4], landmarks: found.landmarks[i]});
    }
  }
  return faces;
}

// Scales of the pyramid on which the 12 px network finds faces from the smallest to the whole frame.
export function pyramid(width, height, {min_face_size, cell, scale_factor}) {
  const smallest = Math.min(width, height);
  if (smallest < cell) return [];
  const count = round(-(Math.log(smallest / cell) / Math.log(scale_factor) + 1));
  const scales = Array.from({length: Math.max(count, 0)}, (_, i) => cell / min_face_size * scale_factor ** i);
  return scales.filter((scale) => smallest * scale >= cell);
}

async function propose(image, run, settings) {
  const {cell, stride, proposal_threshold, max_proposals, pyramid_overlap, overlap} = settings;
  const boxes = [];
  for (const scale of pyramid(image.width, image.height, settings)) {
    const small = resizeArea(image, Math.trunc(image.width * scale), Math.trunc(image.height * scale));
    const {data, dims} = await run("pnet", planes(small), [1, 3, small.height, small.width]);
    const [, , rows, columns] = dims, plane = rows * columns;
    let found = [];
    for (let i = 0; i < plane; i++) {
      const score = softmax(data[4 * plane + i], data[5 * plane + i]);
      if (!(score > proposal_threshold)) continue;
      const x = i % columns * stride, y = Math.floor(i / columns) * stride;
      const box = [x + 1, y + 1, x + cell, y + cell].map(
        (corner, k) => (corner + f32(data[k * plane + i] * (cell - 1))) / scale);
      found.push([...box, score]);
    }
    found = descending(found).slice(0, max_proposals).map((i) => found[i]);
    boxes.push(...survivors(found, pyramid_overlap).map((i) => found[i]));
  }
  return square(boxes, survivors(boxes, overlap));
}

function planes({data, width, height}) {
  const plane = width * height, out = new Float32Array(3 * plane);
  for (let i = 0, from = 0; i < plane; i++) {
    out[i] = data[from++];
    out[plane + i] = data[from++];
    out[2 * plane + i] = data[from++];
  }
  return out;
}

// Boxes regressed and rescored by the second or third network, with landmarks from the third.
async function refine(image, boxes, name, size, threshold, run) {
  const kept = {boxes: [], landmarks: []};
  if (!boxes.length) return kept;
  const patches = new Float32Array(boxes.length * 3 * size * size);
  const across = (image.width - 1) / image.width, down = (image.height - 1) / image.height;
  boxes.forEach(([x1, y1, x2, y2], i) => {
    sampleBox(image, [x1 * across, y1 * down, x2 * across, y2 * down], size, patches, i * 3 * size * size);
  });
  const {data, dims} = await run(name, patches, [boxes.length, 3, size, size]), count = dims[1];
  boxes.forEach((box, i) => {
    const values = data.subarray(i * count, (i + 1) * count);
    const score = softmax(values[count - 2], values[count - 1]);
    if (!(score > threshold)) return;
    const width = box[2] - box[0] + 1, height = box[3] - box[1] + 1, extent = [width, height, width, height];
    kept.boxes.push([...extent.map((side, k) => box[k] + values[k] * side), score]);
    kept.landmarks.push(count > 6
      ? [0, 1, 2, 3, 4].map((k) => [f32(box[0] - 1 + values[4 + k] * width), f32(box[1] - 1 + values[9 + k] * height)])
      : null);
  });
  return kept;
}

// P(face) of the logits of no face and face.
const softmax = (none, face) => f32(1 / f32(1 + f32(Math.exp(Math.min(Math.max(f32(none - face), -50), 50)))));

const descending = (boxes) => boxes.map((_, i) => i).sort((a, b) => boxes[b][4] - boxes[a][4] || a - b);

// Non-maximum suppression; indices of the remaining boxes in descending order of score. As in the mtcnn package, a
// suppressed box still suppresses others.
function survivors(boxes, threshold, bySmaller = false) {
  const order = descending(boxes), sides = order.map((i) => boxes[i].slice(0, 4).map(f32));
  const areas = sides.map(([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1));
  return order.filter((_, k) => {
    const [x1, y1, x2, y2] = sides[k];
    for (let j = 0; j < k; j++) {
      const other = sides[j];
      const width = Math.min(x2, other[2]) - Math.max(x1, other[0]), height = Math.min(y2, other[3]) - Math.max(y1, other[1]);
      const shared = Math.max(width, 0) * Math.max(height, 0);
      const whole = bySmaller ? Math.min(areas[k], areas[j]) : areas[k] + areas[j] - shared;
      if (shared / Math.max(whole, 1e-9) > threshold) return false;
    }
    return true;
  });
}

// The chosen boxes, with the short side of each extended about its center.
function square(boxes, chosen) {
  return chosen.map((i) => {
    const [x1, y1, x2, y2, score] = boxes[i], side = Math.max(x2 - x1, y2 - y1);
    const x = x1 + (x2 - x1 - side) / 2, y = y1 + (y2 - y1 - side) / 2;
    return [x, y, x + side, y + side, score];
  });
}
