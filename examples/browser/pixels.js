// Images as training got them: resized to fill the model's size and the middle cut out, as Pillow
// resizes (bicubic, widened where it makes smaller, in whole numbers), then normalised.

const PRECISION = 2 ** 22; // of Pillow's coefficients for 8-bit images

/** What bicubic interpolation gives a pixel that lies x pixels away (Keys, a = -1/2). */
function bicubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/** For each pixel of a side of `length`, the first pixel that it is made of and the weights. */
function taps(size, start, end, length) {
  const scale = (end - start) / length;
  const wide = Math.max(scale, 1);
  return Array.from({ length }, (_, place) => {
    const centre = start + (place + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - 2 * wide + 0.5), 0);
    const last = Math.min(Math.trunc(centre + 2 * wide + 0.5), size);
    const weights = [];
    for (let x = first; x < last; x++) weights.push(bicubic((x - centre + 0.5) / wide));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((w) => roundAway((w / sum) * PRECISION)) };
  });
}

const roundAway = (x) => Math.trunc(x + (x < 0 ? -0.5 : 0.5));

/** One side of an image resized: rows of `width` pixels with `channels` each, pixel by pixel. */
function resizeRows(pixels, height, width, channels, steps) {
  const out = new Uint8ClampedArray(height * steps.length * channels);
  for (let y = 0; y < height; y++) {
    steps.forEach(({ first, weights }, x) => {
      for (let c = 0; c < channels; c++) {
        let sum = PRECISION / 2;
        let at = (y * width + first) * channels + c;
        for (const weight of weights) {
          sum += pixels[at] * weight;
          at += channels;
        }
        out[(y * steps.length + x) * channels + c] = Math.floor(sum / PRECISION);
      }
    });
  }
  return out;
}

function transposed(pixels, height, width, channels) {
  const out = new Uint8ClampedArray(pixels.length);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < channels; c++)
        out[(x * height + y) * channels + c] = pixels[(y * width + x) * channels + c];
  return out;
}

/** `image` ({pixels, height, width, channels}) resized to fill `size`, its middle cut out. */
export function fit(image, [height, width]) {
  const { channels } = image;
  if (image.height === height && image.width === width) return image;
  const wider = image.width / image.height >= width / height;
  const cut = wider
    ? [image.height, (width / height) * image.height]
    : [image.width / (width / height), image.width];
  const [top, left] = [(image.height - cut[0]) / 2, (image.width - cut[1]) / 2];
  let pixels = image.pixels;
  pixels = resizeRows(pixels, image.height, image.width, channels,
    taps(image.width, left, left + cut[1], width));
  pixels = transposed(pixels, image.height, width, channels);
  pixels = resizeRows(pixels, width, image.height, channels,
    taps(image.height, top, top + cut[0], height));
  return { pixels: transposed(pixels, width, height, channels), height, width, channels };
}

/** RGBA pixels as an image of one channel (Pillow's luma) or three. */
export function fromCanvas({ data, height, width }, channels) {
  const pixels = new Uint8ClampedArray(height * width * channels);
  for (let i = 0; i < height * width; i++) {
    const [r, g, b] = [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
    if (channels === 1) pixels[i] = (r * 19595 + g * 38470 + b * 7471 + 32768) >> 16;
    else pixels.set([r, g, b], 3 * i);
  }
  return { pixels, height, width, channels };
}

/** An image as the model's input: (1, C, H, W), (value / 255 - mean) / std. */
export function normalised({ pixels, height, width, channels }, mean, std) {
  const out = new Float32Array(channels * height * width);
  for (let c = 0; c < channels; c++)
    for (let i = 0; i < height * width; i++)
      out[c * height * width + i] = (pixels[i * channels + c] / 255 - mean[c]) / std[c];
  return out;
}
