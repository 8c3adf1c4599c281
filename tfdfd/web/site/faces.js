// Face crops as the network takes them (tfdfd/faces/crop.py), and measures of each face (both tfdfd/faces/crop.py).
import {cut, gray, pad, resizeArea, resizeLinear, round} from "./pixels.js";

const WINDOW = 256, BLOCK = 8, LEAST_WINDOW = 4 * BLOCK, THUMB = 24;
const within = (value, low, high) => Math.min(Math.max(value, low), high);

function squareAround([x, y, width, height], margin) {
  const side = Math.max(1, round(Math.max(width, height) * margin));
  return [round(x + width / 2 - side / 2), round(y + height / 2 - side / 2), side];
}

export function cropFace(image, box, size, margin) {
  const [x, y, side] = squareAround(box, margin), {width, height} = image;
  const left = within(x, 0, width - 1), top = within(y, 0, height - 1);
  const right = within(x + side, left + 1, width), bottom = within(y + side, top + 1, height);
  let inside = cut(image, left, top, right, bottom);
  const outside = [top - y, y + side - bottom, left - x, x + side - right];
  if (outside.some(Boolean)) {
    const factor = Math.min(1, 2 * size / side);
    if (factor < 1) {
      inside = resizeArea(inside, Math.max(1, round((right - left) * factor)), Math.max(1, round((bottom - top) * factor)));
    }
    inside = pad(inside, ...outside.map((value) => Math.max(0, round(value * factor))));
  }
  return resizeCrop(inside, size);
}

// Bilinear, or by area where that would alias.
export function resizeCrop(image, size) {
  const shrinks = Math.min(image.width, image.height) / size >= 2;
  return (shrinks ? resizeArea : resizeLinear)(image, size, size);
}

// Values by name of MEASURES; what cannot be measured is absent.
export function measureFace(image, face, crop, margin) {
  const [x, y, side] = squareAround(face.box, margin);
  const left = within(x, 0, image.width - 1), top = within(y, 0, image.height - 1);
  const right = Math.min(Math.max(x + side, left + 1), image.width), bottom = Math.min(Math.max(y + side, top + 1), image.height);
  const source = cut(image, left, top, right, bottom);
  const values = {side: Math.min(source.width, source.height, crop.height), sharpness: laplacianVariance(crop)};
  const width = Math.min(source.width, WINDOW), height = Math.min(source.height, WINDOW);
  if (Math.min(width, height) >= LEAST_WINDOW) {
    const row = Math.floor((source.height - height) / 2), column = Math.floor((source.width - width) / 2);
    const window = gray(cut(source, column, row, column + width, row + height));
    values.blockiness = (gridSteps(window, width, height, 1, width) + gridSteps(window, height, width, width, 1)) / 2;
  }
  if (face.landmarks) Object.assign(values, pose(face.landmarks));
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, Math.round(value * 1e4) / 1e4]));
}

function laplacianVariance(image) {
  const {width, height} = image, light = gray(image);
  const mirror = (i, length) => i < 0 ? -i : i >= length ? 2 * length - 2 - i : i;
  let sum = 0, squares = 0;
  for (let y = 0; y < height; y++) {
    const above = mirror(y - 1, height) * width, below = mirror(y + 1, height) * width;
    for (let x = 0; x < width; x++) {
      const value = light[above + x] + light[below + x] + light[y * width + mirror(x - 1, width)] +
        light[y * width + mirror(x + 1, width)] - 4 * light[y * width + x];
      sum += value;
      squares += value * value;
    }
  }
  const count = width * height;
  return squares / count - (sum / count) ** 2;
}

// How far the steps at the strongest phase of the grid exceed their neighbors', per mean step.
function gridSteps(light, across, down, stepX, stepY) {
  const steps = new Float64Array(across - 1);
  for (let x = 0; x < steps.length; x++) {
    for (let y = 0; y < down; y++) steps[x] += Math.abs(light[y * stepY + (x + 1) * stepX] - light[y * stepY + x * stepX]);
    steps[x] /= down;
  }
  const rows = Math.floor((steps.length - 2) / BLOCK);
  let strongest = -Infinity;
  for (let phase = 0; phase < BLOCK; phase++) {
    const excess = Array.from({length: rows}, (_, row) => {
      const at = row * BLOCK + phase + 1;
      return steps[at] - (steps[at - 1] + steps[at + 1]) / 2;
    });
    strongest = Math.max(strongest, median(excess));
  }
  return strongest / Math.max(steps.reduce((sum, step) => sum + step, 0) / steps.length, 1e-6);
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b), middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function pose([left, right, nose]) {
  const x = right[0] - left[0], y = right[1] - left[1], distance = Math.hypot(x, y);
  if (distance < 1) return {};
  const offset = (nose[0] - (left[0] + right[0]) / 2) * x + (nose[1] - (left[1] + right[1]) / 2) * y;
  return {turn: Math.abs(offset / distance ** 2), tilt: Math.abs(Math.atan2(y, x) * 180 / Math.PI)};
}

// A small color image of the face minus its mean, for linking faces (tfdfd/faces/tracks.py).
export function appearance(crop) {
  const {data} = resizeArea(crop, THUMB, THUMB), out = Float32Array.from(data);
  for (let c = 0; c < 3; c++) {
    let sum = 0;
    for (let i = c; i < out.length; i += 3) sum += out[i];
    for (let i = c; i < out.length; i += 3) out[i] -= sum / (THUMB * THUMB);
  }
  return out;
}
