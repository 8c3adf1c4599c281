// Pixel arithmetic of OpenCV and swscale, to the bit where tests/test_web.py compares it: resizing, warping, YUV to RGB.
// A picture is {data: Uint8Array of RGB, width, height}.

// Rounds half to even, as Python, NumPy and OpenCV do.
export function round(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

const clip = (value) => value < 0 ? 0 : value > 255 ? 255 : value;

// INTER_AREA, for sizes no larger than the picture's.
export function resizeArea(image, width, height) {
  if (width === image.width && height === image.height) return image;
  const across = image.width / width, down = image.height / height;
  if (Number.isInteger(across) && Number.isInteger(down)) return meanOfBlocks(image, width, height, across, down);
  const {data} = image;
  const columns = areaShares(image.width, width), rows = areaShares(image.height, height);
  const sums = new Float32Array(3 * width * height), row = new Float32Array(3 * width);
  let last = -1;
  for (let k = 0; k < rows.target.length; k++) {
    const y = rows.source[k], share = rows.share[k], to = 3 * width * rows.target[k];
    if (y !== last) {
      row.fill(0);
      const start = 3 * image.width * y;
      for (let i = 0; i < columns.target.length; i++) {
        const part = columns.share[i], from = start + 3 * columns.source[i], at = 3 * columns.target[i];
        row[at] += Math.fround(data[from] * part);
        row[at + 1] += Math.fround(data[from + 1] * part);
        row[at + 2] += Math.fround(data[from + 2] * part);
      }
      last = y;
    }
    for (let i = 0; i < row.length; i++) sums[to + i] += Math.fround(row[i] * share);
  }
  return {data: Uint8Array.from(sums, (value) => clip(round(value))), width, height};
}

// The share of each source pixel in each target pixel of a line.
function areaShares(length, parts) {
  const scale = length / parts, target = [], source = [], share = [];
  const put = (to, from, part) => { target.push(to); source.push(from); share.push(part); };
  for (let to = 0; to < parts; to++) {
    const start = to * scale, end = start + scale, cell = Math.min(scale, length - start);
    const last = Math.min(Math.floor(end), length - 1), first = Math.min(Math.ceil(start), last);
    if (first - start > 1e-3) put(to, first - 1, (first - start) / cell);
    for (let from = first; from < last; from++) put(to, from, 1 / cell);
    if (end - last > 1e-3) put(to, last, Math.min(end - last, 1, cell) / cell);
  }
  return {target, source, share: Float32Array.from(share)};
}

function meanOfBlocks(image, width, height, across, down) {
  const out = new Uint8Array(3 * width * height), {data} = image;
  const share = Math.fround(1 / (across * down)), isPair = across === 2 && down === 2;
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let j = 0; j < down; j++) {
          let from = 3 * ((y * down + j) * image.width + x * across) + c;
          for (let i = 0; i < across; i++, from += 3) sum += data[from];
        }
        out[to++] = isPair ? (sum + 2) >> 2 : round(Math.fround(sum * share));
      }
    }
  }
  return {data: out, width, height};
}

// INTER_LINEAR, in OpenCV's fixed point of 11 bits.
export function resizeLinear(image, width, height) {
  if (width === image.width && height === image.height) return image;
  if (image.width === 2 * width && image.height === 2 * height) return resizeArea(image, width, height);
  const {data} = image;
  const columns = linearShares(image.width, width), rows = linearShares(image.height, height);
  const out = new Uint8Array(3 * width * height);
  const lines = new Map();
  const line = (y) => {
    if (!lines.has(y)) {
      if (lines.size > 2) lines.delete(lines.keys().next().value);
      const values = new Int32Array(3 * width), start = 3 * image.width * y;
      for (let x = 0, at = 0; x < width; x++) {
        const inside = columns.at[x] >= 0 && columns.at[x] < image.width - 1;
        const left = start + 3 * Math.min(Math.max(columns.at[x], 0), image.width - 1), right = inside ? left + 3 : left;
        const a = inside ? columns.near[x] : 2048, b = inside ? columns.far[x] : 0;
        for (let c = 0; c < 3; c++) values[at++] = data[left + c] * a + data[right + c] * b;
      }
      lines.set(y, values);
    }
    return lines.get(y);
  };
  const bound = (y) => Math.min(Math.max(y, 0), image.height - 1);
  for (let y = 0, to = 0; y < height; y++) {
    const above = line(bound(rows.at[y])), below = line(bound(rows.at[y] + 1));
    const a = rows.near[y], b = rows.far[y];
    for (let i = 0; i < above.length; i++) {
      out[to++] = clip((((a * (above[i] >> 4)) >> 16) + ((b * (below[i] >> 4)) >> 16) + 2) >> 2);
    }
  }
  return {data: out, width, height};
}

