// The page's only way to the network. Every request takes an AbortSignal; every refusal becomes a Problem.

/** The service answered no: an RFC 9457 body. It is `final` where the service itself says that asking again is no use. */
export class Problem extends Error {
  constructor(status, body, { retryAfter, final }) {
    super(body.detail || body.title);
    Object.assign(this, { status, title: body.title, detail: body.detail, errors: body.errors ?? [], retryAfter, final });
  }
}

/** No answer came: offline, refused or cut. The same request may be sent again. */
export class Unreachable extends Error {}

export const getOperations = (signal) => get("/api/operations", signal);

export const getJob = (id, signal) => get(jobPath(id), signal);

export const cancelJob = (id, signal) => send("POST", `${jobPath(id)}/cancel`, { signal });

export const retryJob = (id, signal) => send("POST", `${jobPath(id)}/retry`, { signal });

/** A page of jobs or of dead letters, newest first: `limit` of them, those after the one that `cursor` names. */
export const getJobs = (query, signal) => get(`/api/jobs?${parameters(query)}`, signal);

export const getDeadLetters = (query, signal) => get(`/api/dead-letters?${parameters(query)}`, signal);

export const redriveLetter = (id, signal) => send("POST", `/api/dead-letters/${encodeURIComponent(id)}/redrive`, { signal });

export const discardLetter = (id, signal) => send("DELETE", `/api/dead-letters/${encodeURIComponent(id)}`, { signal });

export const redriveAll = (signal) => send("POST", "/api/dead-letters/redrive", { signal, body: { all: true } });

export const discardAll = (signal) => send("POST", "/api/dead-letters/discard", { signal, body: { all: true } });

/** Upload `file` and `parts`, the files that steps name, and resolve to the job. XMLHttpRequest, for fetch tells no upload progress. */
export function createJob({ file, parts, steps, key, signal, onProgress }) {
  const form = new FormData();
  form.append("steps", JSON.stringify(steps)); // before the file, so that bad steps can be refused before its bytes
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

/** Server-sent events of a job. `onBreak` hears each loss of the stream. */
export function listen(id, { signal, onJob, onBreak }) {
  const events = new EventSource(`${jobPath(id)}/events`);
  signal.addEventListener("abort", () => events.close(), { once: true });
  events.addEventListener("job", (event) => onJob(JSON.parse(event.data)));
  events.addEventListener("error", () => onBreak());
}

const jobPath = (id) => `/api/jobs/${encodeURIComponent(id)}`;

const parameters = (query) => new URLSearchParams(Object.entries(query).filter(([, value]) => value !== null));

const get = (path, signal) => send("GET", path, { signal });

async function send(method, path, { signal, body = null }) {
  const headers = { Accept: "application/json", ...(body && { "Content-Type": "application/json" }) };
  let response;
  let text;
  try {
    response = await fetch(path, { method, signal, headers, body: body && JSON.stringify(body) });
    text = await response.text();
  } catch (error) {
    throw signal.aborted ? signal.reason : new Unreachable(error.message);
  }
  const answer = parse(text);
  if (response.ok && (answer || response.status === 204)) return answer;
  throw problemOf(response.status, answer, (name) => response.headers.get(name));
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // a proxy's HTML page, or an answer cut short
  }
}

// While the service starts, its port answers 404 in plain text: only its own problem+json says that something is not there.
function problemOf(status, body, header) {
  const own = header("Content-Type")?.startsWith("application/problem+json") && body !== null;
  const known = body ?? { title: "The service gave no usable answer", detail: `It answered with HTTP status ${status}. Try again in a moment.` };
  return new Problem(status, known, {
    retryAfter: Number(header("Retry-After")) || null,
    final: own && status >= 400 && status < 500,
  });
}
