// All HTTP requests of the page. Each takes an AbortSignal. An error answer throws a Problem, and a missing answer
// throws Unreachable.

/**
 * An error answer of the service, with the fields of the problem (RFC 9457). `final` is true if the same request would
 * fail again.
 * `retryAfter` is the number of seconds to wait, or null.
 */
export class Problem extends Error {
  constructor(status, body, { retryAfter, final }) {
    super(body.detail || body.title);
    const { title, detail, code, errors = [] } = body;
    Object.assign(this, { status, title, detail, code, errors, retryAfter, final });
  }
}

/** The service sent no answer: offline, refused or cut off. The same request may succeed later. */
export class Unreachable extends Error {}

let clockOffsetMs = 0;

/** The time on the service's clock, in milliseconds since 1970. The computer's own clock may be wrong. */
export const serverNow = () => Date.now() + clockOffsetMs;

/** The catalog: operations with their parameter schemas, limits and media types. */
export const getOperations = (signal) => get("/api/operations", signal);

/** One job, with fresh download URLs. */
export const getJob = (id, signal) => get(jobPath(id), signal);

/** Cancel a job. Resolves to the job. */
export const cancelJob = (id, signal) => send("POST", `${jobPath(id)}/cancel`, { signal });

/** Run the failed steps of a job again. Resolves to the job. */
export const retryJob = (id, signal) => send("POST", `${jobPath(id)}/retry`, { signal });

/** A page of jobs, newest first: at most `limit` jobs, all older than the job that `cursor` names. */
export const getJobs = (query, signal) => get(`/api/jobs?${parameters(query)}`, signal);

/**
 * A page of dead letters, newest first. `query` has `limit` and `cursor`, and may have `job` and `state`. Without
 * `state`, the page has only open dead letters.
 */
export const getDeadLetters = (query, signal) => get(`/api/dead-letters?${parameters(query)}`, signal);

/** Redrive one dead letter. */
export const redriveDeadLetter = (id, signal) => send("POST", `${deadLetterPath(id)}/redrive`, { signal });

/** Discard one dead letter. */
export const discardDeadLetter = (id, signal) => send("DELETE", deadLetterPath(id), { signal });

/**
 * Redrive the open dead letters that `selection` selects. It is {all: true}, or has some of job, op and code. Resolves
 * to {dead_letters: count}.
 */
export const redriveSelection = (selection, signal) => send("POST", "/api/dead-letters/redrive", { signal, body: selection });

/** Discard the open dead letters that `selection` selects. Resolves to {dead_letters: count}. */
export const discardSelection = (selection, signal) => send("POST", "/api/dead-letters/discard", { signal, body: selection });

/**
 * Submit a job and resolve to the job. `parts` are the further files, by the names that steps use for them.
 * `onProgress` is called with the number of bytes sent and of all bytes. XMLHttpRequest is used because fetch does not
 * report upload progress.
 */
export function createJob({ file, parts, steps, key, signal, onProgress }) {
  const form = new FormData();
  form.append("steps", JSON.stringify(steps)); // before the file: the service can refuse bad steps before it receives the file
  form.append("file", file, file.name);
  for (const [name, part] of Object.entries(parts)) form.append(name, part, part.name);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/api/jobs");
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("Idempotency-Key", key);
    request.upload.addEventListener("progress", ({ loaded, total }) => onProgress(loaded, total));
    request.addEventListener("load", () => {
      const body = parse(request.responseText);
      if (request.status < 300 && body) resolve(body);
      else reject(problemOf(request.status, body, (name) => request.getResponseHeader(name)));
    });
    request.addEventListener("error", () => reject(new Unreachable()));
    request.addEventListener("abort", () => reject(signal.reason));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}

/** Receive server-sent events of a job. `onJob` gets the job of each event. A break of the stream calls `onBreak`. */
export function listen(id, { signal, onJob, onBreak }) {
  const events = new EventSource(`${jobPath(id)}/events`);
  signal.addEventListener("abort", () => events.close(), { once: true });
  events.addEventListener("job", (event) => onJob(JSON.parse(event.data)));
  events.addEventListener("error", () => onBreak());
}

const jobPath = (id) => `/api/jobs/${encodeURIComponent(id)}`;

const deadLetterPath = (id) => `/api/dead-letters/${encodeURIComponent(id)}`;

const parameters = (query) => new URLSearchParams(Object.entries(query).filter(([, value]) => value !== null));

const get = (path, signal) => send("GET", path, { signal });

async function send(method, path, { signal, body = null }) {
  const headers = { Accept: "application/json", ...(body && { "Content-Type": "application/json" }) };
  let response;
  let text;
  try {
    response = await fetch(path, { method, signal, headers, body: body && JSON.stringify(body) });
    readClock(response.headers.get("Date"));
    text = await response.text();
  } catch (error) {
    throw signal.aborted ? signal.reason : new Unreachable(error.message);
  }
  const answer = parse(text);
  if (response.ok && (answer || response.status === 204)) return answer;
  throw problemOf(response.status, answer, (name) => response.headers.get(name));
}

function readClock(date) {
  const serverTime = Date.parse(date);
  if (!Number.isNaN(serverTime)) clockOffsetMs = serverTime - Date.now();
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // for example the HTML page of a proxy, or an answer that was cut off
  }
}

// While the service starts, its port answers 404 in plain text. Only a problem+json body proves that the service itself
// refused the request.
function problemOf(status, body, header) {
  const fromService = header("Content-Type")?.startsWith("application/problem+json") && body !== null;
  const known = body ?? { title: "The service gave no usable answer", detail: `It answered with HTTP status ${status}. Try again in a moment.` };
  return new Problem(status, known, {
    retryAfter: Number(header("Retry-After")) || null,
    final: fromService && status >= 400 && status < 500,
  });
}
