// Waits.

/** Resolve after `ms` milliseconds. Reject with the reason of `signal` if `signal` aborts. */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted(); // rejects
    const stop = () => { clearTimeout(timer); reject(signal.reason); };
    const timer = setTimeout(() => { signal.removeEventListener("abort", stop); resolve(); }, ms);
    signal.addEventListener("abort", stop, { once: true });
  });
}
