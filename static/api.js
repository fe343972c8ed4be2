// All HTTP requests of the page. Each function takes an AbortSignal. If the service answers with an error, the function
// throws a Problem. If the service does not answer, the function throws Unreachable. Only `listen` throws nothing.

/**
 * An error answer of the service, with the fields of the problem (RFC 9457). `final` is true if the service refused the
 * request, which has a mistake or came at the wrong time (4xx). If the client only has to wait (408 or 429), `final` is
 * false. `retryAfter` is the number of seconds to wait, or null.
 */
export class Problem extends Error {
  constructor(status, body, { retryAfter, final }) {
    super(body.detail || body.title);
    const { title, detail, code, errors = [] } = body;
    Object.assign(this, { status, title, detail, code, errors, retryAfter, final });
  }
}

/** No answer came: the computer is offline, or the connection was refused or cut off. A later try may succeed. */
export class Unreachable extends Error {}

let clockOffsetMs = 0;

/**
 * The current time according to the clock of the service, in milliseconds since 1970. The clock of this computer may be
 * wrong.
 */
export const serverNow = () => Date.now() + clockOffsetMs;

/** The catalog: the operations with their parameter schemas, the limits and the media types. */
export const getOperations = (signal) => get("/api/operations", signal);

/** One job, with fresh download URLs. */
export const getJob = (id, signal) => get(jobPath(id), signal);

/** Cancel a job. Resolves to the job. */
export const cancelJob = (id, signal) => send("POST", `${jobPath(id)}/cancel`, { signal });

/** Run the failed steps of a job again. Resolves to the job. */
export const retryJob = (id, signal) => send("POST", `${jobPath(id)}/retry`, { signal });

/** A page of jobs, newest first: at most `limit` jobs, all older than the job with the id `cursor`. */
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
 * Redrive the selected dead letters that are waiting. `selection` is {all: true}, or has one or more of `job`, `op` and
 * `code`. Resolves to {dead_letters: count}.
 */
export const redriveSelection = (selection, signal) => send("POST", "/api/dead-letters/redrive", { signal, body: selection });

/** Discard the selected dead letters that are open. Resolves to {dead_letters: count}. */
export const discardSelection = (selection, signal) => send("POST", "/api/dead-letters/discard", { signal, body: selection });

/** All registered webhook endpoints, newest first: {webhooks}. */
export const getWebhooks = (signal) => get("/api/webhooks", signal);

/** Register an endpoint. Resolves to the endpoint with its `secret`, which the service never sends again. */
export const createWebhook = (endpoint, signal) => send("POST", "/api/webhooks", { signal, body: endpoint });

/** Change an endpoint. Fields that `changes` lacks stay as they are. Resolves to the endpoint. */
export const changeWebhook = (id, changes, signal) => send("PATCH", webhookPath(id), { signal, body: changes });

/** Delete an endpoint with its deliveries. */
export const deleteWebhook = (id, signal) => send("DELETE", webhookPath(id), { signal });

/** Replace the secret of an endpoint. Resolves to {secret, previous_secret_until}. */
export const rotateSecret = (id, signal) => send("POST", `${webhookPath(id)}/rotate-secret`, { signal });

/** Replace the secret for the webhook URLs of jobs. Resolves to {secret, previous_secret_until}. */
export const rotateSecretOfJobs = (signal) => send("POST", "/api/webhook-secret/rotate", { signal });

/** Send a test to an endpoint. Resolves to the address of its delivery, for `getDeliveryAt`. */
export const testWebhook = async (id, signal) => (await request("POST", `${webhookPath(id)}/test`, { signal })).location;

/**
 * A page of deliveries, newest first. `query` has `limit` and `cursor`, and may have `state` and `webhook`, the id of an
 * endpoint.
 */
export const getDeliveries = (query, signal) => get(`/api/deliveries?${parameters(query)}`, signal);

/** One delivery, with its attempts. */
export const getDelivery = (id, signal) => get(deliveryPath(id), signal);

/** The delivery at an address that the service gave. */
export const getDeliveryAt = (location, signal) => get(location, signal);

/** Send an ended delivery again. Resolves to the delivery. */
export const replayDelivery = (id, signal) => send("POST", `${deliveryPath(id)}/replay`, { signal });

/**
 * Submit a job. Resolves to the job. `parts` maps the names of the parts to their files. `webhookUrl` may be empty.
 * `onProgress` is called with the number of sent bytes and the number of all bytes. XMLHttpRequest is used because
 * fetch does not report the progress of an upload.
 */
export function createJob({ file, parts, steps, webhookUrl, key, signal, onProgress }) {
  const form = new FormData();
  // The steps come before the file, so that the service can refuse steps that are too long before it receives the file.
  form.append("steps", JSON.stringify(steps));
  if (webhookUrl) form.append("webhook_url", webhookUrl);
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

/** Receive server-sent events of a job. `onJob` gets the job of each event. If the stream breaks, calls `onBreak`. */
export function listen(id, { signal, onJob, onBreak }) {
  const events = new EventSource(`${jobPath(id)}/events`);
  signal.addEventListener("abort", () => events.close(), { once: true });
  events.addEventListener("job", (event) => onJob(JSON.parse(event.data)));
  events.addEventListener("error", () => onBreak());
}

const jobPath = (id) => `/api/jobs/${encodeURIComponent(id)}`;

const deadLetterPath = (id) => `/api/dead-letters/${encodeURIComponent(id)}`;

const webhookPath = (id) => `/api/webhooks/${encodeURIComponent(id)}`;

const deliveryPath = (id) => `/api/deliveries/${encodeURIComponent(id)}`;

const parameters = (query) => new URLSearchParams(Object.entries(query).filter(([, value]) => value !== null));

const get = (path, signal) => send("GET", path, { signal });

const send = async (method, path, options) => (await request(method, path, options)).answer;

// Resolves to the body of the answer, and to the address in its header Location.
async function request(method, path, { signal, body = null }) {
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
  if (response.ok && (answer || response.status === 204)) return { answer, location: response.headers.get("Location") };
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
    return null; // the text is not JSON: for example the HTML page of a proxy, or an answer that was cut off
  }
}

// While the service starts, its port answers 404 in plain text. Only a problem+json body proves that the service itself
// refused the request.
function problemOf(status, body, header) {
  const fromService = header("Content-Type")?.startsWith("application/problem+json") && body !== null;
  const known = body ?? { title: "The service gave no usable answer", detail: `The service answered with HTTP status ${status}. Try again in a moment.` };
  return new Problem(status, known, {
    retryAfter: Number(header("Retry-After")) || null,
    final: fromService && status >= 400 && status < 500 && status !== 408 && status !== 429,
  });
}
