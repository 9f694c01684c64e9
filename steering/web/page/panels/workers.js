/* Workers of the live streams that do not do their work; nothing is shown while all do. */

import { $, element } from "../dom.js";

const since = (worker) => new Date(worker.heard_ns / 1e6).toLocaleTimeString();

export function drawWorkers(workers) {
  const faulty = workers.filter((worker) => ["dead", "not ready"].includes(worker.state));
  $("workers").hidden = faulty.length === 0;
  $("workers").replaceChildren(...faulty.map((worker) => element("p", {
    className: "failure",
    textContent: worker.state === "dead"
      ? `Dead since ${since(worker)}: ${worker.reasons.join(" ")}`
      : `${worker.service} does not do its work: ${worker.reasons.join(" ")}`,
  })));
}
