// The order of the files of a folder: that of the command line (`natural_order` in client/snf_client/local_files.py).

const DIGITS = /([0-9]+)/;

/** Returns files, each with a `name`, by path: folder by folder, and runs of digits by their number: 2 before 10. */
export function inNaturalOrder(files) {
  const keyed = files.map((file) => [file.name.split("/").map((part) => part.split(DIGITS)), file]);
  return keyed.sort(([a, left], [b, right]) => byParts(a, b, byRuns) || byText(left.name, right.name)).map(([, file]) => file);
}

/** Compares two lists item by item; a list that is the beginning of the other comes first. */
function byParts(a, b, compare) {
  for (let place = 0; place < Math.min(a.length, b.length); place += 1) {
    const order = compare(a[place], b[place], place);
    if (order) return order;
  }
  return a.length - b.length;
}

// Every second run of a name is a number, which may have more digits than a number of JavaScript.
const byRuns = (a, b) => byParts(a, b, (left, right, place) => (place % 2 ? byText(BigInt(left), BigInt(right)) : byText(left, right)));
const byText = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
