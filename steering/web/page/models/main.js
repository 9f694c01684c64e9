/* The page of networks: which there are, what they hold, and what they read off a run. */

import { $, cell, element, rows, text } from "../dom.js";
import { decimals, digits, fixed, whole } from "../format.js";
import { get } from "../source.js";
import { drawDimensions, drawDistance, drawPlaces, drawPsi } from "./latent.js";

const PATIENCE_MS = 60_000; // the first who asks waits for the networks to be loaded
let latent = null, reading = null, asked = 0;

const fill = (id, pairs) => $(id).replaceChildren(...pairs.map(([value, words]) => element("option", { value, textContent: words })));
const at = (name) => `/v1/models/${encodeURIComponent(name)}`;

async function begin() {
  const { models } = await get("/v1/models", PATIENCE_MS);
  fill("model", models.map((one) => [one.name, one.fault ? `${one.name} (damaged)` : one.name]));
  const { runs } = await get("/v1/runs");
  fill("run", [["", "none"], ...runs.map((one) => [one.run_id, one.run_id])]);
  const wanted = new URLSearchParams(location.search);
  for (const id of ["model", "run"]) if ([...$(id).options].some((one) => one.value === wanted.get(id))) $(id).value = wanted.get(id);
  if (!models.length) { refuse("This server has no networks. Name a folder of some with `beamsteer serve --models`."); return; }
  await modelChosen();
}

function refuse(words) {
  text("fault", words);
  $("fault").hidden = !words;
}

async function modelChosen() {
  const mine = ++asked, name = $("model").value;
  refuse("");
  text("status", "asking");
  latent = null;
  let card = null;
  try { card = await get(`${at(name)}/card`, PATIENCE_MS); } catch (error) { if (mine === asked) refuse(`${name} cannot be read: ${error.message}`); }
  try { latent = card && await get(`${at(name)}/latent`, PATIENCE_MS); } catch (error) {
    if (error.status !== 404) refuse(error.message);
  }
  if (mine !== asked) return; // somebody chose another one meanwhile
  showCard(card);
  $("latent").hidden = !latent;
  $("no-latent").hidden = Boolean(latent);
  text("no-latent", card && `Nothing is kept of the latent of ${name}. \`beamsteer latent FOLDER -e EXPERIMENT --calibrate\` makes it.`);
  if (latent) {
    fill("parameter", latent.parameter_names.map((one, k) => [k, one]));
    fill("minutes", latent.psi.minutes.map((one, k) => [k, String(one)]));
    $("minutes").value = String(latent.psi.minutes.length - 1);
  }
  await runChosen();
}

async function runChosen() {
  const mine = asked, run = $("run").value;
  reading = null;
  refuse("");
  if (run) {
    text("status", "reading");
    try {
      const answer = await fetch(`${at($("model").value)}/reading?run=${encodeURIComponent(run)}`, { cache: "no-store" });
      const told = await answer.json();
      if (!answer.ok) throw new Error(told.detail ?? `${answer.status}`);
      reading = { ...told.estimates[0], notes: told.notes, estimate: await estimateOf(run) };
    } catch (error) { if (mine === asked) refuse(error.message); }
  }
  if (mine !== asked || run !== $("run").value) return;
  showReading();
  draw();
  text("status", "");
}

/** The run's own parameters by name; none where it has no estimate. */
async function estimateOf(run) {
  try {
    const found = await get(`/v1/runs/${encodeURIComponent(run)}/estimate`);
    return { trusted: found.trusted, parameters: Object.fromEntries(found.parameters.map((one) => [one.name, one])) };
  } catch { return null; }
}

function draw() {
  if (!latent) return;
  drawPlaces(latent, Number($("parameter").value), reading, $("run").value);
  drawDimensions(latent);
  drawPsi(latent, Number($("minutes").value));
  drawDistance(latent, reading, $("run").value);
}

// --- what is known of a network ------------------------------------------------------------------

function showCard(card) {
  $("card").hidden = !card;
  if (!card) return;
  text("card-title", card.title);
  text("purpose", card.purpose);
  const facts = [["architecture", card.architecture], ...Object.entries(card.experiment ?? {}).filter(([key]) => key !== "parts" && key !== "title"), ...Object.entries(card.training ?? {})];
  $("facts").replaceChildren(...facts.flatMap(([key, value]) => [element("dt", { textContent: key }), element("dd", { textContent: [value].flat().join(", ") })]));
  const levels = card.accuracy ?? [];
  $("accuracy").querySelector("thead tr").replaceChildren(element("th", { className: "left", textContent: "parameter" }), ...levels.map((one) => element("th", { textContent: one.label })));
  rows("accuracy", (card.parameters?.names ?? []).map((name, k) => element("tr", {}, cell(name, "left"), ...levels.map((one) => cell(fixed(one.r2[k], 2))))));
}

function showReading() {
  $("reading-card").hidden = !reading;
  if (!reading) return;
  text("reading-title", `Read off ${$("run").value}`);
  const share = reading.latent_share;
  const far = reading.inside === false;
  const farther = share === null ? "" : `, farther than ${digits(100 * share, 3)} % of simulated spectra`;
  text("reading-place", `latent distance ${digits(reading.latent_distance, 3)}${farther}${far ? ": NOT one of theirs, do not believe it" : ""}`);
  $("reading-place").classList.toggle("failure", far);
  rows("reading", reading.parameters.map((one) => {
    const own = reading.estimate?.parameters[one.name];
    const n = decimals(one.typical_error ?? one.spread);
    return element("tr", {}, cell(one.name, "left"), cell(fixed(one.value, n)), cell(fixed(one.typical_error, n)), cell(own ? fixed(own.value, n) : "–"), cell(own ? digits(own.sigma, 2) : "–"));
  }));
  const trust = reading.estimate ? (reading.estimate.trusted ? "The run's estimate is trusted." : "The run's estimate is not trusted.") : "The run has no estimate.";
  text("reading-note", `${reading.parameters[0].unit}; ${whole(Math.round(reading.counts ?? 0))} counts in the cells that the network sees. ${trust} ${reading.notes.map((one) => `${one[0].toUpperCase()}${one.slice(1)}.`).join(" ")}`);
}

$("form").addEventListener("submit", (event) => event.preventDefault());
$("model").addEventListener("change", modelChosen);
$("run").addEventListener("change", runChosen);
$("parameter").addEventListener("change", draw);
$("minutes").addEventListener("change", draw);

begin().catch((error) => { refuse(error.message); text("status", ""); });
