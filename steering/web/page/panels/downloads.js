/* What can be taken away of the run; asked for when somebody looks. */

import { $, element } from "../dom.js";
import { ask } from "../source.js";

let shown = null; // run and version of the list
let run = null; // that is shown now

export function wireDownloads() { $("downloads").addEventListener("toggle", fill); }

export function drawDownloads(details) {
  run = details;
  $("downloads").hidden = false;
  fill().catch(console.warn);
}

async function fill() {
  const mark = run && `${run.run_id} ${run.version}`;
  if (!run || !$("downloads").open || shown === mark) return;
  const path = `/runs/${encodeURIComponent(run.run_id)}/downloads`, { downloads } = await ask(path);
  shown = mark;
  $("downloads-list").replaceChildren(...downloads.map((one) => (one.why_not === null
    ? element("li", {}, element("a", { href: `${path}/${one.name}`, download: "", textContent: one.name }), ` ${one.about}`)
    : element("li", { className: "none", textContent: `${one.name}: none. ${one.why_not}` }))));
}
