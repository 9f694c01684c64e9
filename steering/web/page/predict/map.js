/* S(|Q|,E) in colour, with cuts along both axes where the cursor is or where the reader says. */

import { $, element, text } from "../dom.js";
import { Plotly, LAYOUT, AXIS, CONFIG } from "../charts.js";
import { digits, known } from "../format.js";
import { outline } from "./kinematics.js";
import { inMeV, middle, shown, unit } from "./units.js";

const NAMES = { total: "all of it", one_phonon: "one phonon, coherent", multiphonon: "multiphonon", incoherent: "incoherent", can: "can" };
let layers = {}, q = [], energy = [], qEdges = [], energyEdges = [], setting = null;
let cut = { q: 0, e: 0 };

const add = (a, b) => a.map((row, i) => row.map((value, j) => (value === null || b[i][j] === null ? null : value + b[i][j])));
const nearest = (values, wanted) => values.reduce((best, value, k) => (Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? k : best), 0);

/** What the largest value of four columns in five stays below, as in the pictures. */
function limit(rows) {
  const highest = rows.map((row) => Math.max(...row.filter(known))).filter((v) => known(v) && v > 0).sort((a, b) => a - b);
  return highest.length ? highest[Math.floor(0.8 * (highest.length - 1))] : 1;
}

export function showMap(found) {
  const axes = found.powder ?? found.background;
  $("map-card").hidden = !axes;
  if (!axes) { layers = {}; return; }
  layers = {};
  if (found.powder) layers.one_phonon = found.powder.intensity;
  for (const [name, part] of Object.entries(found.background?.components ?? {})) layers[name] = part.intensity;
  layers = { total: Object.values(layers).reduce(add), ...layers };
  qEdges = axes.q_edges_inverse_A; energyEdges = axes.energy_edges_meV;
  q = middle(qEdges); energy = middle(energyEdges);
  setting = { ei: found.ei_meV, angles: found.optics.two_theta_deg };
  const before = $("layer").value;
  $("layer").replaceChildren(...Object.keys(layers).map((name) => element("option", { value: name, textContent: NAMES[name] ?? name })));
  if (layers[before]) $("layer").value = before;
  strongest();
  text("map-note", "Dashed: what the incident energy of the slider would reach. Move over the map to cut it, or give numbers. Grey: out of reach.");
}

/** Begin at the strongest cell that is not an acoustic spike. */
function strongest() {
  const rows = layers.total, cap = limit(rows);
  let best = -1;
  rows.forEach((row, i) => row.forEach((value, j) => {
    if (known(value) && value <= cap && value > best && energy[j] > 0.1 * energyEdges[energyEdges.length - 1]) { best = value; cut = { q: i, e: j }; }
  }));
}

export function drawMap(slider) {
  if (!layers.total) return;
  const rows = layers[$("layer").value] ?? layers.total;
  const z = energy.map((_, j) => q.map((__, i) => rows[i][j]));
  const top = limit(rows);
  const colour = z.map((row) => row.map((v) => (v === null ? null : Math.sqrt(Math.max(v, 0)))));
  const marks = [0, 0.05, 0.25, 0.5, 1].map((share) => share * top);
  const data = [{
    type: "heatmap", x: qEdges, y: energyEdges.map(shown), z: colour, customdata: z, zmin: 0, zmax: Math.sqrt(top), colorscale: "Viridis",
    colorbar: { title: { text: "barn/meV/sr<br>per cell" }, tickvals: marks.map(Math.sqrt), ticktext: marks.map((v) => digits(v, 2)), thickness: 14 },
    hovertemplate: `|Q| %{x:.2f} 1/Å, E %{y:.2f} ${unit().name}: %{customdata:.3g}<extra></extra>`,
  }];
  if (slider) {
    const edge = outline(slider.ei, slider.angles);
    data.push({ x: edge.q, y: edge.energy.map(shown), mode: "lines", line: { color: "#f5b942", width: 1.5, dash: "dash" }, hoverinfo: "skip", name: "slider" });
  }
  Plotly.react("map", data, {
    ...LAYOUT, plot_bgcolor: "#3c4653", margin: { l: 60, r: 10, t: 8, b: 44 }, uirevision: `${setting.ei} ${unit().name} ${qEdges.length}`,
    xaxis: { ...AXIS, showgrid: false, title: { text: "|Q| (1/Å)" }, range: [0, qEdges[qEdges.length - 1]] },
    yaxis: { ...AXIS, showgrid: false, title: { text: `energy transfer (${unit().name})` }, range: [0, shown(energyEdges[energyEdges.length - 1])] },
    shapes: crosshair(),
  }, CONFIG);
  drawCuts();
}

