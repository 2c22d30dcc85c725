// What the service refused, in the page beside what was asked.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";

/** A problem with its parts; nothing for null. */
export function problem(error) {
  if (!error) return nothing;
  const parts = (error.errors ?? []).filter((one) => !error.message.includes(one.detail));
  return html`<div class="notice bad" role="alert"><strong>${error.title ?? "Something went wrong"}.</strong> ${error.message}
    ${parts.length ? html`<ul>${parts.map((one) => html`<li>${one.pointer}: ${one.detail}</li>`)}</ul>` : nothing}</div>`;
}

/** The problems of a refused request by the field they point to: "/body/parameters/seed" is `parameters/seed`. */
export function byField(error) {
  return Object.fromEntries((error?.errors ?? []).map(({ pointer, detail }) => [pointer.replace(/^#?\/body\//, ""), detail]));
}
