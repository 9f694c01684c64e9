/* One-dimensional cuts through a column and a row of the map: data with errors, model, residual. */

import { AXIS, CONFIG, LAYOUT, Plotly } from "../charts.js";
import { $, text } from "../dom.js";
import { fixed, known, pretty } from "../format.js";
import { cellText, energyAt, placeText, upperError } from "./cell.js";

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const DATA = "#e8edf2", MODEL = "#ff9d5c", LEFT = "#7d8c9b";

let chosen = null; // {i, j}: path bin and energy bin
let shown = { view: null, runId: null };
let redrawMap = () => {};
let pressed = { x: 0, y: 0 }; // where the pointer went down

/** Let people choose a cell: by a click on the map, its arrow keys, or two sliders. */
export function wireCuts(redraw) {
  redrawMap = redraw;
  $("map").addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step || !shown.view) return;
    event.preventDefault();
    const { i, j } = chosen ?? middle(shown.view), far = event.shiftKey ? 5 : 1;
    $("cuts").open = true;
    choose(chosen ? i + far * step[0] : i, chosen ? j + far * step[1] : j);
  });
  $("map").addEventListener("pointerdown", (event) => { pressed = { x: event.clientX, y: event.clientY }; }, true);
  $("map").addEventListener("click", clicked, true);
  $("cut-q").addEventListener("input", () => choose(Number($("cut-q").value), chosen.j));
  $("cut-e").addEventListener("input", () => choose(chosen.i, Number($("cut-e").value)));
  $("cuts").addEventListener("toggle", () => {
    if ($("cuts").open && shown.view) { chosen ??= middle(shown.view); }
    redrawMap();
  });
}

function choose(i, j) {
  const { view } = shown;
  const within = (k, n) => Math.min(Math.max(k, 0), n - 1);
  chosen = { i: within(i, view.path_position.length), j: within(j, view.energy_edges_meV.length - 1) };
  redrawMap();
}

// The cell of most counts near the middle would be arbitrary, too: the middle of what is covered.
function middle(view) {
  const i = Math.floor(view.path_position.length / 2);
  const covered = view.intensity[i].map((value, j) => (value === null ? -1 : j)).filter((j) => j >= 0);
  return { i, j: covered[Math.floor(covered.length / 2)] ?? 0 };
}

/** Two lines over the map that show where the cuts are. */
export function crosshair(view, x) {
  if (!chosen || !$("cuts").open) return [];
  const { i, j } = chosen, y = view.energy_edges_meV;
  const line = (xs, ys) => ({ type: "scatter", mode: "lines", name: "cut", x: xs, y: ys, line: { color: "#f0e442", width: 1.2, dash: "dot" }, hoverinfo: "skip" });
  return [line([view.path_position[i], view.path_position[i]], [y[0], y[y.length - 1]]), line([x[0], x[x.length - 1]], [energyAt(view, j), energyAt(view, j)])];
}

/** Draw the cuts of the newest spectrum; called whenever the map is drawn. */
export function drawCuts(view, runId) {
  if (runId !== shown.runId) chosen = null;
  shown = { view, runId };
  $("cuts").hidden = !view;
  if (!view || !$("cuts").open) { Plotly.purge("cut-of-q"); Plotly.purge("cut-of-e"); return; }
  chosen ??= middle(view);
  chosen.i = Math.min(chosen.i, view.path_position.length - 1);
  chosen.j = Math.min(chosen.j, view.energy_edges_meV.length - 2);
  const { i, j } = chosen;
  slider("cut-q", view.path_position.length, i, placeText(view, i) || `bin ${i + 1}`);
  slider("cut-e", view.energy_edges_meV.length - 1, j, `${fixed(energyAt(view, j), 2)} meV`);
  text("cut-cell", cellText(view, i, j).join(" · "));
  const energies = view.energy_edges_meV.slice(1).map((_, k) => energyAt(view, k));
  plot("cut-of-q", energies, energies.map((_, k) => [i, k]), [], { title: { text: "energy transfer (meV)", font: { size: 11 }, standoff: 4 }, range: covered(view) });
  const ends = view.path_position, ticks = view.tick_positions;
  plot("cut-of-e", view.path_position, view.path_position.map((_, k) => [k, j]), view.segment_breaks, { tickvals: view.tick_positions, ticktext: view.tick_labels.map(pretty), tickangle: 0, range: [Math.min(ends[0], ...ticks), Math.max(ends[ends.length - 1], ...ticks)] });
}

