// Files of the visitor to frames: pictures by the browser's own decoder, videos by WebCodecs, sampled as detect does.
// No file leaves the page. A frame is {index, time_s, width, height}, its size in square pixels if those are not
// (`stretched`), and either `rgba`, which the browser may have `converted`, or `yuv` with its format and layout.
import {ALL_FORMATS, BlobSource, EncodedPacketSink, Input, VideoSampleSink} from "./runtime/mediabunny.js";
import {round} from "./pixels.js";

export class MediaError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const HEAD = 32;
const NO_PICTURE = "the image is damaged or of a kind that this browser cannot decode; try it as JPEG or PNG";
const PICTURES = ["avif", "avis", "heic", "heix", "mif1", "msf1"];
// Formats of video frames that are converted as detect does; without an even height, swscale has another way.
const EXACT = ["I420", "NV12", "I422", "I444"];
// Pixels within 1 % of square count as square.
const SQUARE = 0.01;

// Indices of `count` frames spread evenly over `total` frames: the middle of equal segments.
export function frameIndices(total, count) {
  if (total <= count) return Array.from({length: total}, (_, i) => i);
  return Array.from({length: count}, (_, i) => Math.floor((2 * i + 1) * total / (2 * count)));
}

// Opens a file: {kind, requested, duration_s, frames: async generator, close}. Raises MediaError.
export async function openMedia(file, count, limits) {
  if (!file.size) throw new MediaError("decode_error", "the file is empty (0 bytes)");
  if (file.size > limits.max_bytes) {
    throw new MediaError("too_large", `${file.size.toLocaleString("en-US")} bytes; at most ${limits.max_bytes.toLocaleString("en-US")}`);
  }
  let head;
  try {
    head = new Uint8Array(await file.slice(0, HEAD).arrayBuffer());
  } catch {
    throw new MediaError("decode_error", "the file cannot be read: it was deleted, or it is a folder");
  }
  return isPicture(head) ? openPicture(file, limits) : openVideo(file, count, limits);
}

// By content, whatever the name. Text formats such as SVG are not read.
function isPicture(head) {
  const text = String.fromCharCode(...head), at = (start, sign) => text.startsWith(sign, start);
  return at(0, "\xff\xd8\xff") || at(0, "\x89PNG\r\n\x1a\n") || at(0, "GIF8") || at(0, "BM") ||
    (at(0, "RIFF") && at(8, "WEBP")) || (at(4, "ftyp") && PICTURES.some((brand) => at(8, brand)));
}

function checkPixels(width, height, limits, what) {
  if (width * height > limits.max_pixels) {
    const most = limits.max_pixels.toLocaleString("en-US");
    throw new MediaError("too_large", `${what} of ${width} x ${height} pixels; at most ${most}`);
  }
}

async function openPicture(file, limits) {
  const address = URL.createObjectURL(file), image = new Image();
  try {
    // The size is known before the pixels are decoded.
    image.src = address;
    await new Promise((resolve, reject) => { image.onload = resolve; image.onerror = reject; });
  } catch {
    throw new MediaError("decode_error", NO_PICTURE);
  } finally {
    URL.revokeObjectURL(address);
  }
  checkPixels(image.naturalWidth, image.naturalHeight, limits, "an image");
  async function* frames() {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file, {colorSpaceConversion: "none", imageOrientation: "from-image"});
    } catch {
      throw new MediaError("decode_error", NO_PICTURE);
    }
    const {width, height} = bitmap;
    const context = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
    // Transparent pixels become white.
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    yield {index: 0, time_s: 0, width, height, rgba: context.getImageData(0, 0, width, height).data};
  }
  return {kind: "image", requested: 1, duration_s: null, frames: frames(), close() {}};
}

