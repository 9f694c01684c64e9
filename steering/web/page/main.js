/* Live page of a run. Server-sent events name what changed; the figures are then fetched. */

import { actions, forgetActions, learnActions } from "./acting.js";
import { wireDialog } from "./dialog.js";
import { $ } from "./dom.js";
import { forget, heard, reached, tick, unheard } from "./freshness.js";
import { drawActions, drawWho, drawWishes, wireWho } from "./panels/actions.js";
import { learnAlarms, serverGone, wireAlarms } from "./panels/alarms.js";
import { drawChunks } from "./panels/chunks.js";
import { drawCompare, wireCompare } from "./panels/compare.js";
import { drawDownloads, wireDownloads } from "./panels/downloads.js";
import { drawEvents } from "./panels/events.js";
import { drawHeader, drawPicker } from "./panels/header.js";
import { drawHistory } from "./panels/history.js";
import { drawMap, drawOpenLayer, redrawMap, showsOpen, wireMap } from "./panels/map.js";
import { learnOpen } from "./panels/open.js";
import { drawOrientations } from "./panels/orientations.js";
import { drawParameters } from "./panels/parameters.js";
import { drawReach } from "./panels/reach.js";
import { drawVerdicts } from "./panels/verdicts.js";
import { drawWaiting, drawWorkers } from "./panels/workers.js";
import { unpressed } from "./press.js";
import { ask, follow, get } from "./source.js";
import { drawWall, onWall, wireWall } from "./wall.js";

let details = null;
let verdict = null; // of the run that is shown
let wanted = null; // its name
let spectrum = null; // of the run and version that it says
let reach = null; // the same of what orientations reach
let listed = []; // all runs
let busy = false;
let again = false;

/** Fetch what is newest and draw it; news that comes meanwhile is fetched after. */
async function refresh() {
  if (busy) { again = true; return; }
  busy = true;
  try {
    const { runs } = await get("/runs");
    const chosen = choose(runs);
    listed = runs;
    drawPicker(runs, chosen);
    if (chosen !== null) await load(chosen);
    else { details = verdict = null; forget(); }
    show(chosen === null ? "empty" : "live");
    if (chosen !== null) unpressed(draw);
    reached();
  } catch (error) {
    console.warn(error);
    unheard();
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
  wanted = runId;
  const run = await get(path);
  if (!run.has_spectrum) spectrum = null;
  else if (onWall) spectrum = null; // four words need no map
  else if (spectrum?.runId !== run.run_id || spectrum.view.version !== run.version) {
    spectrum = { runId: run.run_id, view: await get(`${path}/spectrum`) };
    reach = await get(`${path}/reach`).catch((error) => { if (error.status === 404) return null; throw error; });
  }
  await judge(runId);
  if (actions()?.run_id !== runId) forgetActions();
  await learnActions(runId);
  details = run;
}

/** Ask what is said of a run now; its age is told by the server's clock. */
async function judge(runId) {
  const asked = Date.now();
  const newest = await ask(`/runs/${encodeURIComponent(runId)}/verdict`);
  if (runId !== wanted) return; // another run was chosen meanwhile
  verdict = newest;
  heard(newest, asked, Date.now());
}

function show(which) { for (const id of ["empty", "live"]) $(id).hidden = id !== which; }

function draw() {
  if (!details) return; // there was a run when it was asked for
  drawHeader(details);
  drawVerdicts(verdict);
  drawWall(details);
  if (onWall) return;
  drawMap(spectrum?.view ?? null, details.run_id);
  drawReach(reach, spectrum?.view ?? null);
  drawHistory(details);
  drawOrientations(details, verdict);
  drawParameters(details);
  drawEvents(details);
  drawDownloads(details);
  drawCompare(listed, details, spectrum?.view ?? null);
  drawAsked();
}

/** What people asked for, and wherever they may ask for more. */
function drawAsked() {
  drawWho();
  drawActions(details);
  drawWishes();
  drawChunks(details);
  drawOrientations(details, verdict);
}

wireWall();
wireAlarms();
wireMap();
$("open-layer").addEventListener("click", () => { openAsked = -Infinity; look(); });
wireWho();
wireDownloads();
wireCompare();
wireDialog(() => { if (details) learnActions(details.run_id).then(() => unpressed(drawAsked), console.warn); });
$("runs").addEventListener("change", (event) => { location.hash = new URLSearchParams({ run: event.target.value }).toString(); });
addEventListener("hashchange", refresh);
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => { if (details && onWall) drawWall(details);
    else if (details) { redrawMap(); drawHistory(details); } }, 150);
});
let looking = false;

const OPEN_EVERY_MS = 5000; // a worker looks no more often
let openAsked = -Infinity;

/** Ask for the dwell that is open, where it may be one of this run; its counts if they are shown. */
async function lookAtOpen() {
  if (onWall || performance.now() - openAsked < OPEN_EVERY_MS) return;
  openAsked = performance.now();
  const runId = details.run_id, path = `/runs/${encodeURIComponent(runId)}/open-dwell?counts=`;
  const told = details.status === "running"
    ? await ask(path + showsOpen()).catch((error) => { if (error.status === 404) return null; throw error; })
    : null;
  if (runId !== details.run_id) return;
  learnOpen(told);
  drawOpenLayer();
}

/** Ask again and again how the run and its workers are: what is wrong must be told in seconds. */
async function look() {
  if (looking || busy) return; // what is drawn next asks too
  looking = true;
  try {
    if (details) {
      await judge(details.run_id);
      drawVerdicts(verdict);
      drawWall(details);
      if (await learnActions(details.run_id) && !onWall) unpressed(drawAsked);
      await lookAtOpen();
      if (verdict.version !== details.version) refresh();
    }
    const { workers } = await ask("/workers");
    drawWorkers(workers, details?.run_id);
    drawWaiting(workers);
    await learnAlarms();
    reached();
    serverGone(false);
  } catch (error) {
    console.warn(error);
    if (error.status === 401) location.reload(); // to log in
    else if (error.status === 404) refresh(); // the run is shown no more
    else { unheard(); if (error.status === undefined) serverGone(true); }
  } finally {
    looking = false;
  }
}
setInterval(look, 2000);
look();
setInterval(tick, 1000);
follow(refresh, unheard);
refresh();
