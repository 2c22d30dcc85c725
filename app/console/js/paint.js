// When pages are drawn anew.
import { render } from "../vendor/lit-html/lit-html.js";

/** Answers what asks for `view` to be drawn into `root`: once a frame at most, and not after the page was left. */
export function painter(root, view) {
  let asked = false;
  const draw = () => {
    const held = document.activeElement;
    render(view(), root);
    // Whoever pressed a button that is gone now stays near it.
    if (!held.isConnected) root.querySelector("[role=tabpanel]")?.focus({ preventScroll: true });
  };
  draw();
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; if (root.isConnected) draw(); });
  };
}

/** Does `work` so many milliseconds after it was last done, while somebody looks; answers what ends it. */
export function everyNowAndThen(milliseconds, work) {
  let timer = 0;
  let over = false;
  const next = () => { if (!over) timer = setTimeout(turn, milliseconds); };
  const turn = async () => {
    if (!document.hidden) await work();
    next();
  };
  next();
  return () => { over = true; clearTimeout(timer); };
}
