// Images from dropped files and folders, the clipboard and file dialogs.
// A file of a folder is judged unless its name is no image's; the rule is that of the service (models/images/policy.py).

import { Problem } from "../service.js";
import { toast } from "../toast.js";
import { count } from "../format.js";
import { inNaturalOrder } from "./natural_order.js";

const NAMED = 5; // of the files that cannot be read
export const TYPES = ".png,.jpg,.jpeg,.webp,.bmp,.tif,.tiff,.gif";
/** Media types that every browser shows. */
export const SHOWN = /^image\/(png|jpeg|webp|bmp|gif)$/;
const TEXT = /\.(csv|html?|ini|jsonl?|log|md|part|py|sh|tmp|toml|tsv|txt|xml|ya?ml)$/i;
const SYSTEM = /^(thumbs\.db|desktop\.ini)$/i;

/** Returns whether a file in a folder is skipped and only counted: it is hidden, of a system, or a text. */
export function isNoImage(path) {
  const parts = path.split("/");
  const name = parts.at(-1);
  return parts.some((part) => part.startsWith(".") || part === "__MACOSX") || SYSTEM.test(name) || TEXT.test(name);
}

/** Returns all dropped files, and all files in dropped folders and their subfolders; a folder in natural order. */
export async function dropped(transfer) {
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.());
  if (!entries.length || entries.includes(null) || entries.includes(undefined)) return named([...transfer.files]);
  const [files, left] = [[], []];
  for (const entry of entries) files.push(inNaturalOrder(await walk(entry, left)));
  if (left.length) toast(`${count(left.length, "file or folder", "files or folders")} cannot be read and ${left.length === 1 ? "is" : "are"} left out: ${left.slice(0, NAMED).join(", ")}${left.length > NAMED ? " ..." : ""}`, { bad: true });
  return files.flat();
}

/** Returns an error if one of `files` was changed, moved or deleted since it was chosen; null if all can be read.
 *  Browsers report a request with such a file as a service that does not answer. */
export async function unreadable(files) {
  for (const { file, name } of files) {
    // A deleted file may have the size 0, and nothing of it is read then.
    const isReadable = await (file.size ? file.slice(0, 1) : file).arrayBuffer().then(() => true, () => false);
    if (!isReadable) return new Problem(0, { type: "unreadable-file", title: "The file cannot be read", detail: `${name} was changed, moved or deleted after it was chosen. Choose it again.` });
  }
  return null;
}

/** Returns the pasted images. An image without a name of its own is named after the time. */
export function pasted(clipboard) {
  const files = [...clipboard.files];
  const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
  return files.map((file) => ({ file, name: file.name && file.name !== "image.png" ? file.name : `pasted-${time}.png` }));
}

/** Returns the files of a dialog, those of a chosen folder in natural order. Names include the path within the folder. */
export function named(files) {
  const entries = files.map((file) => ({ file, name: file.webkitRelativePath || file.name }));
  return files.some((file) => file.webkitRelativePath) ? inNaturalOrder(entries) : entries;
}

/** Returns the file of an entry, or the files in a folder and its subfolders. The paths of those that cannot be read, such
 *  as a folder without permission, are added to `left`. */
async function walk(entry, left) {
  const path = entry.fullPath.replace(/^\//, "");
  const files = [];
  try {
    if (entry.isFile) return [{ file: await new Promise((resolve, reject) => { entry.file(resolve, reject); }), name: path }];
    const reader = entry.createReader();
    for (;;) {
      // Browsers return at most a hundred entries at once.
      const children = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
      if (!children.length) break;
      for (const child of children) files.push(await walk(child, left));
    }
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    left.push(path);
  }
  return files.flat();
}
