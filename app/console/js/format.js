// Numbers, times and sizes as people read them.

/** A number with so many digits after the point; a dash for none. */
export function fixed(value, digits = 3) {
  return value == null ? "–" : value.toFixed(digits);
}

/** A small or large number in at most so many significant digits. */
export function brief(value, digits = 3) {
  if (value == null) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size < 1e-4 || size >= 1e6 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
}

/** 12345 as 12,345. */
export function whole(value) {
  return value == null ? "–" : Math.round(value).toLocaleString("en-US");
}

/** Seconds as a clock shows them. */
export function duration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return "–";
  const s = Math.max(0, Math.round(seconds));
  const [h, m, r] = [Math.floor(s / 3600), Math.floor((s % 3600) / 60), s % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(r)}` : `${m}:${two(r)}`;
}

/** Bytes in the decimal units that file managers use. */
export function bytes(count) {
  if (count == null) return "–";
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let i = 0;
  while (count >= 1000 && i < units.length - 1) { count /= 1000; i += 1; }
  return `${i ? count.toFixed(count < 10 ? 1 : 0) : count} ${units[i]}`;
}

/** A moment, in the reader's own time zone. */
export function moment(text) {
  return text ? new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) : "–";
}

/** Channels, height, width as a person says them. */
export function shape(sides) {
  if (!sides) return "–";
  const [channels, height, width] = sides;
  return `${width}×${height} ${channels === 1 ? "grey" : channels === 3 ? "colour" : `${channels} channels`}`;
}

/** "1 image", "2 images". */
export function count(n, one, many = `${one}s`) {
  return `${whole(n)} ${n === 1 ? one : many}`;
}
