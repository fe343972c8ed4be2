// The files that go with the photo, each under the name of its part of the request. They live as long as the page.

const OTHER_FIELDS = ["file", "steps", "operations", "operation_params"];

export class PartFiles {
  #files = new Map();
  #taken;

  /** `missing` are the names of files that are not here. */
  constructor(missing = []) {
    this.#taken = new Set([...OTHER_FIELDS, ...missing]);
  }

  /** Keep `file` and answer the name it goes by: its own, as far as a part may be called so. */
  add(file) {
    const stem = file.name.replace(/\.[^.]*$/, "").replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40) || "image";
    let name = stem;
    for (let n = 2; this.#taken.has(name); n++) name = `${stem}-${n}`;
    this.#taken.add(name);
    this.#files.set(name, file);
    return name;
  }

  get(name) {
    return this.#files.get(name) ?? null;
  }
}
