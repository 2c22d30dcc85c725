// The choice of the shown images: all, anomalies only, or those that could not be judged.

const FILTERS = {
  all: ["all", () => true],
  anomalies: ["anomalies only", ({ item, flagged }) => item.state === "ok" && flagged(item.result)],
  "not-judged": ["not judged only", ({ item }) => item.state === "error"],
};

/** Returns the images that the filter `name` keeps. `flagged` says of a result whether it is an anomaly. */
export function kept(items, name, flagged) {
  const [, keeps] = FILTERS[name];
  return items.filter((item) => keeps({ item, flagged }));
}

/** Returns the options of `segments`, each with its number of images. */
export function options(items, flagged) {
  return Object.entries(FILTERS).map(([name, [label]]) => [name, `${label} (${kept(items, name, flagged).length})`]);
}
