// Short messages in the corner of the page. Errors stay until the user closes them.
const SHOWN_MS = 5000;

export function toast(text, { bad = false } = {}) {
  // One message is enough of an error that every request has.
  if (bad && [...document.querySelectorAll(".toast.bad > span")].some((shown) => shown.textContent === text)) return;
  const box = document.createElement("div");
  box.className = bad ? "toast bad" : "toast";
  const message = document.createElement("span");
  message.textContent = text;
  const close = document.createElement("button");
  close.className = "quiet";
  close.setAttribute("aria-label", "Close");
  close.textContent = "×";
  close.onclick = () => box.remove();
  box.append(message, close);
  document.getElementById("toasts").append(box);
  if (!bad) setTimeout(() => box.remove(), SHOWN_MS);
}

/** Shows an error with the details of its parts. */
export function complain(error) {
  const parts = (error.errors || []).map((part) => part.detail).filter((detail) => !error.message.includes(detail));
  toast([error.title, error.message, ...parts].filter(Boolean).join(": "), { bad: true });
}
