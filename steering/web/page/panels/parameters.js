/* The newest parameters, and how far each is from its target. */

import { cell, element, rows, text } from "../dom.js";
import { decimals, digits, fixed, known } from "../format.js";
import { isMet, targetOf } from "../targets.js";

export function drawParameters({ result }) {
  const parameters = result?.parameters ?? [];
  text("unit", parameters[0]?.unit ? `${parameters[0].unit.replace("angstrom^2", "Å²")}, σ = 68 %` : "");
  rows("parameters", parameters.map((one) => {
    const n = decimals(one.sigma);
    return element("tr", {}, cell(one.name, "left"), cell(fixed(one.value, n)), cell(`± ${fixed(one.sigma, n)}`), element("td", { className: "left" }, gauge(one.sigma, targetOf(result, one.name))));
  }), "Comes with the first estimate.");
}

// The mark in the middle is the target.
function gauge(sigma, target) {
  const node = element("div", { className: "gauge" });
  if (!target || !known(sigma) || !known(target.sigma)) return node;
  const ratio = sigma / target.sigma, met = isMet(target, sigma);
  const fill = element("i", { className: met ? "" : "over", style: { width: `${Math.min(100, 50 * ratio)}%` } });
  node.append(
    element("div", { className: "track" }, fill, element("b", { style: { left: "50%" } })),
    element("span", { textContent: met ? "✓ met" : `${digits(ratio, 2)}×` }));
  return node;
}
