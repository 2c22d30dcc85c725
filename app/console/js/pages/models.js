// Models: all of them, or one in full.
import { showList } from "../models/list.js";
import { showModel } from "../models/model.js";

export const title = "Models";

/** `argument` is a reference to a model, then the tab that is open: `digits:2/drift`. */
export function mount(root, argument) {
  const [ref, tab] = argument.split("/");
  return ref ? showModel(root, ref, tab) : showList(root);
}
