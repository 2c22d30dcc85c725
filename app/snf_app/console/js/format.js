// Formatting of numbers, times and sizes.

/** Formats a number with `digits` decimals; a dash for null. */
export function fixed(value, digits = 3) {
  return value == null ? "–" : value.toFixed(digits);
}

/** Formats a number with at most `digits` significant digits; a dash for null. */
export function brief(value, digits = 3) {
  if (value == null) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size < 1e-4 || size >= 1e6 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
}

/** Formats an integer with thousands separators: 12345 becomes 12,345. */
export function whole(value) {
  return value == null ? "–" : Math.round(value).toLocaleString("en-US");
}

/** Formats seconds as minutes:seconds or hours:minutes:seconds. */
export function duration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return "–";
  const s = Math.max(0, Math.round(seconds));
  const [h, m, r] = [Math.floor(s / 3600), Math.floor((s % 3600) / 60), s % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(r)}` : `${m}:${two(r)}`;
}

/** Formats a number of bytes in decimal units. */
export function bytes(size) {
  if (size == null) return "–";
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let i = 0;
  while (size >= 1000 && i < units.length - 1) { size /= 1000; i += 1; }
  return `${i ? size.toFixed(size < 10 ? 1 : 0) : size} ${units[i]}`;
}

/** Formats a timestamp in the local time zone. */
export function moment(text) {
  return text ? new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) : "–";
}

/** Formats an image shape: [1, 28, 32] becomes "32×28 grey". */
export function shape(sides) {
  if (!sides) return "–";
  const [channels, height, width] = sides;
  return `${width}×${height} ${channels === 1 ? "grey" : channels === 3 ? "colour" : `${channels} channels`}`;
}

/** Formats the images that a model takes: "32×28 grey", or "grey, any size" where they are scored tile by tile. */
export function accepted({ image_shape: sides, fit }) {
  return fit === "tiles" && sides ? `${shape(sides).replace(/^\S+ /, "")}, any size` : shape(sides);
}

/** Formats the value of a setting: "yes", "unset", "28, 32". */
export function setting(value) {
  if (value == null) return "unset";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return String(Number(value.toPrecision(6)));
  return Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Formats a number with a noun: "1 image", "2 images". */
export function count(n, singular, plural = `${singular}s`) {
  return `${whole(n)} ${n === 1 ? singular : plural}`;
}
