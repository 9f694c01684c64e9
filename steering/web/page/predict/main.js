/* The planner's page: what is asked for, and what comes of it. */

import { $, element, text } from "../dom.js";
import { Plotly } from "../charts.js";
import { asked, cancel, predict } from "./jobs.js";
import { drawCut } from "./cut.js";
import { listenToCrystal, showCrystal, turned } from "./crystal.js";
import { drawReach, eiOfSlider, sliderOfEi } from "./kinematics.js";
import { drawMap, listenToCuts, listenToMap, showMap } from "./map.js";
import { drawPhonons, drawVibrational } from "./phonons.js";
import { choose, unit } from "./units.js";

let options = null, result = null, job = null, mapHeard = false;

const preset = () => options.presets.find((one) => one.name === $("instrument").value);
const fill = (id, values) => $(id).replaceChildren(...values.map((value) => element("option", { value, textContent: value.replaceAll("_", " ") })));

async function begin() {
  options = await (await asked("/v1/predict/options")).json();
  fill("instrument", options.presets.map((one) => one.name));
  fill("route", options.routes);
  fill("quantity", options.quantities);
  $("structures").replaceChildren(...options.builtin_structures.map((value) => element("option", { value })));
  $("limit").max = String(options.time_limit_s);
  $("limit").value = String(options.time_limit_s);
  $("search").hidden = $("or-id").hidden = !options.database;
  if (!options.predicts) refuse("This server makes no predictions.");
  instrumentChosen();
}

function instrumentChosen() {
  $("direct").hidden = $("can-choice").hidden = preset().kind === "indirect";
  eiChosen();
}

function eiChosen() {
  const ei = Number($("ei").value);
  if (preset().kind === "indirect" || !(ei > 0)) return;
  $("ei-slider").value = String(sliderOfEi(ei));
  $("ei-slider").setAttribute("aria-valuetext", `${ei} meV`);
  const top = result?.dos ? result.dos.energy_meV[result.dos.energy_meV.length - 1] : 0;
  text("reach", drawReach(preset(), ei, options.generic_fwhm_of_ei, top));
  if (result) drawMap({ ei, angles: preset().two_theta_deg });
}

// --- asking --------------------------------------------------------------------------------------

function form() {
  const sent = new FormData();
  const direct = preset().kind !== "indirect";
  for (const file of $("files").files) sent.append("files", file);
  if (!$("files").files.length) sent.append("structure", $("structure").value.trim());
  sent.append("instrument", $("instrument").value);
  if (direct) { sent.append("ei_meV", $("ei").value); sent.append("can", $("can").value); }
  sent.append("temperature_K", $("temperature").value);
  sent.append("route", $("route").value);
  sent.append("quantity", $("quantity").value);
  if ($("quantity").value === "line") sent.append("line_hkl", $("line").value);
  if ($("quantity").value === "plane") { sent.append("plane_hkl", $("plane").value); sent.append("band_meV", $("band").value); }
  sent.append("isotopes", $("isotopes").value.trim());
  sent.append("time_limit_s", $("limit").value);
  sent.append("order", String($("order").checked));
  sent.append("wait_s", "0.5");
  return sent;
}

function refuse(words) {
  text("fault", words);
  $("fault").hidden = !words;
}

function told(now) {
  job = now;
  $("progress").value = now.fraction;
  text("status", `${now.state}: ${now.stage} (${Math.round(100 * now.fraction)} %)`);
}

async function go(event) {
  event.preventDefault();
  if (!$("files").files.length && !$("structure").value.trim()) { refuse("No structure is named; choose files, or a built-in crystal."); $("structure").focus(); return; }
  refuse("");
  busy(true);
  text("status", "sent");
  $("progress").removeAttribute("value");
  try {
    const { found, where } = await predict(form(), told);
    result = found;
    show(where);
    text("status", "done");
    $("progress").value = 1;
  } catch (error) {
    refuse(error.message);
    text("status", "no prediction");
    $("progress").value = 0;
  } finally {
    busy(false);
    job = null;
  }
}

