// Creates and updates DOM nodes. Text is always inserted as text nodes, so no text of a job can become markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Create an element: el("a", {href, class, on: {click}}, "text", node). `on` holds event listeners. An attribute or
 * child that is null, undefined or false is left out.
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") Object.entries(value).forEach(([type, listener]) => node.addEventListener(type, listener));
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...present(children));
  return node;
}

/** Replace the children of `node`, and return it. */
export function fill(node, ...children) {
  node.replaceChildren(...present(children));
  return node;
}

/** Return the children for a text of the service: each name between backticks becomes a `code` element. */
export function prose(text) {
  return text.split(/`([^`]+)`/).map((piece, i) => (i % 2 ? el("code", {}, piece) : piece));
}

/** Create an icon of icons.svg. Screen readers skip it, because the text beside it says the same. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `/static/icons.svg#${name}`);
  svg.setAttribute("class", `icon icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

const versions = new WeakMap();

/**
 * Make `parent` hold one child per item, in the order of the items. While `key(item)` and `version(item)` do not
 * change, the item keeps its child, and so the child keeps its focus and its loaded image. Otherwise `create(item)`
 * makes a new child. `update(child, item)` is called for every child.
 */
export function reconcileChildren(parent, items, { key, version, create, update = () => {} }) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const children = items.map((item) => {
    const existing = old.get(key(item));
    const child = existing && versions.get(existing) === version(item) ? existing : create(item);
    child.dataset.key = key(item);
    versions.set(child, version(item));
    update(child, item);
    return child;
  });
  // A child that stays is never removed and inserted again, because that would take its focus.
  const staying = new Set(children);
  for (const child of old.values()) if (!staying.has(child)) child.remove();
  children.forEach((child, i) => { if (child !== parent.children[i]) parent.insertBefore(child, parent.children[i] ?? null); });
}

function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}
