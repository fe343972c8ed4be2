// Formats numbers, times, states and media types as text for people.

const FORMAT_NAMES = {
  "image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WebP", "image/avif": "AVIF", "image/gif": "GIF",
  "image/tiff": "TIFF", "image/heic": "HEIC", "image/heif": "HEIF", "image/jxl": "JPEG XL", "image/bmp": "BMP",
  "application/zip": "ZIP", "application/json": "JSON",
};

const ENDED = new Set(["succeeded", "partial", "failed", "cancelled", "expired"]);

const JOB_STATES = { partial: "partly succeeded" }; // the other states are shown as they are

const STEP_EVENTS = {
  failed: "failed", crashed: "the process that ran the step died", lost: "the process that ran the job died", buried: "became a dead letter",
  redriven: "redriven", discarded: "discarded",
};

// A picture with a `sigma` below this value is clean. CLEAN_SIGMA in pixtools/denoising/measured_noise.py must have the
// same value.
const CLEAN_SIGMA = 2;

/** Whether a job has ended. A redrive can still start it again. */
export const hasEnded = (job) => ENDED.has(job.state);

/** The state of a job in words. */
export const jobState = (state) => JOB_STATES[state] ?? state;

/** An event in the history of a step, in words. */
export const stepEvent = (what) => STEP_EVENTS[what] ?? what;

/** The usual name of a file format: "JPEG" for image/jpeg. */
export const formatName = (mediaType) => FORMAT_NAMES[mediaType] ?? (mediaType ?? "file").split("/").pop().toUpperCase();

/** A number of bytes as "812 bytes", "9.4 kB" or "25 MB". */
export function formatBytes(count) {
  if (count < 1000) return `${count} bytes`;
  const [size, unit] = count < 999_500 ? [count / 1e3, "kB"] : [count / 1e6, "MB"];
  return `${size < 10 ? Number(size.toFixed(1)) : Math.round(size)} ${unit}`;
}

/** "640 × 480", or null if the size is not known. */
export const dimensions = ({ width, height }) => (width && height ? `${width} × ${height}` : null);

/** "62 % smaller" or "12 % larger". A plus or minus sign would easily be misread. */
export function sizeChange(before, after) {
  const percent = Math.round((Math.abs(after - before) / before) * 100);
  if (percent === 0) return "same size";
  return after < before ? `${Math.min(percent, 99)} % smaller` : `${percent} % larger`;
}

const LOWERED_FOR = { max_bytes: "to stay within the bytes allowed", keep_smaller: "to be no larger than the source" };

/**
 * The result of a step as text, such as "quality 71 · score 80.3 (SSIMULACRA2) · 5 encodes". For a denoised picture, the
 * text says how much noise was found.
 */
export const resultSummary = (result) => (result.sigma === undefined ? goalSummary(result) : noiseSummary(result));

function goalSummary({ quality, lowered_for: cap, score, target, reached, encodes }) {
  const missed = reached === false ? `, below the target of ${target}` : "";
  return [
    quality !== undefined && `quality ${quality}${cap ? `, lowered ${LOWERED_FOR[cap] ?? `for ${cap}`}` : ""}`,
    score !== undefined && `score ${score}${missed} (SSIMULACRA2)`,
    encodes !== undefined && plural(encodes, "encode"),
  ].filter(Boolean).join(" · ");
}

const ANYWAY = "To denoise it anyway, set Noise to “any”";

const NOT_DENOISED = {
  clean: `the picture looks clean, so it was not changed. ${ANYWAY}`,
  strength: "not changed, because the strength is 0",
  unmeasured: `no part of the picture can be measured, so the picture was not changed. ${ANYWAY}`,
};

function noiseSummary({ sigma, denoised, skipped }) {
  const level = `sigma ${sigma} of 255 levels`;
  const found = sigma === null ? "noise not measured"
    : sigma === 0 ? "no noise found"
    : skipped === "clean" || sigma < CLEAN_SIGMA ? `hardly any noise found (${level})`
    : `noise found (${level})`;
  const done = !denoised ? NOT_DENOISED[skipped] ?? "not changed"
    : sigma !== null && sigma < CLEAN_SIGMA ? "denoised, but you may see little or no change"
    : "denoised";
  return `${found} · ${done}`;
}

/** A number of milliseconds as "320 ms", "4.2 s" or "3 min". */
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60_000)} min`;
}

/**
 * The time of day, and the date unless it is today. A text such as "two minutes ago" would soon be wrong. `timeStyle` is
 * "short", or "medium" for a time with seconds.
 */
export function formatTime(iso, timeStyle = "short") {
  const then = new Date(iso);
  const today = then.toDateString() === new Date().toDateString();
  return then.toLocaleString(undefined, { ...(!today && { dateStyle: "medium" }), timeStyle });
}

/** "a, b and c". */
export const joinAnd = (items) => new Intl.ListFormat("en-GB", { type: "conjunction" }).format(items);

/** "a, b or c". */
export const joinOr = (items) => new Intl.ListFormat("en-GB", { type: "disjunction" }).format(items);

/** "1 step", "2 steps". */
export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** "never tried", "tried once" or "tried 3 times". */
export const triedTimes = (count) => (count === 0 ? "never tried" : count === 1 ? "tried once" : `tried ${count} times`);
