// Ready-made rows of steps, in the form in which a job tells its steps.

const from = (op, input = ["source"], params = {}) => ({ op, input, params });

const SUGGESTIONS = [
  {
    title: "WebP + AVIF + metadata",
    steps: { webp: from("webp"), avif: from("avif"), metadata: from("metadata") },
  },
  {
    title: "Web size + thumbnail in a ZIP",
    steps: {
      web: from("webp", ["source"], { resize: { width: 1280 } }),
      small: from("avif", ["source"], { resize: { width: 320 } }),
      all: from("zip", ["web", "small"]),
    },
  },
  {
    title: "Less noise, as JPG",
    steps: { denoise: from("denoise", ["source"], { strength: 0.8 }), jpg: from("jpg", ["denoise"]) },
  },
];

/** Those that this service can do. */
export function suggestions(operations) {
  const known = new Set(operations.map(({ op }) => op));
  return SUGGESTIONS.filter(({ steps }) => Object.values(steps).every(({ op }) => known.has(op)));
}
