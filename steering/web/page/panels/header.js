/* Title, setting and state of the run. */

import { $, element, text, tone } from "../dom.js";
import { digits, known } from "../format.js";

/** Runs to choose from; hidden where there is only one. */
export function drawPicker(runs, chosen) {
  $("picker").hidden = runs.length < 2;
  $("runs").replaceChildren(...runs.map((run) => element("option", {
    value: run.run_id, textContent: `${run.run_id} (${run.status})`, selected: run.run_id === chosen,
  })));
}

export function drawHeader(run) {
  document.title = `${run.title} – Beamsteer`;
  text("title", run.title);
  const { sample = {}, instrument = {} } = run.experiment || {};
  text("setting", [
    sample.structure,
    instrument.name,
    known(instrument.ei_meV) && `Ei ${digits(instrument.ei_meV)} meV`,
    known(sample.temperature_K) && `${digits(sample.temperature_K)} K`,
    instrument.coarsen > 1 && `pixels coarsened ×${instrument.coarsen}`,
  ].filter(Boolean).join(" · "));
  $("to-models").href = `/models?run=${encodeURIComponent(run.run_id)}`;
  const status = $("status");
  status.hidden = false;
  status.textContent = run.status;
  tone(status, run.status === "failed" ? "bad" : run.status === "running" ? "good" : "");
  $("failure").hidden = !run.error;
  text("failure", run.error && `${run.status === "failed" ? "The run failed" : "The run goes on, but"}: ${run.error}`);
}
