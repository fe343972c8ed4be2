// The files that are sent together with the photo, by the names of their parts. The files are lost on a reload.

const OTHER_FIELDS = ["file", "steps", "operations", "operation_params"];

/** A collection of part files. `reserved` are names that no new file may get. */
export class PartFiles {
  #files = new Map();
  #used;

  constructor(reserved = []) {
    this.#used = new Set([...OTHER_FIELDS, ...reserved]);
  }

  /** Add a file and return the name of its part, which is made from the file's name. */
  add(file) {
    const stem = file.name.replace(/\.[^.]*$/, "").replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40) || "image";
    let name = stem;
    for (let n = 2; this.#used.has(name); n++) name = `${stem}-${n}`;
    this.#used.add(name);
    this.#files.set(name, file);
    return name;
  }

  /** The file of a part, or null. */
  get(name) {
    return this.#files.get(name) ?? null;
  }
}
