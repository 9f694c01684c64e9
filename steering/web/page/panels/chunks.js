/* What became of every chunk: those set aside first, with the reason. */

import { cell, element, rows, text } from "../dom.js";
import { digits, known, whole } from "../format.js";

const NEWEST = 40;

export function drawChunks({ chunks }) {
  const folded = chunks.filter((chunk) => chunk.status === "folded");
  const aside = chunks.filter((chunk) => chunk.status !== "folded");
  text("chunk-count", `${folded.length} folded, ${aside.length} set aside`);
  rows("chunks", [
    ...aside.reverse().map((chunk) => element("tr", { className: "aside" }, cell(`⚠ ${chunk.chunk}`, "left"), element("td", { className: "wrap", colSpan: 3, textContent: `${chunk.status}: ${chunk.reason || "no reason given"}` }))),
    ...folded.slice(-NEWEST).reverse().map((chunk) => element("tr", {}, cell(chunk.chunk, "left"), cell(known(chunk.psi_deg) ? `${digits(chunk.psi_deg)}°` : "–"), cell(digits(chunk.minutes, 3)), cell(`${whole(chunk.events.folded)} of ${whole(chunk.events.read)}`))),
  ], "None has arrived yet.");
}
