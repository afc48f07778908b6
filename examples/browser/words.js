// What an exported file says of itself. ONNX Runtime Web does not give a file's metadata to a page,
// but the file is a protobuf message (onnx.ModelProto) whose fields follow each other: those of
// field 14 are the pairs of key and value, and all others are stepped over.

const METADATA = 14;
const text = new TextDecoder();

/** The fields of a protobuf message, as [number, bytes]; numbers alone are left out. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = varint();
      yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
      at += length;
    } else throw new Error("this is no ONNX file");
  }
}

/** The words that `foveate export` keeps in a file: plain text, and JSON where it is that. */
export function wordsOf(bytes) {
  const words = {};
  for (const [number, pair] of fields(bytes)) {
    if (number !== METADATA) continue;
    const [key, value] = [...fields(pair)].map(([, part]) => text.decode(part));
    if (!key.startsWith("foveate.")) continue;
    try {
      words[key.slice("foveate.".length)] = JSON.parse(value);
    } catch {
      words[key.slice("foveate.".length)] = value;
    }
  }
  return words;
}
