// Pictures of a network on a canvas, laid out as the kit does (ismkit.data.tile).

const GAP = 1; // pixel between two pictures

/** A number in [-1, 1] as a byte. */
const byte = (value) => Math.round(127.5 * (value + 1)); // a Uint8ClampedArray cuts off what is beyond

/** One of many images, (channels, side, side) in [-1, 1], grey or in colour, with `start` its first number. */
function picture(images, start, channels, side) {
  const area = side * side;
  const made = new ImageData(side, side);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) made.data[4 * i + c] = byte(images[start + Math.min(c, channels - 1) * area + i]);
    made.data[4 * i + 3] = 255;
  }
  return made;
}

/** Draw images, one after the other in an array, as a table with white gaps, `across` of them side by side. */
export function paint(canvas, images, [channels, side], across) {
  const length = channels * side * side;
  const rows = Math.ceil(images.length / length / across);
  canvas.width = across * (side + GAP) - GAP;
  canvas.height = rows * (side + GAP) - GAP;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  for (let k = 0; k * length < images.length; k++) {
    const [row, column] = [Math.floor(k / across), k % across];
    context.putImageData(picture(images, k * length, channels, side), column * (side + GAP), row * (side + GAP));
  }
}