async function openVideo(file, count, limits) {
  const input = new Input({source: new BlobSource(file), formats: ALL_FORMATS});
  try {
    if (!await input.canRead()) {
      throw new MediaError("unsupported", "the content is in no image or video format that this page reads (formats are not guessed)");
    }
    const track = await input.getPrimaryVideoTrack();
    if (!track) throw new MediaError("decode_error", "the file holds no video: only sound, or a cover picture");
    if (typeof VideoDecoder === "undefined") {
      throw new MediaError("unsupported", "this browser decodes videos only on pages that are opened by https: or from this machine");
    }
    if (!await track.canDecode()) {
      throw new MediaError("unsupported", `this browser cannot decode the video's codec (${await track.getCodecParameterString() || "unknown"})`);
    }
    await stateColors(track);
    checkPixels(await track.getCodedWidth(), await track.getCodedHeight(), limits, "a video");
    const {times, end} = await timesOf(track, limits);
    const indices = frameIndices(times.length, count);
    return {
      kind: "video", requested: count, duration_s: Math.round(end * 1e3) / 1e3,
      frames: sampled(track, indices, times, limits), count: indices.length, close: () => input.dispose(),
    };
  } catch (error) {
    input.dispose();
    if (error instanceof MediaError) throw error;
    throw new MediaError("decode_error", `the video is damaged: ${error.message}`);
  }
}

// A video that states no color matrix is converted by that of BT.601, as by swscale; browsers would choose another. What
// the video's own stream states takes precedence over this statement.
async function stateColors(track) {
  const config = await track.getDecoderConfig(), stated = config?.colorSpace ?? {};
  if (stated.matrix) return;
  const colorSpace = {
    primaries: stated.primaries ?? "smpte170m", transfer: stated.transfer ?? "smpte170m", matrix: "smpte170m",
    fullRange: stated.fullRange ?? false,
  };
  track.getDecoderConfig = async () => ({...config, colorSpace});
}

// Presentation times of all frames, ascending, and the end of the last one.
async function timesOf(track, limits) {
  const times = [];
  let end = 0;
  for await (const packet of new EncodedPacketSink(track).packets(undefined, undefined, {metadataOnly: true})) {
    // Frames before the start that an edit list sets are decoded but not shown.
    if (packet.timestamp < -1e-6) continue;
    if (times.push(packet.timestamp) > limits.max_frames) {
      throw new MediaError("too_large", `more than ${limits.max_frames} frames`);
    }
    end = Math.max(end, packet.timestamp + packet.duration);
  }
  if (!times.length) throw new MediaError("decode_error", "no frame could be decoded: the video is damaged or has no frames");
  return {times: times.sort((a, b) => a - b), end};
}

async function* sampled(track, indices, times, limits) {
  let position = 0;
  try {
    for await (const sample of new VideoSampleSink(track).samplesAtTimestamps(indices.map((index) => times[index]))) {
      const index = indices[position++];
      if (!sample || Math.abs(sample.timestamp - times[index]) > 5e-4) {
        sample?.close();
        throw new MediaError("decode_error", `frame ${index} cannot be decoded: the video is damaged`);
      }
      const frame = sample.toVideoFrame();
      const square = {width: sample.squarePixelWidth, height: sample.squarePixelHeight};
      const turned = {rotation: sample.rotation, flip: sample.flip};
      sample.close();
      try {
        checkPixels(frame.codedWidth, frame.codedHeight, limits, "a frame");
        yield {index, time_s: Math.round(times[index] * 1e3) / 1e3, ...turned, ...await pixelsOf(frame, square)};
      } finally {
        frame.close();
      }
    }
  } catch (error) {
    if (error instanceof MediaError) throw error;
    throw new MediaError("decode_error", `the video cannot be decoded: ${error.message}`);
  }
}

async function pixelsOf(frame, square) {
  const {width, height} = frame.visibleRect;
  // The side that grows, so that pixels become square.
  const aspect = square.width / square.height * height / width;
  const stretched = Math.abs(aspect - 1) > SQUARE &&
    (aspect > 1 ? {width: round(width * aspect), height} : {width, height: round(height / aspect)});
  const {format, colorSpace: {matrix, fullRange}} = frame;
  if (EXACT.includes(format) && (format === "I444" || height % 2 === 0)) {
    const yuv = new Uint8Array(frame.allocationSize()), layout = await frame.copyTo(yuv);
    return {width, height, stretched, yuv, layout, format, matrix, fullRange: Boolean(fullRange)};
  }
  // Others, such as 10 bits a value: the browser's own conversion, which differs.
  const context = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
  context.drawImage(frame, 0, 0, width, height);
  return {width, height, stretched, converted: true, rgba: context.getImageData(0, 0, width, height).data};
}
