// How far a job is.

/** The share that is done, 0 to 1; null before anything is known. */
export function share({ progress }) {
  if (progress.fraction != null) return progress.fraction;
  return progress.steps ? (progress.step ?? 0) / progress.steps : null;
}

/** "step 40 of 200"; the steps alone where time is what ends them. */
export function steps({ type, progress, parameters }) {
  if (progress.step == null) return null;
  const unit = type === "train" ? "step" : "image";
  const done = progress.step.toLocaleString("en-US");
  return progress.steps && parameters.max_minutes == null ? `${unit} ${done} of ${progress.steps.toLocaleString("en-US")}` : `${unit} ${done}`;
}
