// Two charts as elements: lines over steps, and a histogram with the place of one image in it.
import uPlot from "../vendor/uplot/uPlot.esm.js";
import { colour } from "./colours.js";
import { brief } from "./format.js";

const FONT = "12px system-ui, sans-serif";
const HEIGHT = 220;
const ROUND = [0, 1, 2, 5, ...[1, 2, 3, 4, 5, 6].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power))];

// On an axis of logarithms whole powers of ten alone have a line and a number, and of many every second, third ...
const MOST_POWERS = 7;
const power = (value) => Math.round(Math.log10(value));
const isPower = (value) => Math.abs(Math.log10(value) - power(value)) < 1e-9;
const powers = (_, all) => {
  const found = all.filter((one) => one != null && isPower(one)).map(power);
  const every = Math.ceil((Math.max(...found) - Math.min(...found) + 1) / MOST_POWERS);
  return all.map((one) => (one != null && isPower(one) && power(one) % every === 0 ? one : null));
};

const ticks = (_, all) => all.map((one) => (one == null ? "" : brief(one)));
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

/** `.series`: [{label, x, y, colour, points}], all on one pair of axes; `.x` and `.y` name those; `.log` of y. */
class Lines extends Chart {
  set series(value) {
    this.given = value;
    this.draw();
  }

  powerAxis() {
    const axis = this.axis({ label: this.y, size: 64, filter: powers, values: (_, all) => all.map((one) => (one == null ? "" : brief(one, 1))) });
    return { ...axis, grid: { ...axis.grid, filter: powers }, ticks: { ...axis.ticks, filter: powers } };
  }

  draw() {
    if (!this.isConnected || !this.given) return;
    const data = uPlot.join(this.given.map(({ x, y }) => [x, y]));
    // A line of one point would not be seen.
    const alone = ({ x }) => x.length === 1;
    const shape = JSON.stringify(this.given.map((one) => [one.label, alone(one)]));
    if (this.plot && this.shape === shape) return this.plot.setData(data);
    this.plot?.destroy();
    this.shape = shape;
    this.plot = new uPlot({
      ...this.size(),
      cursor: { points: { size: 6 } },
      scales: { x: { time: false }, y: this.log ? { distr: 3 } : {} },
      axes: [this.axis({ label: this.x }), this.log ? this.powerAxis() : this.axis({ label: this.y, size: 64, values: ticks })],
      series: [
        { label: this.x },
        ...this.given.map((one) => ({
          label: one.label,
          stroke: () => colour(one.colour),
          width: 2,
          spanGaps: true,
          points: { show: Boolean(one.points) || alone(one), size: 6, fill: () => colour(one.colour) },
          value: (_, value) => brief(value, 5),
        })),
      ],
    }, data, this);
    return undefined;
  }
}

/** `.found`: {edges, counts}; `.marks`: [{x, label, colour, dashed}] are drawn as lines across it; `.x` names the axis. */
class Histogram extends Chart {
  set found(value) {
    this.bins = value;
    this.draw();
  }

  set marks(value) {
    this.lines = value;
    this.draw();
  }

  draw() {
    if (!this.isConnected || !this.bins || !this.lines) return;
    this.plot?.destroy();
    const { edges, counts } = this.bins;
    const most = Math.max(edges.at(-1), ...this.lines.map((one) => one.x)) * 1.04;
    this.plot = new uPlot({
      ...this.size(),
      legend: { show: false },
      cursor: { show: false },
      // Evidence has a long tail: its axis is that of square roots.
      scales: { x: { time: false, distr: 100, fwd: root, bwd: square, range: [Math.min(edges[0], 0), most] } },
      axes: [
        this.axis({ label: this.x, splits: () => ROUND.filter((one) => one <= most), filter: (_, all) => all, values: ticks }),
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
    this.lines.forEach((mark, index) => {
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
