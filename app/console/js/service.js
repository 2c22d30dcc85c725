// Calls to the service: the key, errors as problems (RFC 9457), patience where it is busy, files as pictures.

const BUSY = new Set([429, 503]);
const PATIENCE = 5;

/** An answer of 400 or more. */
export class Problem extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `the service answered ${status}`);
    this.status = status;
    this.type = problem.type;
    this.title = problem.title || "The service refused";
    this.errors = problem.errors || [];
    this.results = problem.results || null;
  }
}

/** Answers an absolute path with its query; parameters that are null are left out. */
export function address(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value != null);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** The answer of a call; raises `Problem`, and asks for a key where one is wanted. */
export async function call(path, { method = "GET", query, json, body, headers = {}, signal, patient = false } = {}) {
  const given = { ...headers };
  if (json !== undefined) {
    given["Content-Type"] = "application/json";
    body = JSON.stringify(json);
  }
  for (let attempt = 1; ; attempt += 1) {
    const response = await reach(address(path, query), { method, body, signal, headers: { ...given, ...authorization() } });
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (response.status === 401 && (await askForKey(problem.message))) continue;
    if (!patient || !BUSY.has(response.status) || attempt > PATIENCE) throw problem;
    await pause((Number(response.headers.get("Retry-After")) || 2 ** (attempt - 1)) * 1000, signal);
  }
}

/** The JSON of a call. */
export async function get(path, options) {
  return (await call(path, options)).json();
}

/** The address of a picture that can only be had with the key; it is to be given to `URL.revokeObjectURL`. */
export async function picture(path, options) {
  return URL.createObjectURL(await (await call(path, options)).blob());
}

/** Sends a form, or a file of a media type, and tells how far it is; `fetch` cannot. */
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

/** Saves a blob as a file of the reader's machine. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Whether a key is in use: then links to the service alone would be refused. */
export function hasKey() {
  return storedKey() !== null;
}

/** The headers that carry the key. */
export function authorization() {
  const key = storedKey();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

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

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (isAbort(error) || options.signal?.aborted) throw error;
    throw unreachable();
  }
}

function unreachable() {
  return new Problem(0, { type: "unreachable", title: "The service does not answer", detail: "Is it still running?" });
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

/** Asks for a key; many calls may be refused at once, and one dialog answers them all. */
export function askForKey(reason) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key-dialog");
    const field = document.getElementById("key");
    document.getElementById("key-reason").textContent = reason;
    field.value = "";
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      const use = dialog.returnValue === "use" && field.value !== "";
      if (use) {
        sessionStorage.setItem("snf-key", field.value);
        if (document.getElementById("key-keep").checked) localStorage.setItem("snf-key", field.value);
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
