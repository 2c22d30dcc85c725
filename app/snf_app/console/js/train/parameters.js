// Form fields for training parameters, generated from their JSON Schema.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { live } from "../../vendor/lit-html/directives/live.js";
import { brief } from "../format.js";

const BUDGET = ["max_steps", "max_minutes"]; // fields of the form itself

/** Returns the groups of parameters that a schema names, without the fields of the form itself. */
function groups(schema) {
  return Object.entries(schema["x-groups"])
    .map(([title, names]) => [title, names.filter((name) => name in schema.properties && !BUDGET.includes(name))]).filter(([, names]) => names.length);
}

/** Converts the filled-in fields to the parameters of a request. */
export function filledIn(schema, typed) {
  return Object.fromEntries(Object.entries(typed).filter(([, text]) => text !== "").map(([name, text]) => [name, value(kind(schema.properties[name]), text)]));
}

/** Returns the default of a parameter for a preset. */
function defaultOf(schema, preset, name) {
  return preset?.parameters[name] ?? schema.properties[name].default;
}

// The kind of input: a choice, a switch, a text, a number, or a size (one or two numbers).
function kind(property) {
  const schema = property.anyOf?.find(({ type }) => type !== "null") ?? property;
  if (schema.enum) return { ...schema, form: "choice" };
  if (schema.type === "boolean") return { form: "switch" };
  if (schema.type === "array") return { form: "sides" };
  if (schema.type === "string") return { form: "text" };
  return { ...schema, form: "number" };
}

function value({ form }, text) {
  if (form === "number") return Number(text);
  if (form === "switch") return text === "true";
  if (form !== "sides") return text;
  const sides = text.split(/[\s,x×]+/).filter(Boolean).map(Number);
  if (sides.some(Number.isNaN)) return text; // the service rejects it with a message
  return sides.length === 1 ? sides[0] : sides;
}

/** Renders all fields. `typed` holds the text of changed fields; `change(name, text)` is called on input. */
export function parameterFields({ schema, preset, typed, wrong, change }) {
  return groups(schema).map(([title, names]) => html`<fieldset class="parameters"><legend>${title}</legend>
    ${names.map((name) => field({ name, property: schema.properties[name], initial: defaultOf(schema, preset, name), text: typed[name] ?? "", wrong: wrong[`parameters/${name}`], change }))}
  </fieldset>`);
}

function field({ name, property, initial, text, wrong, change }) {
  const id = `parameter-${name}`;
  const label = name.replaceAll("_", " ");
  const input = (event) => change(name, event.target.value.trim());
  return html`<div class="field"><div class="row label-row"><label for=${id}>${label}</label>${text !== "" ? html`<span class="badge accent">changed</span>` : nothing}</div>
    ${control(kind(property), { id, text, initial, input, wrong })}
    ${wrong ? html`<small class="wrong">${wrong}</small>` : nothing}
    <small id="${id}-help">${property.description}</small></div>`;
}

function control({ form, enum: options, type, minimum, maximum }, { id, text, initial, input, wrong }) {
  const shown = initial == null ? "automatic" : typeof initial === "number" ? brief(initial, 6) : String(initial);
  const help = `${id}-help`;
  if (form === "choice" || form === "switch") {
    const all = options ?? ["true", "false"];
    const label = (option) => (form === "switch" ? (String(option) === "true" ? "yes" : "no") : option);
    return html`<select id=${id} aria-describedby=${help} aria-invalid=${Boolean(wrong)} @change=${input}>
      <option value="" .selected=${text === ""}>${initial == null ? "automatic" : `${label(initial)} (default)`}</option>
      ${all.filter((option) => String(option) !== String(initial)).map((option) => html`<option value=${option} .selected=${text === option}>${label(option)}</option>`)}
    </select>`;
  }
  // Text is taken over when it is complete. Without `live`, an answer that arrives while a user types leaves the field alone.
  const complete = (event) => {
    event.target.value = event.target.value.trim();
    input(event);
  };
  if (form === "sides") {
    return html`<input id=${id} placeholder=${`${shown}, e.g. 32 or 28, 32`} autocomplete="off" aria-describedby=${help} aria-invalid=${Boolean(wrong)} .value=${text} @change=${complete}>`;
  }
  if (form === "text") {
    return html`<input id=${id} placeholder=${shown} autocomplete="off" spellcheck="false" aria-describedby=${help} aria-invalid=${Boolean(wrong)} .value=${text} @change=${complete}>`;
  }
  return html`<input id=${id} type="number" placeholder=${shown} step=${type === "integer" ? 1 : "any"} min=${minimum ?? nothing} max=${maximum ?? nothing}
    aria-describedby=${help} aria-invalid=${Boolean(wrong)} .value=${live(text)} @input=${input}>`;
}
