/* Where the events went; none may be lost. */

import { $, cell, element, rows, text } from "../dom.js";
import { whole } from "../format.js";

const KINDS = [
  ["folded", "folded into the path", "#56b4e9"],
  ["outside_path", "outside the path", "#6b7a89"],
  ["outside_energy", "outside the energy axis", "#9aa7b3"],
  ["masked", "in masked pixels", "#cc79a7"],
  ["filtered", "filtered by the source", "#e69f00"],
];

export function drawEvents({ result }) {
  if (!result) {
    $("events-bar").replaceChildren();
    rows("events", []);
    text("events-check", "No events yet.");
    return;
  }
  const { events } = result;
  const total = events.read || 1;
  $("events-bar").replaceChildren(...KINDS.map(([kind, label, color]) => element("span", { title: `${label}: ${whole(events[kind])}`, style: { background: color, flexGrow: String(events[kind] / total) } })));
  rows("events", KINDS.map(([kind, label, color]) => element("tr", {}, element("td", { className: "left" }, element("span", { className: "swatch", style: { background: color } }), label), cell(whole(events[kind])), cell(`${(100 * events[kind] / total).toFixed(1)} %`))));
  const lost = events.read - KINDS.reduce((sum, [kind]) => sum + events[kind], 0);
  text("events-check", lost === 0 ? `✓ ${whole(events.read)} read, all accounted for.` : `⚠ ${whole(events.read)} read, ${whole(lost)} not accounted for.`);
}
