// Ready-made lists of steps, in the same form as the steps of a job.

const step = (op, input = ["source"], params = {}) => ({ op, input, params });

const SUGGESTIONS = [
  {
    title: "WebP + AVIF + metadata",
    steps: { webp: step("webp"), avif: step("avif"), metadata: step("metadata") },
  },
  {
    title: "Web size + thumbnail in a ZIP",
    steps: {
      web: step("webp", ["source"], { resize: { width: 1280 } }),
      small: step("avif", ["source"], { resize: { width: 320 } }),
      all: step("zip", ["web", "small"]),
    },
  },
  {
    title: "Less noise, as JPG",
    steps: { denoise: step("denoise", ["source"], { strength: 0.8 }), jpg: step("jpg", ["denoise"]) },
  },
];

/** The suggestions whose operations this service has. */
export function suggestions(operations) {
  const known = new Set(operations.map(({ op }) => op));
  return SUGGESTIONS.filter(({ steps }) => Object.values(steps).every(({ op }) => known.has(op)));
}
