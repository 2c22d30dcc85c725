// Two pictures of the same size, compared pixel by pixel.

/** A PNG in base64, as answers carry it, as a file. */
export function pngBlob(base64) {
  return new Blob([Uint8Array.from(atob(base64), (one) => one.charCodeAt(0))], { type: "image/png" });
}

/** The largest difference in grey levels of PNGs in base64, given in pairs, and a picture of each pair's as an address. */
export async function differences(pairs) {
  const found = await Promise.all(pairs.map(async ([a, b]) => {
    const [one, other] = await Promise.all([pixels(a), pixels(b)]);
    const values = new Uint8ClampedArray(one.data.length);
    for (let i = 0; i < values.length; i += 1) values[i] = i % 4 === 3 ? 0 : Math.abs(one.data[i] - other.data[i]);
    return { values, width: one.width, height: one.height };
  }));
  const largest = found.reduce((most, { values }) => values.reduce((a, b) => Math.max(a, b), most), 0);
  // One grey level of 256 cannot be seen: the largest difference becomes white.
  const gain = largest ? 255 / largest : 0;
  return { largest, pictures: found.map((one) => drawn(one, gain)) };
}

async function pixels(png) {
  const bitmap = await createImageBitmap(pngBlob(png), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const context = canvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

function drawn({ values, width, height }, gain) {
  const picture = canvas(width, height);
  const data = new ImageData(width, height);
  for (let i = 0; i < values.length; i += 1) data.data[i] = i % 4 === 3 ? 255 : values[i] * gain;
  picture.getContext("2d").putImageData(data, 0, 0);
  return picture.toDataURL();
}

function canvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}
