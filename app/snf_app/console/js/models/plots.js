// SVG plots of an evaluation report. Lines differ by dash pattern as well as by colour.
import { html, nothing, svg } from "../../vendor/lit-html/lit-html.js";
import { brief } from "../format.js";

const SIDE = 300;
const [WIDTH, HEIGHT] = [480, 240];
const [LEFT, RIGHT, TOP, BOTTOM] = [64, 12, 10, 42];
const GOAL = 0.9;
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "1 2", "12 4"];

/** Renders ROC curves. `curves` are {label, points}; a point is (false-positive rate, true-positive rate). */
export function roc(curves, title) {
  const bottom = SIDE - BOTTOM;
  const place = ([x, y]) => [LEFT + x * (SIDE - LEFT - RIGHT), bottom - y * (bottom - TOP)];
  const chance = svg`<path class="chance" d=${path([place([0, 0]), place([1, 1])])}></path>`;
  const lines = curves.map((curve, index) => line(curve.points.map(place), index));
  return figure(SIDE, SIDE, title, [axes(SIDE, SIDE, "false-positive rate", "true-positive rate", ["0", "0.5", "1"], ["0", "0.5", "1"]), chance, ...lines], curves);
}

/** Renders outlines of histograms with common edges. `sets` are {label, shares}. All bars have the same width. */
export function outlines({ edges, sets }, title) {
  const bars = edges.length - 1;
  const largest = Math.max(...sets.flatMap((set) => set.shares)) || 1;
  const bottom = HEIGHT - BOTTOM;
  const x = (edge) => LEFT + (edge / bars) * (WIDTH - LEFT - RIGHT);
  const lines = sets.map(({ shares }, index) => line(shares.flatMap((share, bar) => [bar, bar + 1].map((edge) => [x(edge), bottom - (share / largest) * (bottom - TOP)])), index));
  const percent = (share) => `${brief(100 * share, 2)} %`;
  const across = [edges[0], edges[bars >> 1], edges.at(-1)].map((edge) => brief(edge));
  return figure(WIDTH, HEIGHT, title, [axes(WIDTH, HEIGHT, "", "share of the images", across, [0, largest / 2, largest].map(percent)), ...lines], sets);
}

/** Renders found shares by size with their bounds. `curves` are {label, index, cells, limit}; sizes are equally spaced. */
export function shares(curves, sizes, title) {
  const [width, bottom] = [SIDE + 60, HEIGHT - BOTTOM];
  const x = (size) => LEFT + ((sizes.indexOf(size) + 0.5) / sizes.length) * (width - LEFT - RIGHT);
  const y = (share) => bottom - share * (bottom - TOP);
  const points = (cells, key) => cells.map((cell) => [x(cell.size), y(cell[key])]);
  const drawn = curves.map(({ index, cells, limit }) => svg`
    <path class="band band-${index % DASHES.length}" d=${`${path([...points(cells, "upper"), ...points(cells, "lower").reverse()])}Z`}></path>
    ${cells.map((cell) => svg`<path class="line bounds line-${index % DASHES.length}" d=${path([[x(cell.size), y(cell.upper)], [x(cell.size), y(cell.lower)]])}></path>`)}
    ${line(points(cells, "share"), index)}
    ${cells.map((cell) => svg`<circle class="point line-${index % DASHES.length}" cx=${x(cell.size)} cy=${y(cell.share)} r=${cell.size === limit ? 6 : 2}></circle>`)}`);
  const goal = svg`<path class="chance goal" d=${path([[LEFT, y(GOAL)], [width - RIGHT, y(GOAL)]])}></path><text x=${LEFT - 5} y=${y(GOAL) + 4} text-anchor="end">90 %</text>`;
  const ticks = sizes.map((size) => svg`<text x=${x(size)} y=${bottom + 15} text-anchor="middle">${size}</text>`);
  return figure(width, HEIGHT, title, [axes(width, HEIGHT, "size, pixels", "found", ["", "", ""], ["0 %", "50 %", ""]), goal, ticks, ...drawn], curves);
}

function figure(width, height, title, parts, legend) {
  return html`<figure class="plot"><svg viewBox="0 0 ${width} ${height}" .style=${`max-width: ${1.1 * width}px`} role="img" aria-label=${title}>${parts}</svg>
    ${legend.length > 1 ? html`<figcaption><ul class="legend">${legend.map(({ label, index }, at) => html`<li><svg width="34" height="10" aria-hidden="true">${line([[1, 5], [33, 5]], index ?? at)}</svg> ${label}</li>`)}</ul></figcaption>` : nothing}</figure>`;
}

function line(points, index) {
  const kind = index % DASHES.length;
  return svg`<path class="line line-${kind}" stroke-dasharray=${DASHES[kind]} d=${path(points)}></path>`;
}

function path(points) {
  return `M${points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`;
}

function axes(width, height, below, beside, across, up) {
  const [bottom, right] = [height - BOTTOM, width - RIGHT];
  const anchors = ["start", "middle", "end"];
  return svg`<path class="axis" d="M${LEFT} ${TOP}V${bottom}H${right}"></path>
    ${across.map((text, at) => svg`<text x=${LEFT + (at / 2) * (right - LEFT)} y=${bottom + 15} text-anchor=${anchors[at]}>${text}</text>`)}
    ${up.map((text, at) => svg`<text x=${LEFT - 5} y=${bottom - (at / 2) * (bottom - TOP) + 4} text-anchor="end">${text}</text>`)}
    <text x=${(LEFT + right) / 2} y=${bottom + 34} text-anchor="middle">${below}</text>
    <text transform="translate(10 ${(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">${beside}</text>`;
}
