// Scheduling of rendering and polling.
import { render } from "../vendor/lit-html/lit-html.js";

/** Renders `view` into `root` and returns a function that schedules another rendering, at most one per frame. */
export function painter(root, view) {
  let scheduled = false;
  const draw = () => {
    const focused = document.activeElement;
    render(view(), root);
    // If the rendering removed the focused element, keep the keyboard focus in the panel.
    if (!focused.isConnected) root.querySelector("[role=tabpanel]")?.focus({ preventScroll: true });
  };
  draw();
  return () => {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => { scheduled = false; if (root.isConnected) draw(); });
  };
}

/** Repeats `work` with a pause between runs while the page is visible. Returns a function that stops it. */
export function poll(milliseconds, work) {
  let timer = 0;
  let stopped = false;
  const next = () => { if (!stopped) timer = setTimeout(run, milliseconds); };
  const run = async () => {
    try {
      if (!document.hidden) await work();
    } finally {
      next();
    }
  };
  next();
  return () => { stopped = true; clearTimeout(timer); };
}