// Energies that any cell reaches.
function covered(view) {
  const reached = view.energy_edges_meV.slice(1).map((_, b) => view.intensity.some((row) => row[b] !== null));
  const first = reached.indexOf(true), last = reached.lastIndexOf(true);
  return first < 0 ? [view.energy_edges_meV[0], view.energy_edges_meV[reached.length]] : [view.energy_edges_meV[first], view.energy_edges_meV[last + 1]];
}

function slider(id, count, value, said) {
  const node = $(id);
  node.max = String(count - 1);
  node.value = String(value);
  node.setAttribute("aria-valuetext", said);
  text(`${id}-told`, said);
}

function plot(id, x, cells, breaks, axis) {
  const { view } = shown;
  const fitted = ([a, b]) => view.fitted === null || view.fitted[a][b];
  const measured = cells.map((cell, k) => [cell, k]).filter(([[a, b]]) => view.intensity[a][b] !== null);
  const points = (which, name, color, symbol) => {
    const some = measured.filter(([cell]) => which(cell));
    return {
      type: "scatter", mode: "markers", name, x: some.map(([, k]) => x[k]), y: some.map(([[a, b]]) => view.intensity[a][b]),
      error_y: { type: "data", symmetric: false, array: some.map(([[a, b]]) => upperError(view, a, b)), arrayminus: some.map(([[a, b]]) => view.sigma[a][b]), color, thickness: 1, width: 0 },
      marker: { size: 5, color, symbol, line: { color, width: 1 } },
      text: some.map(([[a, b]]) => cellText(view, a, b).join("<br>")), hovertemplate: "%{text}<extra></extra>",
    };
  };
  const starts = new Set(breaks), lineX = [], lineY = [];
  cells.forEach(([a, b], k) => {
    if (starts.has(k)) { lineX.push(null); lineY.push(null); }
    lineX.push(x[k]); lineY.push(view.model_intensity[a][b]);
  });
  const residual = measured.filter(([cell]) => fitted(cell) && known(view.residual_sigma[cell[0]][cell[1]]));
  const traces = [
    points(fitted, "measured", DATA, "circle"),
    points((cell) => !fitted(cell), "not fitted", LEFT, "x-thin"),
    { type: "scatter", mode: "lines", name: "model", x: lineX, y: lineY, line: { color: MODEL, width: 1.6 }, hoverinfo: "skip" },
    { type: "bar", name: "residual", yaxis: "y2", x: residual.map(([, k]) => x[k]), y: residual.map(([[a, b]]) => view.residual_sigma[a][b]), marker: { color: residual.map(([[a, b]]) => (view.residual_sigma[a][b] > 0 ? "#df9154" : "#07acfb")) }, hovertemplate: "%{y:.2f} σ<extra></extra>" },
  ];
  const layout = Object.assign({}, LAYOUT, {
    margin: { l: 52, r: 8, t: 6, b: 34 }, bargap: 0.2,
    xaxis: Object.assign({}, AXIS, { anchor: "y2", tickfont: { size: 11 } }, axis),
    yaxis: Object.assign({}, AXIS, { domain: [0.36, 1], title: { text: "barn/meV/sr", font: { size: 11 } }, tickfont: { size: 11 }, nticks: 4, rangemode: "tozero" }),
    yaxis2: Object.assign({}, AXIS, { domain: [0, 0.28], title: { text: "σ", font: { size: 11 } }, tickfont: { size: 11 }, nticks: 3, zeroline: true, zerolinecolor: "#5b6b7b" }),
  });
  Plotly.react(id, traces, layout, Object.assign({}, CONFIG, { displayModeBar: false }));
}

// The cell under the pointer, known or not; a drag zooms the map and chooses none.
function clicked(event) {
  const { view } = shown, { xaxis, yaxis } = $("map")._fullLayout ?? {};
  if (!view || !xaxis || !event.target.closest(".nsewdrag") || Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) > 4) return;
  const at = $("map").getBoundingClientRect();
  const x = xaxis.p2l(event.clientX - at.x - xaxis._offset), y = yaxis.p2l(event.clientY - at.y - yaxis._offset);
  $("cuts").open = true;
  choose(nearest(view.path_position, x), nearest(view.energy_edges_meV.slice(1).map((_, k) => energyAt(view, k)), y));
}

const nearest = (values, wanted) => values.reduce((best, value, k) => (Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? k : best), 0);
