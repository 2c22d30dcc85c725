// A dialog that shows a picture enlarged: zoom with buttons, the keys + - 0 or the wheel, pan by dragging or the arrow keys.
import { html, render } from "../../vendor/lit-html/lit-html.js";
import { whole } from "../format.js";

const STEP = 1.5;
const LARGEST = 64; // screen pixels for a pixel of the picture
const CRISP = 2; // from so many screen pixels on, pixels of the picture are shown as squares
const PAN = 60; // screen pixels for an arrow key

/**
 * Shows a picture in a dialog. `src` is its address, `size` its width and height in its own pixels, and `overlay` what lies
 * over it, in shares of its size, so that it follows every zoom.
 */
export function zoom({ title, src, size: [width, height], overlay }) {
  const dialog = Object.assign(document.createElement("dialog"), { className: "zoom" });
  dialog.setAttribute("aria-labelledby", "zoom-title");
  document.body.append(dialog);
  let scale = 1;
  let fitting = 1;
  const place = () => dialog.querySelector(".zoomed");
  const least = () => Math.min(1, fitting);

  /** Changes the scale; the point (x, y) of the window, by default its middle, stays where it is. */
  const setScale = (wanted, x = null, y = null) => {
    const area = place();
    const [left, top] = [x ?? area.clientWidth / 2, y ?? area.clientHeight / 2];
    const next = Math.min(LARGEST, Math.max(least(), wanted));
    const [across, down] = [(area.scrollLeft + left) / scale, (area.scrollTop + top) / scale];
    scale = next;
    draw();
    [area.scrollLeft, area.scrollTop] = [across * next - left, down * next - top];
  };
  const fit = () => {
    const area = place();
    fitting = Math.min(LARGEST, area.clientWidth / width, area.clientHeight / height);
    setScale(fitting);
  };
  const keys = { "+": () => setScale(scale * STEP), "=": () => setScale(scale * STEP), "-": () => setScale(scale / STEP), 0: fit };
  const pans = { ArrowLeft: [-PAN, 0], ArrowRight: [PAN, 0], ArrowUp: [0, -PAN], ArrowDown: [0, PAN] };
  const press = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (keys[event.key]) keys[event.key]();
    else if (pans[event.key]) place().scrollBy(...pans[event.key]);
    else return;
    event.preventDefault();
  };
  const turn = (event) => {
    event.preventDefault();
    const { left, top } = place().getBoundingClientRect();
    setScale(scale * STEP ** Math.sign(-event.deltaY), event.clientX - left, event.clientY - top);
  };
  const drag = (event) => {
    if (event.buttons !== 1 || event.pointerType === "touch") return; // touch scrolls by itself
    place().scrollBy(-event.movementX, -event.movementY);
  };

  const draw = () => render(html`
    <header class="row between"><h2 id="zoom-title">${title}</h2>
      <div class="row"><span class="small" role="status">${whole(100 * scale)} %</span>
        <button type="button" aria-label="Zoom out" @click=${keys["-"]}>−</button>
        <button type="button" aria-label="Zoom in" @click=${keys["+"]}>+</button>
        <button type="button" @click=${fit}>Fit</button>
        <button type="button" @click=${() => setScale(1)}>100 %</button>
        <button type="button" @click=${() => dialog.close()}>Close</button></div></header>
    <div class="zoomed" tabindex="0" role="region" aria-label="${title}, ${whole(width)}×${whole(height)} pixels. Plus and minus zoom, arrow keys pan." autofocus
      @wheel=${{ handleEvent: turn, passive: false }} @pointermove=${drag}>
      <div class="framed" .style=${`width: ${width * scale}px; height: ${height * scale}px`}>
        <img class=${scale >= CRISP ? "pixels" : ""} src=${src} alt=${title} draggable="false">${overlay}</div></div>`, dialog);

  const resized = new ResizeObserver(() => { if (Math.abs(scale - fitting) < 1e-9) fit(); });
  dialog.addEventListener("keydown", press);
  dialog.addEventListener("close", () => { resized.disconnect(); dialog.remove(); }, { once: true });
  draw();
  dialog.showModal();
  fit();
  resized.observe(dialog);
}
