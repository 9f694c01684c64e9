/* Workers that do not do their work, but for those whose silence the shown run tells itself. */

import { aged } from "../clock.js";
import { $, element } from "../dom.js";

export function drawWorkers(workers, runId) {
  const faulty = workers.filter((worker) => ["dead", "not ready"].includes(worker.state) && !(runId in (worker.runs ?? {})));
  $("workers").hidden = faulty.length === 0;
  $("workers").replaceChildren(...faulty.map((worker) => element("p", {
    className: "failure",
    textContent: worker.state === "dead"
      ? `Dead for ${aged(worker.silent_s ?? 0)}: ${worker.reasons.join(" ")}`
      : `${worker.service} does not do its work: ${worker.reasons.join(" ")}`,
  })));
}

/** Runs that are folded and not estimated yet, while there is none to show. */
export function drawWaiting(workers) {
  const runs = workers.flatMap((worker) => Object.entries(worker.runs ?? {})).filter(([, progress]) => progress.folded > 0);
  $("waiting").hidden = runs.length === 0;
  $("waiting").replaceChildren(...runs.map(([name, progress]) => element("p", { textContent: `${name}: ${progress.folded} folded, no estimate yet. Does “beamsteer model-server” run on its state folder?` })));
}
