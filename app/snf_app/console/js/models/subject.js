// The version of a model that a page shows; its tabs share it.
import { get, getAll, Problem } from "../service.js";

export class Subject {
  /** `ref` is `digits` (its live version), `digits:2` or `digits@champion`. */
  constructor(ref) {
    this.ref = ref;
    this.name = ref.split(/[:@]/)[0];
    this.entry = null; // entry in the list of models: versions and aliases, available even if a version is damaged
    this.detail = null;
    this.problem = null; // the error of a damaged version, which has no detail
    this.loadError = null; // the error of the last request; the data may be out of date
    this.requests = 0;
  }

  /** The version number; null if there is no such version. The plain name of a model without a live version means its newest. */
  get version() {
    const [, version] = this.ref.split(":");
    if (version) return this.entry?.versions.includes(Number(version)) ? Number(version) : null;
    const [, alias = "live"] = this.ref.split("@");
    const newest = this.entry?.state === "unfit" && this.ref === this.name ? Math.max(...this.entry.versions) : null;
    return this.entry?.aliases[alias] ?? newest;
  }

  /** The reference by version number, which does not depend on an alias. */
  get exact() {
    return `${this.name}:${this.version}`;
  }

  /** Returns the path of a call for this version. */
  path(rest = "") {
    return `/v1/models/${this.exact}${rest}`;
  }

  /** The reference that scores: the plain name, or this version of a model without a live one. */
  get scoring() {
    return this.entry?.aliases.live ? this.name : this.exact;
  }

  get live() {
    return this.entry?.aliases.live === this.version;
  }

  /** Loads the model. Errors of the service are stored in `loadError` or `problem`. */
  async load() {
    // An answer that arrives after a newer request is out of date and is dropped.
    const request = (this.requests += 1);
    try {
      const models = await getAll("/v1/models", "models");
      if (request !== this.requests) return;
      this.entry = models.find(({ name }) => name === this.name) ?? null;
      this.loadError = null;
      if (this.version === null) {
        this.detail = null;
        return;
      }
      const detail = await get(this.path());
      if (request !== this.requests) return;
      [this.detail, this.problem] = [detail, null];
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (request !== this.requests) return;
      // The service answers 500 for a damaged version; the other versions remain available.
      if (this.entry && error.status === 500) [this.detail, this.problem] = [null, error];
      else this.loadError = error;
    }
  }
}
