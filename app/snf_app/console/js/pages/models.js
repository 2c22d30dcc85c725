// The Models page: the list of models, or one model with its tabs.
import { showList } from "../models/list.js";
import { showModel } from "../models/model.js";

export const title = "Models";

/** `argument` is empty or a model reference and a tab, such as `digits:2/drift`. */
export function mount(root, argument) {
  const [ref, tab] = argument.split("/");
  return ref ? showModel(root, ref, tab) : showList(root);
}