function busy(yes) {
  $("go").disabled = yes;
  $("cancel").disabled = !yes;
}

// --- showing -------------------------------------------------------------------------------------

function show(where) {
  const { route, structure } = result;
  $("results").hidden = false;
  text("formula", structure.formula);
  text("setting", `${result.optics?.words ?? result.instrument}, ${result.temperature_K} K; ${route.kind.replaceAll("_", " ")}: ${route.source}`);
  text("uncertainty", result.uncertainty ? `Uncertainty: ${result.uncertainty.words}` : "Uncertainty: not known of this route.");
  $("warnings").hidden = !result.warnings.length;
  $("warnings").replaceChildren(...result.warnings.map((words) => element("li", { textContent: words })));
  $("approximations").replaceChildren(...result.approximations.map((words) => element("li", { textContent: words })));
  const parts = ["powder", "background", "vibrational", "line", "plane", "dos", "dispersion"].filter((part) => result[part]);
  const links = [["PNG", "format=png"], ["NPZ", "format=npz"], ["JSON", "format=json"], ...parts.map((part) => [`CSV ${part}`, `format=csv&part=${part}`])];
  $("downloads").replaceChildren(...links.map(([name, query]) => element("a", { href: `${where}/result?${query}`, textContent: name, download: "" })));
  showCrystal(structure);
  showMap(result);
  draw();
  if (!mapHeard && !$("map-card").hidden) { listenToMap(); mapHeard = true; }
}

function draw() {
  for (const node of document.querySelectorAll(".unit-name")) node.textContent = unit().name;
  if (result) { drawPhonons(result); drawVibrational(result.vibrational); drawCut(result); drawMap(null); }
  eiChosen();
}

// --- searching -----------------------------------------------------------------------------------

async function search() {
  const wanted = $("search-text").value.trim();
  if (!wanted) return;
  text("search-note", "looking");
  try {
    const found = await (await asked(`/v1/predict/search?text=${encodeURIComponent(wanted)}`)).json();
    text("search-note", `${found.entries.length} found${found.more ? `, and ${found.more} more` : ""}`);
    $("search-found").replaceChildren(...found.entries.map((entry) => {
      const button = element("button", { type: "button", textContent: entry.words });
      button.addEventListener("click", () => { $("structure").value = entry.id; $("files").value = ""; text("search-note", `${entry.id} is chosen`); });
      return element("li", {}, button);
    }));
  } catch (error) { text("search-note", error.message); }
}

// --- listening -----------------------------------------------------------------------------------

$("form").addEventListener("submit", go);
$("cancel").addEventListener("click", async () => {
  if (!job) return;
  try { await cancel(job); } catch (error) { refuse(error.message); }
});
$("instrument").addEventListener("change", instrumentChosen);
$("quantity").addEventListener("change", () => {
  $("line-choice").hidden = $("quantity").value !== "line";
  $("plane-choice").hidden = $("quantity").value !== "plane";
});
$("ei").addEventListener("input", eiChosen);
$("ei-slider").addEventListener("input", () => { $("ei").value = String(eiOfSlider(Number($("ei-slider").value))); eiChosen(); });
$("files").addEventListener("change", () => { if ($("files").files.length) $("structure").value = ""; });
$("structure").addEventListener("input", () => { if ($("structure").value) $("files").value = ""; });
$("layer").addEventListener("change", eiOrMap);
$("unit").addEventListener("change", () => { choose($("unit").value); draw(); });
$("search-go").addEventListener("click", search);
$("search-text").addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); search(); } });
listenToCrystal();
listenToCuts();
globalThis.planner = { turned, Plotly };

function eiOrMap() { if (preset().kind === "indirect") drawMap(null); else eiChosen(); }

begin().catch((error) => refuse(error.message));
