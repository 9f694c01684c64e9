/* Nodes of the page. What comes from a run only ever becomes text or a style, never markup. */

export const $ = (id) => document.getElementById(id);

export function text(id, value) { $(id).textContent = value ?? ""; }

/** Colour of a node's verdict: "good", "warn", "bad", or none ("plain", "old"). */
export function tone(node, name) {
  node.classList.remove("good", "warn", "bad");
  if (name) node.classList.add(name);
}

export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "style") Object.assign(node.style, value); else node[key] = value;
  }
  node.append(...children);
  return node;
}

export const cell = (value, className = "") => element("td", { className, textContent: value });

/** Fill a table; where there is nothing to show it says why. */
export function rows(id, made, nothing = null) {
  const body = $(id).querySelector("tbody");
  if (made.length || nothing === null) { body.replaceChildren(...made); return; }
  const columns = $(id).querySelectorAll("thead th").length || 1;
  body.replaceChildren(element("tr", {}, element("td", { colSpan: columns, className: "wrap", textContent: nothing })));
}
