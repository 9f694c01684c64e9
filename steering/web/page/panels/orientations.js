/* Where to turn next: a ranking, and where psi may go and has been. */

import { $, cell, element, rows, text } from "../dom.js";
import { digits, known } from "../format.js";
import { deciding } from "./actions.js";

const SHOWN = 8;
const SVG = "http://www.w3.org/2000/svg";
const POLICY = { information: "best first, by information", falsification: "falsification: chosen to test the model" };

export function drawOrientations(run, verdict) {
  const { code } = verdict.advice;
  const claimed = code === "turn"; // of a dwell
  const advice = code === "hidden" ? [] : run.result?.advice ?? [];
  const policy = run.result?.policy;
  text("policy", code === "hidden" ? "" : POLICY[policy] ?? (policy ? `best first, by ${policy}` : "best first"));
  const most = Math.max(...advice.map((one) => one.gain_per_minute).filter(known), 1e-12);
  $("ranking").classList.toggle("unsure", !claimed);
  rows("ranking", advice.slice(0, SHOWN).map((one, i) => ranked(one, i, most, claimed)), code === "hidden" ? "Nowhere: the advice is to stop." : run.result ? "No orientation is worth a move." : "Comes with the first estimate.");
  drawStrip(run, advice);
}

function ranked(one, i, most, claimed) {
  const fill = element("i", { style: { width: `${Math.max(0, 100 * (one.gain_per_minute || 0) / most)}%` } });
  const gauge = element("div", { className: "gauge" }, element("div", { className: "track" }, fill), element("span", { textContent: digits(one.gain_per_minute, 3) }));
  return element("tr", { className: i ? "" : "best" }, cell(String(i + 1)), element("td", { textContent: `${digits(one.psi_deg)}°` }, ...(one.wanted ? [element("small", { textContent: one.wanted })] : [])), cell(`${digits(one.ei_meV)} meV`), cell(claimed ? `${digits(one.minutes, 3)} min` : "to test"), element("td", { className: "left" }, gauge), element("td", { className: "act" }, deciding(one)));
}

// Bars: where psi has been. Numbered diamonds: what is advised.
function drawStrip(run, advice) {
  const measured = run.chunks.filter((chunk) => chunk.status === "folded" && known(chunk.psi_deg));
  const limits = run.experiment?.motion?.limits_deg ?? [];
  const all = [...measured.map((chunk) => chunk.psi_deg), ...advice.map((one) => one.psi_deg), ...limits].filter(known);
  if (!all.length) { $("strip").replaceChildren(); return; }
  let low = Math.min(...all), high = Math.max(...all);
  if (high - low < 1) { low -= 5; high += 5; }
  const at = (psi) => 14 + 372 * (psi - low) / (high - low);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 400 64");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `psi from ${low} to ${high} degrees: ${measured.length} measured, ${advice.length} advised`);
  const add = (tag, properties, content) => {
    const node = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(properties)) node.setAttribute(key, value);
    if (content !== undefined) node.textContent = content;
    svg.append(node);
  };
  add("line", { x1: 14, x2: 386, y1: 40, y2: 40, stroke: "#5b6b7b", "stroke-width": 1.5 });
  for (let i = 0; i <= 4; i++) {
    const psi = low + (high - low) * i / 4;
    add("line", { x1: at(psi), x2: at(psi), y1: 40, y2: 45, stroke: "#5b6b7b" });
    add("text", { x: at(psi), y: 58, fill: "#a3b1c0", "font-size": 11.5, "text-anchor": "middle" }, `${digits(psi, 3)}°`);
  }
  for (const chunk of measured) add("line", { x1: at(chunk.psi_deg), x2: at(chunk.psi_deg), y1: 27, y2: 40, stroke: "#56b4e9", "stroke-width": 3 });
  advice.slice(0, SHOWN).reverse().forEach((one, i, shown) => {
    if (!known(one.psi_deg)) return;
    const rank = shown.length - i, x = at(one.psi_deg), y = 15, r = rank === 1 ? 11 : 8.5;
    add("path", { d: `M${x} ${y - r}L${x + r} ${y}L${x} ${y + r}L${x - r} ${y}Z`, fill: rank === 1 ? "#f0e442" : "#151c25", stroke: "#f0e442", "stroke-width": 1.3 });
    add("text", { x, y: y + 4, "font-size": 11, "font-weight": 700, fill: rank === 1 ? "#10161d" : "#f0e442", "text-anchor": "middle" }, String(rank));
  });
  $("strip").replaceChildren(svg);
}
