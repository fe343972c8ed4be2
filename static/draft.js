// The steps being built: plain data and the rules of what may read what. No DOM, so that it can be read on its own.
//
// A step is {key, op, name, input, params}. Inputs are held by key and not by name, so renaming breaks nothing.
// `input` is "source" or a key; for an operation of many inputs a list of keys, or null while it takes all it can.

import { PartFiles } from "/static/part-files.js";
import { missing, partsIn } from "/static/schema.js";

export const SOURCE = "source";

export class Draft {
  steps = [];
  files = new PartFiles(); // not among the steps, which outlive a reload
  #operations;
  #next = 0;

  constructor(operations) {
    this.#operations = new Map(operations.map((operation) => [operation.op, operation]));
  }

  operation(step) {
    return this.#operations.get(step.op);
  }

  takesMany(step) {
    return (this.operation(step).input.max ?? Infinity) > 1;
  }

  /**
   * A new step goes above the bundles at the end, so that they can take it. One that reads pixels reads the last step
   * that makes some: whoever resizes first wants the rest to be small.
   */
  add(op, { name = op, input, params = {} } = {}) {
    const step = { key: `step-${this.#next++}`, op, name: this.#unique(name), params };
    const many = this.takesMany(step);
    step.input = input ?? (many ? null : SOURCE);
    let at = this.steps.length;
    while (!many && at > 0 && this.steps[at - 1].input === null) at--;
    this.steps.splice(at, 0, step);
    if (input === undefined && this.operation(step).input.kind === "pixels") step.input = this.candidates(step).at(-1)?.key ?? SOURCE;
    return step;
  }

  /** Take a step out. What read it now reads what it read, where that fits, else the source. */
  remove(step) {
    this.steps = this.steps.filter((other) => other !== step);
    for (const other of this.steps) {
      if (Array.isArray(other.input)) other.input = other.input.filter((key) => key !== step.key);
      if (other.input !== step.key) continue;
      const fits = this.candidates(other).some(({ key }) => key === step.input);
      other.input = fits ? step.input : SOURCE;
    }
  }

  move(step, by) {
    const at = this.steps.indexOf(step);
    this.steps.splice(at, 1);
    this.steps.splice(at + by, 0, step);
  }

  /** Why `step` cannot move, in words, or null. A step stays below what it reads. */
  stuck(step, by) {
    const other = this.steps[this.steps.indexOf(step) + by];
    if (!other) return by < 0 ? "already first" : "already last";
    const [upper, lower] = by < 0 ? [other, step] : [step, other];
    const reads = lower.input === upper.key || (Array.isArray(lower.input) && lower.input.includes(upper.key));
    return reads ? `${lower.name} reads ${upper.name}` : null;
  }

  /** The earlier steps that `step` may read. */
  candidates(step) {
    const earlier = this.steps.slice(0, this.steps.indexOf(step));
    if (this.takesMany(step)) return earlier;
    const { kind } = this.operation(step).input;
    return earlier.filter((other) => {
      const { output } = this.operation(other);
      return output.kind === kind && (kind === "pixels" || output.media_type?.startsWith("image/"));
    });
  }

  /** The keys that a step of many inputs takes: those ticked, or every earlier file until the user has ticked. */
  taken(step) {
    if (step.input !== null) return step.input;
    return this.candidates(step)
      .filter((other) => this.operation(other).output.kind === "file" && !this.takesMany(other))
      .map((other) => other.key);
  }

  /** What stands in the way of starting, in words, or null. */
  obstacle() {
    if (this.steps.length === 0) return "add at least one step";
    const empty = this.steps.find((step) => this.takesMany(step) && this.taken(step).length === 0);
    if (empty) return `give ${empty.name} a step to bundle`;
    const lacks = (step) => missing(this.operation(step).parameters, step.params);
    const lacking = this.steps.find(lacks);
    if (lacking) return `give step ${lacking.name} ${lacks(lacking)}`;
    const lost = this.steps.find((step) => this.#partsOf(step).some((name) => !this.files.get(name)));
    return lost ? `choose the file of step ${lost.name} again` : null;
  }

  /** The further files of the request, by the names that steps call them. */
  parts() {
    return Object.fromEntries(this.steps.flatMap((step) => this.#partsOf(step)).map((name) => [name, this.files.get(name)]));
  }

  /** Which step names this part of the request, and in which parameter: [step, parameter], or null. */
  naming(part) {
    const step = this.steps.find((one) => this.#partsOf(one).includes(part));
    return step ? [step, partsIn(this.operation(step).parameters).find((field) => step.params[field] === part)] : null;
  }

  #partsOf(step) {
    return partsIn(this.operation(step).parameters).map((field) => step.params[field]).filter(Boolean);
  }

  /** The `steps` of POST /api/jobs. */
  specification() {
    const names = new Map(this.steps.map((step) => [step.key, step.name]));
    const named = (key) => names.get(key) ?? key;
    return Object.fromEntries(this.steps.map((step) => {
      const input = this.takesMany(step) ? this.taken(step).map(named) : named(step.input);
      return [step.name, { op: step.op, input, ...step.params }];
    }));
  }

  /** Replace everything by the steps of a job; operations that this service no longer has are named in the answer. */
  load(steps) {
    this.steps = [];
    const keys = new Map([[SOURCE, SOURCE]]);
    const unknown = [];
    for (const [name, step] of inOrder(steps)) {
      if (!this.#operations.has(step.op)) {
        unknown.push(name);
        continue;
      }
      const read = step.input.map((input) => keys.get(input)).filter(Boolean);
      const input = this.takesMany(step) ? read : (read[0] ?? SOURCE);
      keys.set(name, this.add(step.op, { name, input, params: step.params }).key);
    }
    this.#missFiles();
    return unknown;
  }

  /** Take back steps as `steps` held them on an earlier visit, unless this service lacks one of their operations. */
  restore(steps) {
    if (!steps.every(({ op }) => this.#operations.has(op))) return;
    this.steps = steps;
    this.#next = 1 + Math.max(-1, ...steps.map(({ key }) => Number(key.split("-")[1])));
    this.#missFiles();
  }

  /** The files that these steps name are not here; none that is chosen now may be taken for one of them. */
  #missFiles() {
    this.files = new PartFiles(this.steps.flatMap((step) => this.#partsOf(step)));
  }

  #unique(wanted) {
    const taken = new Set(this.steps.map((step) => step.name)).add(SOURCE);
    let name = wanted;
    for (let n = 2; taken.has(name); n++) name = `${wanted}-${n}`;
    return name;
  }
}

// Inputs first: the order of a JSON object's members is not a promise.
function inOrder(steps) {
  const placed = new Map();
  const place = (name) => {
    if (placed.has(name) || !steps[name]) return;
    steps[name].input.forEach(place);
    placed.set(name, steps[name]);
  };
  Object.keys(steps).forEach(place);
  return [...placed];
}
