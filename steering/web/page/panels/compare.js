/* Two runs beside each other: parameters with their difference in sigma, and that of the maps. */

import { AXIS, CONFIG, LAYOUT, Plotly } from "../charts.js";
import { $, cell, element, rows, text } from "../dom.js";
import { decimals, digits, fixed, known, pretty } from "../format.js";
import { get } from "../source.js";
import { upperError } from "./cell.js";
import { DIVERGING } from "./map.js";

const FAR = 3; // sigma, from which a difference stands out
const AGREE = 1e-3; // of an axis: what rounding to five digits leaves

let here = null; // {run, view}
let other = null; // name of the other run
let there = null; // {run, view}
let versions = new Map(); // of all runs, as listed last

export function wireCompare() {
  $("compare-with").addEventListener("change", (event) => {
    other = event.target.value || null;
    there = null;
    refresh().catch(console.warn);
  });
}

/** Offer the other runs, and draw the chosen one anew where it or the shown one has news. */
export function drawCompare(runs, run, view) {
  if (other === run.run_id || !runs.some((one) => one.run_id === other)) { other = null; there = null; }
  here = { run, view };
  versions = new Map(runs.map((one) => [one.run_id, one.version]));
  $("compare-card").hidden = runs.length < 2;
  $("compare-with").replaceChildren(element("option", { value: "", textContent: "no other run" }), ...runs.filter((one) => one.run_id !== run.run_id).map((one) => element("option", { value: one.run_id, textContent: one.run_id, selected: one.run_id === other })));
  refresh().catch(console.warn);
}

async function refresh() {
  const name = other;
  if (name !== null && there?.run.version !== versions.get(name)) {
    const path = `/runs/${encodeURIComponent(name)}`, run = await get(path);
    const view = run.has_spectrum ? await get(`${path}/spectrum`) : null;
    if (name !== other) return; // another one was chosen meanwhile
    there = { run, view };
  }
  $("compared").hidden = other === null;
  if (other === null) { Plotly.purge("compare-map"); return; }
  drawRows();
  drawDifference();
}

function drawRows() {
  const [mine, theirs] = [here, there].map(({ run }) => new Map((run.result?.parameters ?? []).map((one) => [one.name, one])));
  const shared = [...mine.keys()].filter((name) => theirs.has(name) && theirs.get(name).unit === mine.get(name).unit);
  text("compare-note", remarks(shared.length).join(" "));
  rows("compare-rows", shared.map((name) => {
    const a = mine.get(name), b = theirs.get(name), apart = (a.value - b.value) / Math.hypot(a.sigma, b.sigma);
    const far = Math.abs(apart) >= FAR;
    return element("tr", {}, cell(name, "left"), cell(fixed(a.value, decimals(a.sigma))), cell(`± ${digits(a.sigma, 2)}`), cell(fixed(b.value, decimals(b.sigma))), cell(`± ${digits(b.sigma, 2)}`), cell(known(apart) ? `${far ? "⚠ " : ""}${fixed(apart, 1)} σ` : "–", far ? "far" : ""));
  }), "The runs have no parameter in common.");
  $("compare-rows").classList.toggle("unsure", [here, there].some(({ run }) => !run.result?.trusted));
}

// What whoever compares must know.
function remarks(count) {
  const said = [];
  for (const [{ run }, where] of [[here, "Here"], [there, "There"]]) {
    if (!run.result) said.push(`${where} there is no estimate yet.`);
    else if (!run.result.trusted) said.push(`${where} the model is ${run.result.trust === "cannot tell yet" ? "neither confirmed nor refuted" : "not trusted"}: its figures claim nothing.`);
  }
  const both = (what) => [here, there].map(({ run }) => run.experiment?.sample?.[what]);
  const [a, b] = both("temperature_K");
  if (a !== b) said.push(`Temperatures differ: ${digits(a)} K here, ${digits(b)} K there.`);
  const names = new Set(there.run.chunks.filter((one) => one.status === "folded").map((one) => one.chunk));
  const shared = here.run.chunks.filter((one) => one.status === "folded" && names.has(one.chunk)).length;
  if (shared) said.push(`${shared === 1 ? "1 chunk has" : `${shared} chunks have`} the same name in both: if it is the same data, differences are smaller than their σ tells.`);
  if (count) said.push("Differences over the two errors together, as if the runs were independent; ⚠ marks 3 σ and more.");
  return said;
}

function drawDifference() {
  const why = apart(here.view, there.view);
  $("compare-map").hidden = why !== null;
  if (why !== null) {
    Plotly.purge("compare-map");
    text("compare-map-note", `No difference of the maps: ${why}`);
    return;
  }
  const a = here.view, b = there.view;
  const z = a.energy_edges_meV.slice(1).map((_, j) => a.path_position.map((_, i) => difference(a, b, i, j)));
  const values = z.flat().filter(known), squares = values.reduce((sum, x) => sum + x * x, 0);
  Plotly.react("compare-map", [{ type: "heatmap", name: "difference", x: a.path_position, y: a.energy_edges_meV, z, zmin: -5, zmax: 5, colorscale: DIVERGING, hoverongaps: false, hovertemplate: "E %{y:.2f} meV<br>%{z:.2f} σ<extra></extra>", colorbar: { thickness: 12, outlinewidth: 0, title: { text: "σ", side: "right", font: { size: 12 } }, tickfont: { size: 11 } } }], Object.assign({}, LAYOUT, {
    plot_bgcolor: "#3c4653", margin: { l: 56, r: 8, t: 8, b: 30 },
    xaxis: Object.assign({}, AXIS, { tickvals: a.tick_positions, ticktext: a.tick_labels.map(pretty), tickangle: 0, showgrid: false }),
    yaxis: Object.assign({}, AXIS, { title: { text: "energy transfer (meV)" }, showgrid: false }),
  }), CONFIG);
  text("compare-map-note", values.length ? `(here − there) / σ of both: blue below, amber above. ${values.length.toLocaleString("en-US")} cells are seen in both runs; the mean square is ${digits(squares / values.length, 3)} (1: they agree to their errors). Grey: not seen in one of them.` : "No cell is seen in both runs.");
}

function difference(a, b, i, j) {
  if (a.intensity[i][j] === null || b.intensity[i][j] === null) return null;
  const error = Math.hypot(upperError(a, i, j), upperError(b, i, j));
  return error > 0 ? (a.intensity[i][j] - b.intensity[i][j]) / error : null;
}

// Why two maps have no difference; null: they have.
function apart(a, b) {
  if (!a || !b) return `${a ? "there" : "here"} is no spectrum yet.`;
  const energies = (view) => `${view.energy_edges_meV.length - 1} bins from ${digits(view.energy_edges_meV[0])} to ${digits(view.energy_edges_meV.at(-1))} meV`;
  if (!same(a.energy_edges_meV, b.energy_edges_meV)) return `the energy axes differ, ${energies(a)} here and ${energies(b)} there.`;
  if (a.path_position.length !== b.path_position.length) return `the paths differ, ${a.path_position.length} bins here and ${b.path_position.length} there.`;
  if (!a.hkl || !b.hkl) return "one run was folded by an older version, which does not tell where its bins lie.";
  if (!same(a.hkl.flat(), b.hkl.flat())) return "the paths differ: bins of the same number lie at different hkl.";
  if (!same(a.path_position, b.path_position)) return "the lattices differ: the same hkl lie at different lengths of Q.";
  return null;
}

const same = (a, b) => a.length === b.length && a.every((value, k) => Math.abs(value - b[k]) <= AGREE * Math.max(1, Math.abs(value)));