function linearShares(length, parts) {
  const at = new Int32Array(parts), near = new Int32Array(parts), far = new Int32Array(parts);
  for (let i = 0; i < parts; i++) {
    const position = Math.fround((i + 0.5) * (length / parts) - 0.5);
    at[i] = Math.floor(position);
    const share = Math.fround(position - at[i]);
    near[i] = round(Math.fround(1 - share) * 2048);
    far[i] = round(share * 2048);
  }
  return {at, near, far};
}

// INTER_CUBIC, for enlarging, in float32 as OpenCV adds on x86; one value of some 100,000 may differ by 1.
export function resizeCubic(image, width, height) {
  if (width === image.width && height === image.height) return image;
  const {data} = image, columns = cubicShares(image.width, width), rows = cubicShares(image.height, height);
  const lines = new Float32Array(3 * width * image.height), out = new Uint8Array(3 * width * height);
  const sum = ([a, b, c, d], at, from) => Math.fround(Math.fround(Math.fround(Math.fround(from(at[0]) * a) +
    Math.fround(from(at[1]) * b)) + Math.fround(from(at[2]) * c)) + Math.fround(from(at[3]) * d));
  let to = 0;
  for (let y = 0; y < image.height; y++) {
    const start = 3 * y * image.width;
    for (const {at, shares} of columns) {
      for (let c = 0; c < 3; c++) lines[to++] = sum(shares, at, (x) => data[start + 3 * x + c]);
    }
  }
  to = 0;
  for (const {at, shares} of rows) {
    for (let i = 0; i < 3 * width; i++) out[to++] = clip(round(sum(shares, at, (y) => lines[3 * width * y + i])));
  }
  return {data: out, width, height};
}

function cubicShares(length, parts) {
  const A = -0.75;
  return Array.from({length: parts}, (_, i) => {
    const position = (i + 0.5) * (length / parts) - 0.5, start = Math.floor(position), x = position - start;
    const shares = [
      ((A * (x + 1) - 5 * A) * (x + 1) + 8 * A) * (x + 1) - 4 * A, ((A + 2) * x - (A + 3)) * x * x + 1,
      ((A + 2) * (1 - x) - (A + 3)) * (1 - x) * (1 - x) + 1,
    ];
    shares.push(1 - shares[0] - shares[1] - shares[2]);
    return {at: [-1, 0, 1, 2].map((k) => Math.min(Math.max(start + k, 0), length - 1)), shares: shares.map(Math.fround)};
  });
}

// warpAffine of a box, INTER_LINEAR in its fixed point: `size` x `size` samples, the outer ones on the box's edges,
// as float32 planes R, G, B from `offset` of `out`. Outside the picture, OpenCV's border value 127.5 is 128.
export function sampleBox(image, [x1, y1, x2, y2], size, out, offset) {
  const {data, width, height} = image, plane = size * size;
  const stepX = (x2 - x1) / (size - 1), stepY = (y2 - y1) / (size - 1);
  const value = (x, y, c) => x >= 0 && y >= 0 && x < width && y < height ? data[3 * (y * width + x) + c] : 128;
  for (let j = 0; j < size; j++) {
    const y = (round((stepY * j + y1) * 1024) + 16) >> 5, top = y >> 5, low = y & 31;
    const startX = round(x1 * 1024) + 16;
    for (let i = 0; i < size; i++) {
      const x = (startX + round(stepX * i * 1024)) >> 5, left = x >> 5, right = x & 31;
      const a = (32 - low) * (32 - right), b = (32 - low) * right, d = low * (32 - right), e = low * right;
      for (let c = 0; c < 3; c++) {
        const sum = value(left, top, c) * a + value(left + 1, top, c) * b + value(left, top + 1, c) * d +
          value(left + 1, top + 1, c) * e;
        out[offset + c * plane + j * size + i] = (sum + 512) >> 10;
      }
    }
  }
}

// Gray values by cvtColor's fixed point.
export function gray({data, width, height}) {
  const out = new Uint8Array(width * height);
  for (let i = 0, from = 0; i < out.length; i++, from += 3) {
    out[i] = (data[from] * 9798 + data[from + 1] * 19235 + data[from + 2] * 3735 + 16384) >> 15;
  }
  return out;
}

// A part of a picture, ends excluded.
export function cut(image, left, top, right, bottom) {
  const width = right - left, height = bottom - top, out = new Uint8Array(3 * width * height);
  for (let y = 0; y < height; y++) {
    const start = 3 * ((top + y) * image.width + left);
    out.set(image.data.subarray(start, start + 3 * width), 3 * width * y);
  }
  return {data: out, width, height};
}

