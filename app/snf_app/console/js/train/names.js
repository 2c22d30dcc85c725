// Valid names of datasets and models.

const NAME = /^[a-z0-9][a-z0-9._-]{0,63}$/;
const MAX_LENGTH = 48; // leaves room for a number at the end

/** Makes an unused name from any text: "Line 7, good.zip" becomes `line-7-good`. */
export function nameFrom(text, usedNames = []) {
  const plain = text.toLowerCase().replace(/\.(zip|tar|tgz|tbz2?|txz|npz|npy|gz|bz2|xz|png|jpe?g|webp|bmp|tiff?|gif)$/, "").replace(/\.tar$/, "");
  const base = plain.replace(/[^a-z0-9._-]+/g, "-").replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, "").slice(0, MAX_LENGTH) || "images";
  for (let n = 1; ; n += 1) {
    const name = n === 1 ? base : `${base}-${n}`;
    if (!usedNames.includes(name)) return name;
  }
}

/** Returns what is wrong with a name; null if it is valid. */
export function wrongName(name) {
  return NAME.test(name) ? null : "Use 1 to 64 lowercase letters, digits, dots, dashes or underscores. Start with a letter or digit.";
}
