/* Title, setting and state of the run; whether the page is connected. */

import { $, element, text, tone } from "../dom.js";
import { digits, known } from "../format.js";

let connected = false;
let shown = null;

/** Runs to choose from; hidden where there is only one. */
export function drawPicker(runs, chosen) {
  $("picker").hidden = runs.length < 2;
  $("runs").replaceChildren(...runs.map((run) => element("option", {
    value: run.run_id, textContent: `${run.run_id} (${run.status})`, selected: run.run_id === chosen,
  })));
}

export function drawHeader(run) {
  shown = run;
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
  const status = $("status");
  status.hidden = false;
  status.textContent = run.status;
  tone(status, run.status === "failed" ? "bad" : run.status === "running" ? "good" : "");
  $("failure").hidden = !run.error;
  text("failure", run.error && `${run.status === "failed" ? "The run failed" : "The run goes on, but"}: ${run.error}`);
}

export function drawLink(is) {
  connected = is;
  if (is) { tick(); return; }
  tone($("link"), "bad");
  text("link", "connection lost, trying again");
}

function aged(seconds) {
  if (seconds < 90) return `live, ${seconds.toFixed(0)} s ago`;
  return seconds < 5400 ? `last chunk ${(seconds / 60).toFixed(0)} min ago` : `last chunk ${(seconds / 3600).toFixed(0)} h ago`;
}

/** Tell the age of what is shown; called every second. */
export function tick() {
  if (!connected) return;
  if (!shown || shown.status !== "running") { text("link", "connected"); tone($("link"), "good"); return; }
  const age = Math.max(0, Date.now() / 1000 - shown.updated_ns / 1e9);
  tone($("link"), age > 600 ? "warn" : "good");
  text("link", aged(age));
}
