// A thread that finds and scores the faces of one frame at a time, on onnxruntime-web with one thread of its own: several
// such workers need no cross-origin isolation, unlike the threads of WebAssembly.
import {appearance, cropFace, measureFace} from "./faces.js";
import {detectFaces} from "./mtcnn.js";
import {fromRgba, fromYuv, resizeArea, resizeCubic, round, turn} from "./pixels.js";
import {searchFrame, searchStill} from "./search.js";
import * as ort from "./runtime/ort.js";

// Longest sides of the small copies for the page, of which a video has one a frame.
const STILL_VIEW = 480, VIDEO_VIEW = 128, BATCH = 8;
const sessions = {};
let settings;

async function start({binary, networks, given}) {
  settings = given;
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = binary;
  for (const [name, graph] of Object.entries(networks)) {
    sessions[name] = await ort.InferenceSession.create(graph, {executionProviders: ["wasm"]});
  }
}

async function run(name, values, dims) {
  const session = sessions[name];
  const answers = await session.run({[session.inputNames[0]]: new ort.Tensor("float32", values, dims)});
  const {data, dims: shape} = answers[session.outputNames[0]];
  return {data, dims: shape};
}

async function score(frame) {
  const image = pixelsOf(frame), {size} = settings.model;
  const detect = (picture) => detectFaces(picture, run, settings.mtcnn);
  let found, scale = 1;
  if (frame.still) ({faces: found, scale} = await searchStill(image, detect, settings.search));
  else found = await searchFrame(image, detect, settings.search);
  const most = Math.floor(settings.max_crops / (frame.still ? 4 : settings.frames)), kept = found.slice(0, most);
  const faces = [];
  for (let start = 0; start < kept.length; start += BATCH) {
    const batch = kept.slice(start, start + BATCH);
    const crops = batch.map((face) => cropFace(image, face.box, size, settings.margin));
    const values = new Float32Array(3 * size * size * batch.length);
    crops.forEach((crop, i) => crop.data.forEach((value, k) => { values[i * crop.data.length + k] = value / 255; }));
    const {data} = await run("model", values, [batch.length, size, size, 3]);
    batch.forEach((face, i) => {
      if (!(data[i] >= 0 && data[i] <= 1)) throw new Error("the network answered a value outside [0, 1]");
      faces.push({
        box: face.box.map(round), score: Math.round(face.score * 1e4) / 1e4,
        fake_probability: Math.round(data[i] * 1e6) / 1e6, appearance: appearance(crops[i]),
        measures: settings.model.tested_range ? measureFace(image, face, crops[i], settings.margin) : {},
      });
    });
  }
  return {
    index: frame.index, time_s: frame.time_s, faces, scale, crowded: found.length > most, view: viewOf(image, frame.still ? STILL_VIEW : VIDEO_VIEW),
    width: image.width, height: image.height,
  };
}

function pixelsOf({width, height, stretched, rgba, yuv, layout, format, matrix, fullRange, rotation = 0, flip = false}) {
  const image = rgba ? fromRgba(rgba, width, height) : fromYuv(yuv, layout, width, height, format, matrix, fullRange);
  return turn(stretched ? resizeCubic(image, stretched.width, stretched.height) : image, rotation, flip);
}

// A small RGBA copy for the page.
function viewOf(image, side) {
  const scale = Math.min(1, side / Math.max(image.width, image.height));
  const {data, width, height} = resizeArea(image, Math.max(1, round(image.width * scale)), Math.max(1, round(image.height * scale)));
  const rgba = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let from = 0, to = 0; from < data.length; from += 3, to += 4) rgba.set(data.subarray(from, from + 3), to);
  return {rgba, width, height};
}

onmessage = async ({data: {start: given, frame}}) => {
  try {
    if (given) {
      await start(given);
      postMessage({ready: true});
    } else {
      postMessage({scored: await score(frame)});
    }
  } catch (error) {
    postMessage({failed: error.message || String(error)});
  }
};
