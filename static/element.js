// The one way this page makes DOM: text goes in as text nodes, so nothing a job says can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** el("a", {href, class, on: {click}}, "text", node): null, undefined and false children are left out. */
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

export function fill(node, ...children) {
  node.replaceChildren(...present(children));
  return node;
}

/** A shape from icons.svg; it repeats what the words beside it say, so it is hidden from screen readers. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `/static/icons.svg#${name}`);
  svg.setAttribute("class", `icon icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

const signatures = new WeakMap();

/** Make `parent` hold one child per item, keeping the child (its focus, its loaded picture) while its signature stays. */
export function keep(parent, items, { key, signature, create, refresh = () => {} }) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const children = items.map((item) => {
    const kept = old.get(key(item));
    const child = kept && signatures.get(kept) === signature(item) ? kept : create(item);
    child.dataset.key = key(item);
    signatures.set(child, signature(item));
    refresh(child, item);
    return child;
  });
  // A child that stays is never taken out, for that would take its focus.
  const staying = new Set(children);
  for (const child of old.values()) if (!staying.has(child)) child.remove();
  children.forEach((child, i) => { if (child !== parent.children[i]) parent.insertBefore(child, parent.children[i] ?? null); });
}

function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}
