// Images from wherever people have them: dropped files and folders, the clipboard, a file dialog.

const IMAGE = /\.(png|jpe?g|webp|bmp)$/i;

/** The files of a drop; of folders, and the folders in them, the images. */
export async function dropped(transfer) {
  const entries = [...transfer.items].filter((one) => one.kind === "file").map((one) => one.webkitGetAsEntry?.());
  if (!entries.length || entries.includes(null) || entries.includes(undefined)) return named([...transfer.files]);
  const found = [];
  for (const entry of entries) await walk(entry, found, true);
  return found;
}

/** The images of a paste, with a name to tell them by. */
export function pasted(clipboard) {
  const files = [...clipboard.files].filter((one) => one.type.startsWith("image/"));
  const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
  return files.map((file) => ({ file, name: file.name && file.name !== "image.png" ? file.name : `pasted-${time}.png` }));
}

/** The files of a dialog, named from the folder that was chosen, if one was. */
export function named(files) {
  return files.map((file) => ({ file, name: file.webkitRelativePath || file.name }));
}

async function walk(entry, found, given) {
  if (entry.isFile) {
    if (!given && !IMAGE.test(entry.name)) return;
    const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); });
    found.push({ file, name: entry.fullPath.replace(/^\//, "") });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // Browsers give at most a hundred at once.
    const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!some.length) return;
    for (const one of some) await walk(one, found, false);
  }
}