// A picture with its border pixels repeated outside.
export function pad(image, top, bottom, left, right) {
  const width = left + image.width + right, height = top + image.height + bottom;
  const out = new Uint8Array(3 * width * height), {data} = image;
  for (let y = 0, to = 0; y < height; y++) {
    const row = 3 * image.width * Math.min(Math.max(y - top, 0), image.height - 1);
    for (let x = 0; x < width; x++) {
      const from = row + 3 * Math.min(Math.max(x - left, 0), image.width - 1);
      out[to++] = data[from];
      out[to++] = data[from + 1];
      out[to++] = data[from + 2];
    }
  }
  return {data: out, width, height};
}

// A picture turned clockwise by a multiple of 90 degrees, then mirrored.
export function turn(image, degrees, mirrored) {
  if (!degrees && !mirrored) return image;
  const {data, width: w, height: h} = image, quarter = degrees % 180 !== 0;
  const width = quarter ? h : w, height = quarter ? w : h, out = new Uint8Array(data.length);
  for (let y = 0, to = 0; y < height; y++) {
    for (let i = 0; i < width; i++) {
      const x = mirrored ? width - 1 - i : i;
      const [column, row] = {0: [x, y], 90: [y, h - 1 - x], 180: [w - 1 - x, h - 1 - y], 270: [w - 1 - y, x]}[degrees];
      const from = 3 * (row * w + column);
      out[to++] = data[from];
      out[to++] = data[from + 1];
      out[to++] = data[from + 2];
    }
  }
  return {data: out, width, height};
}

export function fromRgba(rgba, width, height) {
  const data = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < data.length; from += 4) {
    data[to++] = rgba[from];
    data[to++] = rgba[from + 1];
    data[to++] = rgba[from + 2];
  }
  return {data, width, height};
}

// Coefficients of swscale, 16 bits after the point: V to R, U to B, U to G, V to G.
const MATRICES = {
  bt709: [117489, 138438, 13975, 34925], smpte170m: [104597, 132201, 25675, 53279],
  bt470bg: [104597, 132201, 25675, 53279], "bt2020-ncl": [110013, 140363, 12277, 42626],
};

// 8-bit YUV as swscale converts it without scaling. 4:2:0 and 4:2:2: in the 16-bit arithmetic of its SIMD code, where a
// color sample holds for its pixels; 4:4:4: in 32 bits, which overflow for the brightest of impossible colors.
// `format` is I420, NV12, I422 or I444; `layout` has {offset, stride} of Y, U and V, or of Y and interleaved UV.
export function fromYuv(bytes, layout, width, height, format, matrix, fullRange) {
  const [vr, ub, ug, vg] = (MATRICES[matrix] || MATRICES.smpte170m).map((c) => fullRange ? Math.trunc(c * 224 / 255) : c);
  const scaled = (c) => (c + 4) >> 3; // from 16 to 13 bits
  const luma = scaled(fullRange ? 65536 : Math.trunc(65536 * 255 / 219)), black = fullRange ? 0 : 16;
  const toR = scaled(vr), toB = scaled(ub), uToG = scaled(-ug), vToG = scaled(-vg);
  const [y, u, v] = layout, step = v ? 1 : 2, isFull = format === "I444";
  const across = isFull ? 0 : 1, down = isFull || format === "I422" ? 0 : 1;
  const data = new Uint8Array(3 * width * height);
  const top = (value) => value < 0 ? 0 : value > 0x3fffffff ? 255 : value >> 22;
  for (let row = 0, to = 0; row < height; row++) {
    const ofY = y.offset + row * y.stride, line = row >> down;
    const ofU = u.offset + line * u.stride, ofV = v ? v.offset + line * v.stride : ofU + 1;
    for (let column = 0; column < width; column++) {
      const at = step * (column >> across), blue = bytes[ofU + at] - 128, red = bytes[ofV + at] - 128;
      if (isFull) {
        const light = ((bytes[ofY + column] - black) * luma << 9) + 0x200000;
        data[to++] = top((light + red * 512 * toR) | 0);
        data[to++] = top((light + blue * 512 * uToG + red * 512 * vToG) | 0);
        data[to++] = top((light + blue * 512 * toB) | 0);
      } else {
        const light = ((bytes[ofY + column] - black) * 8 * luma) >> 16;
        data[to++] = clip(light + ((red * 8 * toR) >> 16));
        data[to++] = clip(light + ((blue * 8 * uToG) >> 16) + ((red * 8 * vToG) >> 16));
        data[to++] = clip(light + ((blue * 8 * toB) >> 16));
      }
    }
  }
  return {data, width, height};
}
