// A confirmation dialog for actions that cannot be undone.

/** Resolves to true if the user confirms. `action` and `refusal` are the labels of the two buttons. */
export function confirmed(title, text, action, refusal = "Cancel") {
  const dialog = document.createElement("dialog");
  const form = Object.assign(document.createElement("form"), { method: "dialog" });
  const heading = Object.assign(document.createElement("h2"), { textContent: title, id: "confirm-title" });
  const message = Object.assign(document.createElement("p"), { textContent: text });
  const buttons = Object.assign(document.createElement("div"), { className: "row reverse" });
  const agree = Object.assign(document.createElement("button"), { value: "yes", className: "danger", textContent: action });
  const refuse = Object.assign(document.createElement("button"), { value: "", textContent: refusal, autofocus: true });
  buttons.append(agree, refuse);
  form.append(heading, message, buttons);
  dialog.append(form);
  dialog.setAttribute("aria-labelledby", heading.id);
  document.body.append(dialog);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes");
      dialog.remove();
    }, { once: true });
    dialog.showModal();
  });
}
