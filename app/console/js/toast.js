// Short messages in the corner; errors stay until they are closed.
const SHOWN_MS = 5000;

export function toast(text, { bad = false } = {}) {
  const box = document.createElement("div");
  box.className = bad ? "toast bad" : "toast";
  const words = document.createElement("span");
  words.textContent = text;
  const close = document.createElement("button");
  close.className = "quiet";
  close.setAttribute("aria-label", "Close");
  close.textContent = "×";
  close.onclick = () => box.remove();
  box.append(words, close);
  document.getElementById("toasts").append(box);
  if (!bad) setTimeout(() => box.remove(), SHOWN_MS);
}

/** Says what went wrong, with the parts of the request that were. */
export function complain(error) {
  const parts = (error.errors || []).map((one) => one.detail).filter((one) => !error.message.includes(one));
  toast([error.title, error.message, ...parts].filter(Boolean).join(": "), { bad: true });
}
