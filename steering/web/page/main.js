/* Live page of a run. Server-sent events name what changed; the figures are then fetched. */

import { $ } from "./dom.js";
import { drawChunks } from "./panels/chunks.js";
import { drawEvents } from "./panels/events.js";
import { drawHeader, drawLink, drawPicker, tick } from "./panels/header.js";
import { drawHistory } from "./panels/history.js";
import { drawMap, redrawMap, wireMap } from "./panels/map.js";
import { drawOrientations } from "./panels/orientations.js";
import { drawParameters } from "./panels/parameters.js";
import { drawTrust } from "./panels/trust.js";
import { drawVerdicts } from "./panels/verdicts.js";
import { drawWorkers } from "./panels/workers.js";
import { follow, get } from "./source.js";

let details = null;
let spectrum = null; // of the run and version that it says
let busy = false;
let again = false;

/** Fetch what is newest and draw it; news that comes meanwhile is fetched after. */
async function refresh() {
  if (busy) { again = true; return; }
  busy = true;
  try {
    const { runs } = await get("/runs");
    const chosen = choose(runs);
    drawPicker(runs, chosen);
    if (chosen !== null) await load(chosen);
    show(chosen === null ? "empty" : "live");
    if (chosen !== null) draw();
    drawLink(true);
  } catch (error) {
    console.warn(error);
    drawLink(false);
  } finally {
    busy = false;
    if (again) { again = false; refresh(); }
  }
}

/** The run that the address asks for, else the one updated last; null without runs. */
function choose(runs) {
  const asked = new URLSearchParams(location.hash.slice(1)).get("run");
  const names = runs.map((run) => run.run_id);
  return names.includes(asked) ? asked : names[0] ?? null;
}

async function load(runId) {
  const path = `/runs/${encodeURIComponent(runId)}`;
  const run = await get(path);
  if (!run.has_spectrum) spectrum = null;
  else if (spectrum?.runId !== run.run_id || spectrum.view.version !== run.version) {
    spectrum = { runId: run.run_id, view: await get(`${path}/spectrum`) };
  }
  details = run;
}

function show(which) { for (const id of ["empty", "live"]) $(id).hidden = id !== which; }

function draw() {
  drawHeader(details);
  drawVerdicts(details);
  drawTrust(details);
  drawMap(spectrum?.view ?? null, details.run_id);
  drawHistory(details);
  drawOrientations(details);
  drawParameters(details);
  drawChunks(details);
  drawEvents(details);
}

wireMap();
$("runs").addEventListener("change", (event) => { location.hash = new URLSearchParams({ run: event.target.value }).toString(); });
addEventListener("hashchange", refresh);
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => { if (details) { redrawMap(); drawHistory(details); } }, 150);
});
async function lookAtWorkers() {
  try { drawWorkers((await get("/workers")).workers); } catch (error) { console.warn(error); }
}
setInterval(lookAtWorkers, 2000);
lookAtWorkers();
setInterval(tick, 1000);
follow(refresh, () => drawLink(false));
refresh();
