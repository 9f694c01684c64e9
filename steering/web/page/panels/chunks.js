/* What became of every chunk: those set aside first, each with its whole reason. */

import { $, cell, element, rows, text } from "../dom.js";
import { digits, known, whole } from "../format.js";
import { restoring, withdrawing } from "./actions.js";

const NEWEST = 40;

export function drawChunks({ chunks }) {
  const folded = chunks.filter((chunk) => chunk.status === "folded");
  const aside = chunks.filter((chunk) => chunk.status !== "folded");
  const withdrawn = aside.filter((chunk) => chunk.status === "withdrawn").length;
  text("chunk-count", `${folded.length} folded, ${aside.length - withdrawn} set aside${withdrawn ? `, ${withdrawn} withdrawn` : ""}`);
  $("aside").hidden = aside.length === 0;
  $("aside").replaceChildren(...aside.reverse().map((chunk) => element("li", {}, element("b", { textContent: `⚠ ${chunk.chunk}` }), ` ${chunk.status}: ${chunk.reason || "no reason given"} `, restoring(chunk))));
  rows("chunks", [
    ...folded.slice(-NEWEST).reverse().map((chunk) => element("tr", {}, cell(chunk.chunk, "left"), cell(known(chunk.psi_deg) ? `${digits(chunk.psi_deg)}°` : "–"), cell(digits(chunk.minutes, 3)), cell(`${whole(chunk.events.folded)} of ${whole(chunk.events.read)}`), element("td", { className: "act" }, withdrawing(chunk)))),
  ], "None has arrived yet.");
}
