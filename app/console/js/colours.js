// The theme's colours as a canvas takes them.
const probe = document.createElement("span");
probe.hidden = true;

/** What a custom property of the style sheet is now: canvases know nothing of `var()` and `light-dark()`. */
export function colour(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}
