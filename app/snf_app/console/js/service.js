// HTTP calls to the service: API key, problem details (RFC 9457), retries while it is busy, uploads and downloads.

const BUSY = new Set([429, 503]);
const MAX_RETRIES = 5;

/** An error response (status 400 or above); status 0 if the service did not answer. */
export class Problem extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `The service answered with status ${status}.`);
    this.status = status;
    this.type = problem.type;
    this.title = problem.title || "The request failed";
    this.errors = problem.errors || [];
    this.results = problem.results || null;
  }
}

/** Returns a path with its query string; parameters that are null are left out. */
export function address(path, query = {}) {
  const parameters = Object.entries(query).filter(([, value]) => value != null);
  return parameters.length ? `${path}?${new URLSearchParams(parameters)}` : path;
}

/** Returns the response of a call. Asks for an API key if the service requires one; throws `Problem` on an error. */
export async function call(path, { method = "GET", query, json, body, headers = {}, signal, patient = false } = {}) {
  const ownHeaders = { ...headers };
  if (json !== undefined) {
    ownHeaders["Content-Type"] = "application/json";
    body = JSON.stringify(json);
  }
  for (let attempt = 1; ; attempt += 1) {
    const response = await fetchOrFail(address(path, query), { method, body, signal, headers: { ...ownHeaders, ...authorization() } });
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (response.status === 401 && (await askForKey(problem.message))) continue;
    if (!patient || !BUSY.has(response.status) || attempt > MAX_RETRIES) throw problem;
    await pause((Number(response.headers.get("Retry-After")) || 2 ** (attempt - 1)) * 1000, signal);
  }
}

/** Returns the JSON body of a call. */
export async function get(path, options) {
  const response = await call(path, options);
  return bodyOf(() => response.json(), options?.signal);
}

/** Returns the entries of all pages of a list, such as `models` of `/v1/models`. */
export async function getAll(path, entries, options) {
  const all = [];
  let after = null;
  do {
    const page = await get(path, { ...options, query: { after } });
    all.push(...page[entries]);
    after = page.next;
  } while (after != null);
  return all;
}

/** Downloads an image with the API key and returns an object URL. The caller must revoke it. */
export async function picture(path, options) {
  const response = await call(path, options);
  return URL.createObjectURL(await bodyOf(() => response.blob(), options?.signal));
}

/** Uploads a form or a file and reports progress, which `fetch` cannot do. */
export function upload(path, body, { query, type, progress, signal } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(path, query));
    const headers = type ? { "Content-Type": type, ...authorization() } : authorization();
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.responseType = "text";
    request.upload.onprogress = (event) => progress?.(event.loaded, event.total);
    request.onload = async () => {
      const answer = parsed(request.responseText);
      if (request.status < 400) return resolve(answer);
      const problem = new Problem(request.status, answer);
      if (request.status === 401 && (await askForKey(problem.message))) {
        return upload(path, body, { query, type, progress, signal }).then(resolve, reject);
      }
      return reject(problem);
    };
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    signal?.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}

/** Downloads a blob as a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Returns whether an API key is in use. If so, plain links to the service are refused. */
export function hasKey() {
  return storedKey() !== null;
}

/** Returns the request headers with the API key. */
export function authorization() {
  const key = storedKey();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Resolves after a delay; rejects when `signal` is aborted. */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => { clearTimeout(timer); reject(signal.reason); };
    const timer = setTimeout(() => { signal?.removeEventListener("abort", stop); resolve(); }, milliseconds);
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
  });
}

export function isAbort(error) {
  return error instanceof DOMException && error.name === "AbortError";
}

/** Returns the body of an answer. A body that breaks off is a `Problem` as any other. */
async function bodyOf(read, signal) {
  try {
    return await read();
  } catch (error) {
    if (isAbort(error) || signal?.aborted) throw error;
    throw new Problem(0, { type: "incomplete", title: "The answer of the service is incomplete", detail: "Try again." });
  }
}

async function fetchOrFail(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (isAbort(error) || options.signal?.aborted) throw error;
    throw unreachable();
  }
}

function unreachable() {
  return new Problem(0, { type: "unreachable", title: "The service does not answer", detail: "Check that it is running, then try again." });
}

async function problemOf(response) {
  return new Problem(response.status, parsed(await response.text()));
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return { detail: text.slice(0, 300) };
  }
}

function storedKey() {
  return sessionStorage.getItem("snf-key") ?? localStorage.getItem("snf-key");
}

let asking = null;

/** Asks for an API key. Concurrent calls share one dialog. Resolves to whether a key was entered. */
export function askForKey(reason) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key-dialog");
    const field = document.getElementById("key");
    document.getElementById("key-reason").textContent = reason;
    field.value = "";
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      const key = field.value.trim();
      const use = dialog.returnValue === "use" && key !== "";
      if (use) {
        sessionStorage.setItem("snf-key", key);
        if (document.getElementById("key-keep").checked) localStorage.setItem("snf-key", key);
        else localStorage.removeItem("snf-key");
      }
      asking = null;
      resolve(use);
      if (use) document.dispatchEvent(new Event("snf-key"));
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}
