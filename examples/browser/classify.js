// The page: loads the model, takes an image by drop, choice or keyboard, and shows what it is.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { fit, fromCanvas, normalised } from "./pixels.js";
import { wordsOf } from "./words.js";

const MODEL = "model.onnx";
const SHOWN = 5;
const element = (id) => document.getElementById(id);

ort.env.wasm.wasmPaths = new URL("node_modules/onnxruntime-web/dist/", document.baseURI).href;
ort.env.wasm.numThreads = 1; // more need headers that plain servers do not send

/** The model, and how it gets images, by its file alone. */
async function load() {
  const answer = await fetch(MODEL);
  if (!answer.ok) throw new Error(`there is no ${MODEL} beside this page: see README.md`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const words = wordsOf(bytes);
  if (!words.mean || !words.images) {
    throw new Error(`${MODEL} does not say how it gets images: write it by foveate export`);
  }
  if (words.task && words.task !== "classification") {
    throw new Error(`${MODEL} is of ${words.task}, and this page tells classes of whole images`);
  }
  const [height, width] = words.images.split(" x ").slice(-2).map(Number);
  if (!height || !width) {
    throw new Error(`${MODEL} takes images of any size: export it for one (--dynamic none)`);
  }
  return { session: await ort.InferenceSession.create(bytes), words, size: [height, width], bytes };
}

/** The pixels of a file's image as the model gets them; it is drawn on white, where transparent. */
async function pixelsOf(file, { words, size }) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const data = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return fit(fromCanvas(data, words.mean.length), size);
}

function softmax(logits) {
  const most = Math.max(...logits);
  const powers = Array.from(logits, (x) => Math.exp(x - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((x) => x / sum);
}

/** Probabilities of the classes, and the milliseconds that the runtime took. */
async function classify(image, { session, words }) {
  const { height, width, channels } = image;
  const values = normalised(image, words.mean, words.std);
  const input = new ort.Tensor("float32", values, [1, channels, height, width]);
  const began = performance.now();
  const outputs = await session.run({ [session.inputNames[0]]: input });
  const ms = performance.now() - began;
  return { probabilities: softmax(outputs[session.outputNames[0]].data), ms };
}

function show({ probabilities, ms }, image, name, { words }) {
  const order = probabilities.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a]);
  const items = order.slice(0, SHOWN).map((i) => {
    const item = document.createElement("li");
    const label = document.createElement("span");
    const share = document.createElement("data");
    const bar = document.createElement("meter");
    label.textContent = words.classes?.[i] ?? `class ${i}`;
    share.value = probabilities[i];
    share.textContent = `${(100 * probabilities[i]).toFixed(1)} %`;
    bar.value = probabilities[i];
    bar.setAttribute("aria-hidden", "true");
    item.append(label, share, bar);
    return item;
  });
  element("classes").replaceChildren(...items);
  element("name").textContent = name;
  element("time").textContent = `${ms.toFixed(1)} ms in WebAssembly, one thread`;
  draw(image);
  element("result").hidden = false;
}

/** What the model saw. */
function draw({ pixels, height, width, channels }) {
  const shown = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) shown.data[4 * i + c] = pixels[i * channels + (c % channels)];
    shown.data[4 * i + 3] = 255;
  }
  const canvas = element("seen");
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(shown, 0, 0);
}

function say(text, wrong = false) {
  element("status").textContent = text;
  element("status").classList.toggle("wrong", wrong);
}

async function start() {
  const model = await load();
  const { words, size, bytes } = model;
  const classes = words.classes ? `${words.classes.length} classes, ` : "";
  say(`${words.architecture ?? "model"}: ${classes}images of ${size[0]}×${size[1]}, ` +
    `${(bytes.length / 1e6).toFixed(1)} MB`);
  const take = async (file) => {
    if (!file) return;
    try {
      const image = await pixelsOf(file, model);
      show(await classify(image, model), image, file.name, model);
    } catch (error) {
      element("result").hidden = true;
      say(`${file.name} cannot be read as an image: ${error.message}`, true);
    }
  };
  element("file").disabled = false;
  element("file").addEventListener("change", (event) => take(event.target.files[0]));
  const drop = element("drop");
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
    });
  }
  document.addEventListener("drop", (event) => take(event.dataTransfer.files[0]));
}

start().catch((error) => say(error.message, true));
