// The part of training curves that is drawn: a spike, or a steep beginning, must not flatten the rest.

const EARLY = 0.25; // the share of the steps that does not set the range
const TAIL = 0.02; // the share of the later values of a line, at each end, that does not set it
const MARGIN = 3; // spreads of the later values by which the range is wider than these
const MIN_POINTS = 10;
const MIN_SPREAD = 0.1; // of a flat line, relative to its value or in powers of ten

/**
 * Returns what to draw of `lines`, {x, y} each; null if all values are near those of the later steps. `range` are the least
 * and the largest drawn value, `above` and `below` the values outside, {x, y}. With `log` distances are those of logarithms.
 */
export function clipped(lines, log) {
  const points = lines.flatMap(({ x, y }) => y.map((value, index) => ({ x: x[index], y: value })));
  if (points.length < MIN_POINTS) return null;
  const scale = log ? Math.log10 : (value) => value;
  const last = Math.max(...points.map((point) => point.x));
  const later = lines.map(({ x, y }) => y.filter((_, index) => x[index] >= EARLY * last).map(scale).sort((a, b) => a - b)).filter(({ length }) => length);
  const low = Math.min(...later.map((values) => values[Math.floor(TAIL * values.length)]));
  const high = Math.max(...later.map((values) => values.at(-1 - Math.floor(TAIL * values.length))));
  const margin = MARGIN * Math.max(high - low, MIN_SPREAD * (log ? 1 : Math.abs(high)));
  const above = points.filter(({ y }) => scale(y) > high + margin);
  const below = points.filter(({ y }) => scale(y) < low - margin);
  if (!above.length && !below.length) return null;
  const drawn = points.map(({ y }) => y).filter((y) => scale(y) <= high + margin && scale(y) >= low - margin);
  return { range: [Math.min(...drawn), Math.max(...drawn)], above, below };
}
