// The job that the user is building: its steps, the rules that say which steps a step may read, and the webhook URL.
// This module does not use the DOM.
//
// A step is {key, op, name, input, params}. Inputs refer to steps by key and not by name, so a step can be renamed.
// `input` is "source" or a key. If the operation takes many inputs (a bundle), `input` is a list of keys, or null until
// the user has chosen the inputs.

import { PartFiles } from "/static/part-files.js";
import { missing, partParameters } from "/static/schema.js";

/** The input that stands for the photo. */
export const SOURCE = "source";

const STEP_NAME = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/; // the service's rule: NAME in dag/plan.py

/** A list of steps with their part files, and the URL of the receiver that hears about the end of the job. */
export class Draft {
  steps = [];
  webhookUrl = "";
  files = new PartFiles(); // kept apart from the steps, because files do not survive a reload
  #operations;
  #nextKey = 0;

  constructor(operations) {
    this.#operations = new Map(operations.map((operation) => [operation.op, operation]));
  }

  /** The operation of a step, as the catalog describes it. */
  operation(step) {
    return this.#operations.get(step.op);
  }

  /** Whether a step may have more than one input. */
  takesMany(step) {
    return (this.operation(step).input.max ?? Infinity) > 1;
  }

  /**
   * Add a step and return it. At the end of the list there may be bundles whose inputs the user has not chosen. The
   * step goes above them, so that they include its file.
   *
   * If `input` is missing and the step reads pixels, the input is the last step that makes pixels. So an encoder after
   * a resize encodes the small picture.
   */
  add(op, { name = op, input, params = {} } = {}) {
    const step = { key: `step-${this.#nextKey++}`, op, name: this.#unusedName(name), params };
    const many = this.takesMany(step);
    step.input = input ?? (many ? null : SOURCE);
    let at = this.steps.length;
    while (!many && at > 0 && this.steps[at - 1].input === null) at--;
    this.steps.splice(at, 0, step);
    if (input === undefined && this.operation(step).input.kind === "pixels") step.input = this.candidates(step).at(-1)?.key ?? SOURCE;
    return step;
  }

  /** Remove a step. Steps that read the removed step now read its input if they can, otherwise the source. */
  remove(step) {
    this.steps = this.steps.filter((other) => other !== step);
    for (const other of this.steps) {
      if (Array.isArray(other.input)) other.input = other.input.filter((key) => key !== step.key);
      if (other.input !== step.key) continue;
      const fits = this.candidates(other).some(({ key }) => key === step.input);
      other.input = fits ? step.input : SOURCE;
    }
  }

  /** Move a step by -1 (up) or 1 (down). */
  move(step, by) {
    const at = this.steps.indexOf(step);
    this.steps.splice(at, 1);
    this.steps.splice(at + by, 0, step);
  }

  /** The reason why a step cannot move by -1 or 1, in words, or null. A step stays below the steps that it reads. */
  moveObstacle(step, by) {
    const other = this.steps[this.steps.indexOf(step) + by];
    if (!other) return by < 0 ? "already first" : "already last";
    const [upper, lower] = by < 0 ? [other, step] : [step, other];
    const reads = lower.input === upper.key || (Array.isArray(lower.input) && lower.input.includes(upper.key));
    return reads ? `${lower.name} reads ${upper.name}` : null;
  }

  /** The earlier steps that a step may read. */
  candidates(step) {
    const earlier = this.steps.slice(0, this.steps.indexOf(step));
    if (this.takesMany(step)) return earlier;
    const { kind } = this.operation(step).input;
    return earlier.filter((other) => {
      const { output } = this.operation(other);
      return output.kind === kind && (kind === "pixels" || output.media_type?.startsWith("image/"));
    });
  }

  /**
   * The keys of the steps that a bundle reads. Until the user has chosen, these are all earlier steps that make a file,
   * except bundles.
   */
  inputsOf(step) {
    if (step.input !== null) return step.input;
    return this.candidates(step)
      .filter((other) => this.operation(other).output.kind === "file" && !this.takesMany(other))
      .map((other) => other.key);
  }

  /** The reason why the service would refuse the name of a step, as a sentence, or null. */
  nameFault(step) {
    if (step.name === "") return "Give this step a name.";
    if (step.name === SOURCE) return "“source” is the name of the photo. Choose another name.";
    if (!STEP_NAME.test(step.name)) return "Use up to 64 letters (A to Z), digits, - and _, and start with a letter or a digit.";
    const twin = this.#twinOf(step);
    if (!twin) return null;
    const difference = twin.name === step.name ? "has the same name" : `is called ${twin.name}, which differs only in case`;
    return `Step ${this.#numberOf(twin)} ${difference}. Change one of the names.`;
  }

  /** The action that the user must take before the job can start ("add at least one step"), or null. */
  obstacle() {
    if (this.steps.length === 0) return "add at least one step";
    const misnamed = this.steps.find((step) => this.nameFault(step));
    if (misnamed) return this.#renaming(misnamed);
    const empty = this.steps.find((step) => this.takesMany(step) && this.inputsOf(step).length === 0);
    if (empty) return `give step ${empty.name} something to bundle`;
    const lacks = (step) => missing(this.operation(step).parameters, step.params);
    const lacking = this.steps.find(lacks);
    if (lacking) return `give step ${lacking.name} ${lacks(lacking)}`;
    const lost = this.steps.find((step) => this.#partsOf(step).some((name) => !this.files.get(name)));
    return lost ? `choose the file of step ${lost.name} again` : null;
  }

  /** The part files of the request, by the names of the parts. */
  parts() {
    return Object.fromEntries(this.steps.flatMap((step) => this.#partsOf(step)).map((name) => [name, this.files.get(name)]));
  }

  /** The first step that uses a part, and its parameter whose value is the part: [step, parameter], or null. */
  userOfPart(part) {
    const step = this.steps.find((one) => this.#partsOf(one).includes(part));
    return step ? [step, partParameters(this.operation(step).parameters).find((parameter) => step.params[parameter] === part)] : null;
  }

  /** The value of `steps` in POST /api/jobs. */
  specification() {
    const names = new Map(this.steps.map((step) => [step.key, step.name]));
    const nameOf = (key) => names.get(key) ?? key;
    return Object.fromEntries(this.steps.map((step) => {
      const input = this.takesMany(step) ? this.inputsOf(step).map(nameOf) : nameOf(step.input);
      return [step.name, { op: step.op, input, ...step.params }];
    }));
  }

  /** Replace all steps by the steps of a job. Returns the names of steps whose operation the service does not have. */
  load(steps) {
    this.steps = [];
    const keys = new Map([[SOURCE, SOURCE]]);
    const unknown = [];
    for (const [name, step] of inputsFirst(steps)) {
      if (!this.#operations.has(step.op)) {
        unknown.push(name);
        continue;
      }
      const read = step.input.map((input) => keys.get(input)).filter(Boolean);
      const input = this.takesMany(step) ? read : (read[0] ?? SOURCE);
      keys.set(name, this.add(step.op, { name, input, params: step.params }).key);
    }
    this.#forgetFiles();
    return unknown;
  }

  /**
   * Replace the webhook URL and all steps by those that the page stored before a reload. The steps stay as they are if
   * the service does not have one of their operations.
   */
  restore({ steps, webhookUrl }) {
    this.webhookUrl = webhookUrl;
    if (!steps.every(({ op }) => this.#operations.has(op))) return;
    this.steps = steps;
    this.#nextKey = 1 + Math.max(-1, ...steps.map(({ key }) => Number(key.split("-")[1])));
    this.#forgetFiles();
  }

  #numberOf(step) {
    return this.steps.indexOf(step) + 1;
  }

  #twinOf(step) {
    return this.steps.find((other) => other !== step && other.name.toLowerCase() === step.name.toLowerCase());
  }

  #renaming(step) {
    const [number, twin] = [this.#numberOf(step), this.#twinOf(step)];
    if (step.name === "") return `give step ${number} a name`;
    return twin ? `give steps ${number} and ${this.#numberOf(twin)} different names` : `change the name “${step.name}” of step ${number}`;
  }

  #partsOf(step) {
    return partParameters(this.operation(step).parameters).map((parameter) => step.params[parameter]).filter(Boolean);
  }

  // Loaded steps refer to parts by name, but the page does not have the files of these parts. The names stay reserved.
  // Otherwise a new file with the same name would silently replace a missing file.
  #forgetFiles() {
    this.files = new PartFiles(this.steps.flatMap((step) => this.#partsOf(step)));
  }

  #unusedName(wanted) {
    const used = new Set(this.steps.map((step) => step.name.toLowerCase())).add(SOURCE);
    let name = wanted;
    for (let n = 2; used.has(name.toLowerCase()); n++) name = `${wanted}-${n}`;
    return name;
  }
}

// JSON does not guarantee the order of the members of an object. So inputs are placed before the steps that read them.
function inputsFirst(steps) {
  const placed = new Map();
  const place = (name) => {
    if (placed.has(name) || !steps[name]) return;
    steps[name].input.forEach(place);
    placed.set(name, steps[name]);
  };
  Object.keys(steps).forEach(place);
  return [...placed];
}
