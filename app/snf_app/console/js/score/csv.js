// Export of the scores as CSV.

const COLUMNS = [
  "file", "status", "log_likelihood", "bits_per_dim", "p_value", "statistic", "anomaly", "alpha", "reasons", "warning", "error",
  "model", "version", "calibration",
];

/** Returns a CSV of all images with a score or an error; verdicts are made at the false-alarm rate `alpha`. */
export function csv(items, alpha) {
  const rows = items.filter(({ state }) => state === "ok" || state === "error").map((item) => {
    const { result, error, by } = item;
    const verdict = result?.anomaly;
    return [
      text(item.name), item.state, result?.log_likelihood, result?.bits_per_dim, verdict?.p_value, verdict?.statistic,
      verdict && verdict.p_value <= (alpha ?? verdict.alpha), verdict && (alpha ?? verdict.alpha), text(verdict?.reasons?.map((reason) => reason.text).join("; ")),
      text([...(result?.preprocessing?.notes ?? []), result?.preprocessing?.converted && `converted ${result.preprocessing.converted}`, result?.preprocessing?.warning].filter(Boolean).join("; ")), text(error && `${error.title}: ${error.detail}`), by?.model, by?.version, by?.calibration,
    ];
  });
  return [COLUMNS, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

// Prevents spreadsheets from reading a file name as a formula.
function text(value) {
  return value && /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
}

function cell(value) {
  const plain = value == null ? "" : String(value);
  return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
}
