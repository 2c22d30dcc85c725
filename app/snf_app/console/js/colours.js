// Colours of the current theme, for use on a canvas.
const probe = document.createElement("span");
probe.hidden = true;

/** Returns the value of a CSS custom property as a colour. A canvas cannot resolve `var()` or `light-dark()`. */
export function colour(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}
