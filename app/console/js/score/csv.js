// The table as a file for spreadsheets.

const COLUMNS = [
  "file", "status", "log_likelihood", "bits_per_dim", "p_value", "statistic", "anomaly", "alpha", "reasons", "warning", "error",
  "model", "version", "calibration",
];

/** All images with a score or an error, judged at `alpha`, as CSV. */
export function csv(items, alpha) {
  const rows = items.filter((one) => one.state === "ok" || one.state === "error").map((item) => {
    const { result, error, by } = item;
    const verdict = result?.anomaly;
    return [
      text(item.name), item.state, result?.log_likelihood, result?.bits_per_dim, verdict?.p_value, verdict?.statistic,
      verdict && verdict.p_value <= (alpha ?? verdict.alpha), verdict && (alpha ?? verdict.alpha), text(verdict?.reasons?.map((one) => one.text).join("; ")),
      text(result?.preprocessing?.warning), text(error && `${error.title}: ${error.detail}`), by?.model, by?.version, by?.calibration,
    ];
  });
  return [COLUMNS, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

// A spreadsheet would take such a name for a formula.
function text(value) {
  return value && /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
}

function cell(value) {
  const found = value == null ? "" : String(value);
  return /[",\r\n]/.test(found) ? `"${found.replaceAll('"', '""')}"` : found;
}