const crosshair = () => [
  { type: "line", x0: q[cut.q], x1: q[cut.q], yref: "paper", y0: 0, y1: 1, line: { color: "#e8edf2", width: 1, dash: "dot" } },
  { type: "line", xref: "paper", x0: 0, x1: 1, y0: shown(energy[cut.e]), y1: shown(energy[cut.e]), line: { color: "#e8edf2", width: 1, dash: "dot" } },
];

function drawCuts() {
  if (document.activeElement !== $("cut-q")) $("cut-q").value = q[cut.q].toFixed(2);
  if (document.activeElement !== $("cut-e")) $("cut-e").value = shown(energy[cut.e]).toFixed(2);
  const names = Object.keys(layers).filter((name, _, all) => name !== "total" || all.length > 2);
  const colours = { total: "#e8edf2", one_phonon: "#56b4e9", multiphonon: "#e69f00", incoherent: "#009e73", can: "#cc79a7" };
  const dashes = { total: "solid", one_phonon: "solid", multiphonon: "dash", incoherent: "dot", can: "dashdot" };
  const drawn = (id, x, values, title) => Plotly.react(id, names.map((name) => ({ x, y: values(layers[name]), name: NAMES[name] ?? name, mode: "lines", line: { color: colours[name] ?? "#a3b1c0", dash: dashes[name], width: 1.4 } })), {
    ...LAYOUT, showlegend: id === "cut-at-q", legend: { font: { size: 10 }, x: 1, xanchor: "right", y: 1, bgcolor: "rgba(12,17,23,.6)" }, margin: { l: 56, r: 8, t: 6, b: 40 },
    xaxis: { ...AXIS, title: { text: title } }, yaxis: { ...AXIS, rangemode: "tozero", exponentformat: "power" },
  }, { ...CONFIG, displayModeBar: false });
  drawn("cut-at-q", energy.map(shown), (rows) => rows[cut.q], `energy transfer (${unit().name})`);
  drawn("cut-at-e", q, (rows) => rows.map((row) => row[cut.e]), "|Q| (1/Å)");
}

function moveTo(i, j) {
  if (i === cut.q && j === cut.e) return;
  cut = { q: i, e: j };
  Plotly.relayout("map", { shapes: crosshair() });
  drawCuts();
}

/** Follow the cursor and the two numbers; the map must have been drawn. */
export function listenToMap() {
  let asked = null;
  $("map").on("plotly_hover", ({ points }) => {
    const point = points.find((one) => one.curveNumber === 0);
    if (!point) return;
    const first = asked === null;
    asked = point;
    if (first) requestAnimationFrame(() => { const at = asked; asked = null; moveTo(nearest(q, at.x), nearest(energy, inMeV(at.y))); });
  });
}

export function listenToCuts() {
  $("cut-q").addEventListener("input", () => { const value = Number($("cut-q").value); if (q.length && Number.isFinite(value)) moveTo(nearest(q, value), cut.e); });
  $("cut-e").addEventListener("input", () => { const value = Number($("cut-e").value); if (q.length && Number.isFinite(value)) moveTo(cut.q, nearest(energy, inMeV(value))); });
}
