// Names that the service takes for datasets and models.

export const NAME = /^[a-z0-9][a-z0-9._-]{0,63}$/;
const LONGEST = 48; // leaves room for a number behind it

/** A name made of any text: "Line 7, good.zip" is `line-7-good`. */
export function nameFrom(text, taken = []) {
  const plain = text.toLowerCase().replace(/\.(zip|tar|tgz|tbz2?|txz|npz|npy|gz|bz2|xz|png|jpe?g|webp|bmp)$/, "").replace(/\.tar$/, "");
  const found = plain.replace(/[^a-z0-9._-]+/g, "-").replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, "").slice(0, LONGEST) || "images";
  for (let n = 1; ; n += 1) {
    const name = n === 1 ? found : `${found}-${n}`;
    if (!taken.includes(name)) return name;
  }
}

/** What is wrong with a name; null where nothing is. */
export function wrongName(name) {
  return NAME.test(name) ? null : "1 to 64 of a-z 0-9 . _ - with a letter or digit first";
}
