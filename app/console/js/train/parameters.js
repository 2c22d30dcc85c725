// Fields for the parameters of a training, made from the JSON Schema that the service gives of them.
import { html, nothing } from "../../vendor/lit-html/lit-html.js";
import { live } from "../../vendor/lit-html/directives/live.js";
import { brief } from "../format.js";

const BUDGET = ["max_steps", "max_minutes"]; // the form asks for these itself
const GROUPS = [
  ["Images", ["image_size", "fit", "colour", "pixel_transform", "suspect_share"]],
  ["Steps", ["batch_size", "learning_rate", "warmup_steps", "final_learning_rate", "gradient_clip", "ema_decay", "precision", "seed"]],
  ["Learned inverses", ["reconstruction_weight", "multiplier", "reconstruction_target", "symmetric_reconstruction",
    "noise_reconstruction", "gradient", "refresh_inverse_every"]],
  ["Validation", ["validations", "validation_images", "checkpoint_seconds"]],
];

/** The groups of a schema's parameters; those that no group knows are the last one. */
function groups(schema) {
  const known = new Set(BUDGET.concat(...GROUPS.map(([, names]) => names)));
  const others = Object.keys(schema.properties).filter((name) => !known.has(name));
  return [...GROUPS, ["Others", others]]
    .map(([title, names]) => [title, names.filter((name) => name in schema.properties)]).filter(([, names]) => names.length);
}

/** What was typed, as the service takes it: only what was filled in. */
export function given(schema, typed) {
  return Object.fromEntries(Object.entries(typed).filter(([, text]) => text !== "").map(([name, text]) => [name, value(kind(schema.properties[name]), text)]));
}

/** The default of a parameter under a preset. */
export function standard(schema, preset, name) {
  return preset?.parameters[name] ?? schema.properties[name].default;
}

// One of a choice, a switch, a number, or text (a size is one number or two).
function kind(property) {
  const one = property.anyOf?.find(({ type }) => type !== "null") ?? property;
  if (one.enum) return { ...one, form: "choice" };
  if (one.type === "boolean") return { form: "switch" };
  if (one.type === "array") return { form: "sides" };
  return { ...one, form: "number" };
}

function value({ form }, text) {
  if (form === "number") return Number(text);
  if (form === "switch") return text === "true";
  if (form !== "sides") return text;
  const sides = text.split(/[\s,x×]+/).filter(Boolean).map(Number);
  return sides.length === 1 ? sides[0] : sides;
}

/** All fields; `typed` holds the text of those that were changed, `change(name, text)` is told of one. */
export function parameterFields({ schema, preset, typed, wrong, change }) {
  return groups(schema).map(([title, names]) => html`<fieldset class="parameters"><legend>${title}</legend>
    ${names.map((name) => field({ name, property: schema.properties[name], standard: standard(schema, preset, name), text: typed[name] ?? "", wrong: wrong[`parameters/${name}`], change }))}
  </fieldset>`);
}

function field({ name, property, standard: usual, text, wrong, change }) {
  const id = `parameter-${name}`;
  const label = name.replaceAll("_", " ");
  const input = (event) => change(name, event.target.value.trim());
  return html`<div class="field"><div class="row tight"><label for=${id}>${label}</label>${text !== "" ? html`<span class="badge accent">changed</span>` : nothing}</div>
    ${control(kind(property), { id, text, usual, input, wrong })}
    ${wrong ? html`<small class="wrong">${wrong}</small>` : nothing}
    <small id="${id}-help">${property.description}</small></div>`;
}

function control({ form, enum: options, type, minimum, maximum }, { id, text, usual, input, wrong }) {
  const shown = usual == null ? "by itself" : typeof usual === "number" ? brief(usual, 6) : String(usual);
  const help = `${id}-help`;
  if (form === "choice" || form === "switch") {
    const all = options ?? ["true", "false"];
    const name = (one) => (form === "switch" ? (String(one) === "true" ? "yes" : "no") : one);
    return html`<select id=${id} aria-describedby=${help} aria-invalid=${Boolean(wrong)} @change=${input}>
      <option value="" .selected=${text === ""}>${usual == null ? "by itself" : `${name(usual)} (default)`}</option>
      ${all.filter((one) => String(one) !== String(usual)).map((one) => html`<option value=${one} .selected=${text === one}>${name(one)}</option>`)}
    </select>`;
  }
  if (form === "sides") {
    return html`<input id=${id} placeholder=${`${shown}: 32, or 28, 32`} autocomplete="off" aria-describedby=${help} aria-invalid=${Boolean(wrong)} .value=${live(text)} @change=${input}>`;
  }
  return html`<input id=${id} type="number" placeholder=${shown} step=${type === "integer" ? 1 : "any"} min=${minimum ?? nothing} max=${maximum ?? nothing}
    aria-describedby=${help} aria-invalid=${Boolean(wrong)} .value=${live(text)} @input=${input}>`;
}
