// Custom elements for charts: a line chart (`snf-lines`) and a histogram with vertical marks (`snf-histogram`).
import uPlot from "../vendor/uplot/uPlot.esm.js";
import { colour } from "./colours.js";
import { brief } from "./format.js";

const FONT = "12px system-ui, sans-serif";
const HEIGHT = 220;
const ROUND = [0, 1, 2, 5, ...[1, 2, 3, 4, 5, 6].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power))];

// A logarithmic axis shows grid lines and labels at powers of ten only, at most this many.
const MAX_POWERS = 7;
const power = (value) => Math.round(Math.log10(value));
const isPower = (value) => Math.abs(Math.log10(value) - power(value)) < 1e-9;
const powers = (_, all) => {
  const exponents = all.filter((tick) => tick != null && isPower(tick)).map(power);
  const every = Math.ceil((Math.max(...exponents) - Math.min(...exponents) + 1) / MAX_POWERS);
  return all.map((tick) => (tick != null && isPower(tick) && power(tick) % every === 0 ? tick : null));
};

const ticks = (_, all) => all.map((tick) => (tick == null ? "" : brief(tick)));
const root = (value) => Math.sign(value) * Math.sqrt(Math.abs(value));
const square = (value) => Math.sign(value) * value * value;

class Chart extends HTMLElement {
  connectedCallback() {
    this.classList.add("chart");
    this.setAttribute("role", "img");
    this.resized = new ResizeObserver(() => this.plot?.setSize(this.size()));
    this.resized.observe(this);
    this.recolour = () => this.plot?.redraw(false);
    document.addEventListener("snf-theme", this.recolour);
    this.draw();
  }

  disconnectedCallback() {
    this.resized.disconnect();
    document.removeEventListener("snf-theme", this.recolour);
    this.plot?.destroy();
    this.plot = null;
  }

  size() {
    return { width: Math.max(120, this.clientWidth), height: HEIGHT };
  }

  axis(more = {}) {
    const stroke = () => colour("--faint");
    const grid = { stroke: () => colour("--line"), width: 1 };
    return { stroke, font: FONT, labelFont: FONT, labelSize: 20, labelGap: 0, size: 34, grid, ticks: { ...grid, size: 4 }, ...more };
  }
}

/**
 * A line chart. `.series` is [{label, x, y, colour, points}]; `.x` and `.y` are the axis labels; `.log` makes the y axis
 * logarithmic; `.range`, set before the series, are the least and the largest y to show, null for all.
 */
class Lines extends Chart {
  set series(value) {
    this.lines = value;
    this.draw();
  }

  powerAxis() {
    const axis = this.axis({ label: this.y, size: 64, filter: powers, values: (_, all) => all.map((tick) => (tick == null ? "" : brief(tick, 1))) });
    return { ...axis, grid: { ...axis.grid, filter: powers }, ticks: { ...axis.ticks, filter: powers } };
  }

  limits(lowest, highest) {
    const [low, high] = this.range ?? [lowest, highest];
    if (low == null) return [null, null];
    return this.log ? uPlot.rangeLog(low, high, 10, false) : uPlot.rangeNum(low, high, 0.1, true);
  }

  draw() {
    if (!this.isConnected || !this.lines) return;
    const data = uPlot.join(this.lines.map(({ x, y }) => [x, y]));
    // A line through a single point is invisible, so the point itself is drawn.
    const isSingle = ({ x }) => x.length === 1;
    const shape = JSON.stringify(this.lines.map((series) => [series.label, isSingle(series)]));
    if (this.plot && this.shape === shape) return this.plot.setData(data);
    this.plot?.destroy();
    this.shape = shape;
    this.plot = new uPlot({
      ...this.size(),
      cursor: { points: { size: 6 } },
      scales: { x: { time: false }, y: { distr: this.log ? 3 : 1, range: (_, low, high) => this.limits(low, high) } },
      axes: [this.axis({ label: this.x }), this.log ? this.powerAxis() : this.axis({ label: this.y, size: 64, values: ticks })],
      series: [
        { label: this.x },
        ...this.lines.map((series) => ({
          label: series.label,
          stroke: () => colour(series.colour),
          width: 2,
          spanGaps: true,
          points: { show: Boolean(series.points) || isSingle(series), size: 6, fill: () => colour(series.colour) },
          value: (_, value) => brief(value, 5),
        })),
      ],
    }, data, this);
    return undefined;
  }
}

/**
 * A histogram. `.histogram` is {edges, counts}; `.marks` is [{x, label, colour, dashed}], drawn as vertical lines; `.x` is
 * the label of the horizontal axis.
 */
class Histogram extends Chart {
  set histogram(value) {
    this.bins = value;
    this.draw();
  }

  set marks(value) {
    this.markers = value;
    this.draw();
  }

  draw() {
    if (!this.isConnected || !this.bins || !this.markers) return;
    this.plot?.destroy();
    const { edges, counts } = this.bins;
    const largest = Math.max(edges.at(-1), ...this.markers.map((mark) => mark.x)) * 1.04;
    this.plot = new uPlot({
      ...this.size(),
      legend: { show: false },
      cursor: { show: false },
      // The statistic has a long tail, so the axis is scaled by the square root.
      scales: { x: { time: false, distr: 100, fwd: root, bwd: square, range: [Math.min(edges[0], 0), largest] } },
      axes: [
        this.axis({ label: this.x, splits: () => ROUND.filter((tick) => tick <= largest), filter: (_, all) => all, values: ticks }),
        this.axis({ label: "images", size: 54 }),
      ],
      series: [
        {},
        {
          paths: uPlot.paths.stepped({ align: 1 }),
          stroke: () => colour("--line-strong"),
          fill: () => colour("--raised"),
          width: 1,
          points: { show: false },
        },
      ],
      hooks: { draw: [(plot) => this.drawMarks(plot)] },
    }, [edges, [...counts, counts.at(-1)]], this);
  }

  drawMarks(plot) {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "top";
    this.markers.forEach((mark, index) => {
      const x = plot.valToPos(mark.x, "x", true);
      ctx.strokeStyle = ctx.fillStyle = colour(mark.colour);
      ctx.lineWidth = 2 * ratio;
      ctx.setLineDash(mark.dashed ? [5 * ratio, 4 * ratio] : []);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const right = x + 6 * ratio + ctx.measureText(mark.label).width < bbox.left + bbox.width;
      ctx.textAlign = right ? "left" : "right";
      ctx.fillText(mark.label, x + (right ? 6 : -6) * ratio, bbox.top + (2 + 16 * index) * ratio);
    });
    ctx.restore();
  }
}

customElements.define("snf-lines", Lines);
customElements.define("snf-histogram", Histogram);
