// Error messages in the page.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";

/** Renders an error with its parts; nothing for null. */
export function problem(error) {
  if (!error) return nothing;
  const parts = (error.errors ?? []).filter(({ detail }) => !error.message.includes(detail));
  return html`<div class="notice bad" role="alert"><strong>${error.title ?? "Something went wrong"}.</strong> ${error.message}
    ${parts.length ? html`<ul>${parts.map(({ pointer, detail }) => html`<li>${pointer}: ${detail}</li>`)}</ul>` : nothing}</div>`;
}

/** Maps the errors of a rejected request to its fields: "/body/parameters/seed" becomes `parameters/seed`. */
export function byField(error) {
  return Object.fromEntries((error?.errors ?? []).map(({ pointer, detail }) => [pointer.replace(/^#?\/body\//, ""), detail]));
}
