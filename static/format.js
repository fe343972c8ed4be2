// Numbers, states and types as people read them.

const FORMATS = {
  "image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WebP", "image/avif": "AVIF", "image/gif": "GIF",
  "image/tiff": "TIFF", "image/heic": "HEIC", "image/heif": "HEIF", "image/jxl": "JPEG XL", "image/bmp": "BMP",
  "application/zip": "ZIP", "application/json": "JSON",
};

const ENDED = new Set(["succeeded", "partial", "failed", "cancelled", "expired"]);

const JOB_STATES = {
  queued: "queued", running: "running", succeeded: "succeeded", partial: "partly succeeded",
  failed: "failed", cancelled: "cancelled", expired: "expired",
};

const STEP_STATES = {
  waiting: "waiting", running: "running", succeeded: "succeeded", cached: "cached", failed: "failed",
  skipped: "skipped", cancelled: "cancelled",
};

const HAPPENINGS = {
  failed: "failed", crashed: "its converter died", lost: "its dispatcher died", buried: "became a dead letter",
  redriven: "redriven", discarded: "discarded",
};

export const ended = (job) => ENDED.has(job.state);

export const jobState = (state) => JOB_STATES[state] ?? state;

export const stepState = (state) => STEP_STATES[state] ?? state;

export const happening = (what) => HAPPENINGS[what] ?? what;

export const format = (mediaType) => FORMATS[mediaType] ?? (mediaType ?? "file").split("/").pop().toUpperCase();

export function bytes(count) {
  if (count < 1000) return `${count} bytes`;
  const [size, unit] = count < 999_500 ? [count / 1e3, "kB"] : [count / 1e6, "MB"];
  return `${size < 10 ? Number(size.toFixed(1)) : Math.round(size)} ${unit}`;
}

export const dimensions = ({ width, height }) => (width && height ? `${width} × ${height}` : null);

/** "62 % smaller", "12 % larger": in words, for a bare sign is easily misread. */
export function change(before, after) {
  const percent = Math.round((Math.abs(after - before) / before) * 100);
  if (percent === 0) return "same size";
  return after < before ? `${Math.min(percent, 99)} % smaller` : `${percent} % larger`;
}

const LOWERED = { max_bytes: "to stay within the bytes allowed", keep_smaller: "to be no larger than the source" };

/** How a step came to its picture: "quality 71 · score 80.3 (SSIMULACRA2) · 5 encodes", or what noise was in it. */
export const outcome = (result) => (result.sigma === undefined ? goal(result) : noise(result));

function goal({ quality, lowered_for: cap, score, target, reached, encodes }) {
  const missed = reached === false ? ` of the ${target} asked for` : "";
  return [
    quality !== undefined && `quality ${quality}${cap ? `, lowered ${LOWERED[cap] ?? `for ${cap}`}` : ""}`,
    score !== undefined && `score ${score}${missed} (SSIMULACRA2)`,
    encodes !== undefined && plural(encodes, "encode"),
  ].filter(Boolean).join(" · ");
}

const LEFT = {
  clean: "looks clean, so it was left as it was; with noise “any” it is denoised all the same",
  strength: "left as it was, for the strength is 0",
};

function noise({ sigma, denoised, skipped }) {
  const found = sigma > 0 ? `fine noise with a standard deviation of ${sigma} (of 255 levels)` : "no fine noise found";
  const done = denoised ? "denoised" : LEFT[skipped] ?? "left as it was";
  return `${found} · ${done}`;
}

export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60_000)} min`;
}

/** The hour alone for today, else the date with it: "two minutes ago" would grow false on an open page. */
export function moment(iso) {
  const then = new Date(iso);
  const today = then.toDateString() === new Date().toDateString();
  return then.toLocaleString(undefined, { ...(!today && { dateStyle: "medium" }), timeStyle: "short" });
}

export const list = (words) => new Intl.ListFormat("en-GB", { type: "conjunction" }).format(words);

export const either = (words) => new Intl.ListFormat("en-GB", { type: "disjunction" }).format(words);

export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

export const tries = (count) => (count === 0 ? "never tried" : count === 1 ? "tried once" : `tried ${count} times`);
