// Images from dropped files and folders, the clipboard and file dialogs.

const IMAGE = /\.(png|jpe?g|webp|bmp)$/i;

/** Returns all dropped files, and the images in dropped folders and their subfolders. */
export async function dropped(transfer) {
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.());
  if (!entries.length || entries.includes(null) || entries.includes(undefined)) return named([...transfer.files]);
  const files = [];
  for (const entry of entries) await walk(entry, files, true);
  return files;
}

/** Returns the pasted images. An image without a name of its own is named after the time. */
export function pasted(clipboard) {
  const files = [...clipboard.files].filter((file) => file.type.startsWith("image/"));
  const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
  return files.map((file) => ({ file, name: file.name && file.name !== "image.png" ? file.name : `pasted-${time}.png` }));
}

/** Returns the files of a dialog. Names include the path within a chosen folder. */
export function named(files) {
  return files.map((file) => ({ file, name: file.webkitRelativePath || file.name }));
}

async function walk(entry, files, isTopLevel) {
  if (entry.isFile) {
    if (!isTopLevel && !IMAGE.test(entry.name)) return;
    const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); });
    files.push({ file, name: entry.fullPath.replace(/^\//, "") });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // Browsers return at most a hundred entries at once.
    const children = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!children.length) return;
    for (const child of children) await walk(child, files, false);
  }
}
