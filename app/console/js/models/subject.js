// One version of a model, as its page and its tabs know it.
import { get, Problem } from "../service.js";

export class Subject {
  /** `ref` is `digits` (its live version), `digits:2` or `digits@champion`. */
  constructor(ref) {
    this.ref = ref;
    this.name = ref.split(/[:@]/)[0];
    this.entry = null; // of the list: versions and aliases, also where a version is damaged
    this.detail = null;
    this.problem = null; // why there is no detail
    this.lost = null; // why both are not of now
    this.turns = 0;
  }

  /** The number of the version; null where there is no such version. */
  get version() {
    const [, version] = this.ref.split(":");
    if (version) return this.entry?.versions.includes(Number(version)) ? Number(version) : null;
    const [, alias = "live"] = this.ref.split("@");
    return this.entry?.aliases[alias] ?? null;
  }

  /** A reference to this very version, which no alias moves. */
  get exact() {
    return `${this.name}:${this.version}`;
  }

  /** Path of a call about this very version. */
  path(rest = "") {
    return `/v1/models/${this.exact}${rest}`;
  }

  get live() {
    return this.entry?.aliases.live === this.version;
  }

  /** Learns how the model stands; never raises: what went wrong is `lost` or `problem`. */
  async load() {
    // An answer from before a change must not come after the one that knows of it.
    const turn = (this.turns += 1);
    try {
      const { models } = await get("/v1/models");
      if (turn !== this.turns) return;
      this.entry = models.find((one) => one.name === this.name) ?? null;
      this.lost = null;
      if (this.version === null) {
        this.detail = null;
        return;
      }
      const detail = await get(this.path());
      if (turn !== this.turns) return;
      [this.detail, this.problem] = [detail, null];
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (turn !== this.turns) return;
      // A damaged version answers 500; the other versions can still be gone to.
      if (this.entry && error.status === 500) [this.detail, this.problem] = [null, error];
      else this.lost = error;
    }
  }
}
