// Pixel-by-pixel comparison of images of the same size.

/** Converts a base64-encoded PNG to a blob. */
export function pngBlob(base64) {
  return new Blob([Uint8Array.from(atob(base64), (character) => character.charCodeAt(0))], { type: "image/png" });
}

/** Compares pairs of base64-encoded PNGs. Returns the largest difference in grey levels and an image URL for each pair. */
export async function differences(pairs) {
  const images = await Promise.all(pairs.map(async (pair) => {
    const [first, second] = await Promise.all(pair.map(pixels));
    const values = new Uint8ClampedArray(first.data.length);
    for (let i = 0; i < values.length; i += 1) values[i] = i % 4 === 3 ? 0 : Math.abs(first.data[i] - second.data[i]);
    return { values, width: first.width, height: first.height };
  }));
  const largest = images.reduce((maximum, { values }) => values.reduce((a, b) => Math.max(a, b), maximum), 0);
  // A difference of one grey level is invisible, so differences are scaled until the largest is white.
  const gain = largest ? 255 / largest : 0;
  return { largest, pictures: images.map((image) => dataUrl(image, gain)) };
}

async function pixels(png) {
  const bitmap = await createImageBitmap(pngBlob(png), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const context = canvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

function dataUrl({ values, width, height }, gain) {
  const picture = canvas(width, height);
  const data = new ImageData(width, height);
  for (let i = 0; i < values.length; i += 1) data.data[i] = i % 4 === 3 ? 255 : values[i] * gain;
  picture.getContext("2d").putImageData(data, 0, 0);
  return picture.toDataURL();
}

function canvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}
