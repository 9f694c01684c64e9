/* The newest parameters, how far each is from its target, and how far the set-up is off. */

import { $, cell, element, rows, text } from "../dom.js";
import { decimals, digits, fixed, known } from "../format.js";
import { isMet, targetOf } from "../targets.js";

export function drawParameters({ result }) {
  const parameters = result?.parameters ?? [];
  $("parameters").classList.toggle("unsure", result?.trusted === false);
  $("other-parameters").classList.toggle("unsure", result?.trusted === false);
  text("unsure", result?.trusted === false ? `${result.trust === "cannot tell yet" ? "Cannot tell yet" : "Not trusted"}: these figures claim nothing, and no target counts as met.` : "");
  text("unit", parameters[0]?.unit ? `${parameters[0].unit.replace("angstrom^2", "Å²")}, σ = 68 %` : "");
  rows("parameters", parameters.filter((one) => targetOf(result, one.name) || !result.targets).map((one) => row(result, one)), "Comes with the first estimate.");
  const others = result?.targets ? parameters.filter((one) => !targetOf(result, one.name)) : [];
  $("others").hidden = !others.length;
  text("others-title", `${others.length} more that are fitted with them`);
  rows("other-parameters", others.map((one) => row(result, one)));
  const setUp = result?.set_up ?? [];
  $("set-up").hidden = !setUp.length;
  rows("set-up-rows", setUp.map((one) => {
    const n = decimals(one.sigma);
    return element("tr", {}, cell(one.name, "left"), cell(fixed(one.value, n)), cell(`± ${fixed(one.sigma, n)}`), cell(`${one.unit}, before ± ${digits(one.prior_sigma, 2)}`, "left note"));
  }));
}

function row(result, one) {
  const n = decimals(one.sigma), target = targetOf(result, one.name);
  const last = target ? (result.trusted ? gauge(one.sigma, target) : element("span", { className: "note", textContent: "not judged" })) : element("span", { className: "note", textContent: one.informed === false ? "still the prior’s" : "" });
  return element("tr", {}, cell(one.name, "left"), cell(fixed(one.value, n)), cell(`± ${fixed(one.sigma, n)}`), element("td", { className: "left" }, last));
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
