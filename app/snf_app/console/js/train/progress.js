// The progress of a job.

/** Returns the completed share, 0 to 1; null while it is unknown. */
export function share({ progress }) {
  if (progress.fraction != null) return progress.fraction;
  return progress.steps ? (progress.step ?? 0) / progress.steps : null;
}

/** Returns "step 40 of 200"; without the total if the job is limited by time. A fit in closed form has images. */
export function steps({ type, progress, parameters, metrics }) {
  if (progress.step == null) return null;
  const unit = type === "train" && "bits_per_dim" in metrics ? "step" : "image";
  const done = progress.step.toLocaleString("en-US");
  return progress.steps && parameters.max_minutes == null ? `${unit} ${done} of ${progress.steps.toLocaleString("en-US")}` : `${unit} ${done}`;
}
