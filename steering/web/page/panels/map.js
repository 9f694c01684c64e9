/* The folded map: measured, model or residual, with the estimated branches. */

import { AXIS, CONFIG, LAYOUT, Plotly } from "../charts.js";
import { $, text } from "../dom.js";
import { digits, known, pretty } from "../format.js";
import { cellText } from "./cell.js";
import { crosshair, drawCuts, wireCuts } from "./cuts.js";
import { openDwell } from "./open.js";

// Equal steps of lightness and chroma (CIELAB) to both sides: as far above as below looks as far.
export const DIVERGING = ["#07acfb", "#2a83bc", "#2d5c80", "#263848", "#181818", "#443326", "#755035", "#a87044", "#df9154"].map((color, i) => [i / 8, color]);
const NOT_FITTED = "rgba(8,11,15,0.66)";

let layer = "intensity";
let lines = true;
let drawn = { view: null, runId: null };

/** Let the buttons choose what the map shows. */
export function wireMap() {
  const buttons = [...document.querySelectorAll("[data-layer]")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      layer = button.dataset.layer;
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      redrawMap();
    });
  }
  $("branches").addEventListener("click", () => {
    lines = !lines;
    $("branches").setAttribute("aria-pressed", String(lines));
    redrawMap();
  });
  wireCuts(redrawMap);
}

/** Whether the map shows the counts of the open dwell. */
export const showsOpen = () => layer === "open";

/** Offer the open dwell as a layer, and draw it anew where it is shown. */
export function drawOpenLayer() {
  $("open-layer").hidden = openDwell() === null && !showsOpen();
  if (showsOpen()) redrawMap();
}

export function redrawMap() { drawMap(drawn.view, drawn.runId); }

export function drawMap(view, runId) {
  drawn = { view, runId };
  $("map").classList.toggle("waiting", !view);
  drawCuts(view, runId);
  if (!view) {
    Plotly.purge("map");
    text("map-note", "No spectrum yet: the first chunk is still being folded.");
    return;
  }
  const residual = layer === "residual_sigma";
  const x = edges(view.path_position);
  const left = showsOpen() ? [] : notFitted(view);
  const traces = [showsOpen() ? openHeat(view, x) : residual ? residualHeat(view, x) : intensityHeat(view, x), ...shade(view, x, left), ...(lines ? [...bands(view, residual), ...branches(view, residual)] : []), ...crosshair(view, x)];
  const layout = Object.assign({}, LAYOUT, {
    plot_bgcolor: "#3c4653", margin: { l: 56, r: 8, t: 8, b: 30 }, uirevision: runId, hoverdistance: 5,
    xaxis: Object.assign({}, AXIS, { tickvals: view.tick_positions, ticktext: view.tick_labels.map(pretty), tickangle: 0, tickfont: { size: $("map").clientWidth < 500 ? 12 : 15, color: "#e8edf2" }, range: [x[0], x[x.length - 1]], showgrid: false }),
    yaxis: Object.assign({}, AXIS, { title: { text: "energy transfer (meV)" }, range: energyRange(view), showgrid: false }),
    shapes: view.tick_positions.map((position) => ({ type: "line", x0: position, x1: position, yref: "paper", y0: 0, y1: 1, line: { color: "#e8edf2", width: 0.8 } })),
    annotations: [],
  });
  const band = bandEnd(view, left);
  if (band !== null) {
    layout.shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: band, y1: band, line: { color: "#e8edf2", width: 1.2, dash: "dash" } });
    layout.annotations.push({ xref: "paper", x: 0.995, y: band, xanchor: "right", yanchor: "bottom", text: "below: elastic band, not fitted", showarrow: false, font: { size: 11, color: "#e8edf2" }, bgcolor: "rgba(8,11,15,0.7)" });
  }
  Plotly.react("map", traces, layout, CONFIG);
  if (showsOpen()) {
    text("map-note", openDwell()?.counts ? "Neutrons of the dwell that is open, cell by cell, as they came: provisional, without what is late, and in no answer yet. Not divided by exposure." : openDwell() ? "The counts of the open dwell come in a few seconds." : "No dwell is open now.");
    return;
  }
  text("map-note", (residual ? "(measured − model) / σ: blue below, amber above the model." : "Colour grows with the square root of the intensity.") + " Grey cells have no exposure: unknown, not empty." + (left.some((row) => row.some(Boolean)) ? " Darkened cells are measured and not fitted." : "") + " Lines: estimated branches" + (view.branches_low ? " with their 90 % bands (where they are wider than the line)." : ".") + " Click a cell, or use the arrow keys on the map, for its cuts.");
}

// Cells with exposure that the fit does not look at: those of the elastic band, and reduced ones without an error.
function notFitted(view) {
  return view.intensity.map((row, i) => row.map((value, j) => value !== null && view.fitted !== null && !view.fitted[i][j]));
}

function shade(view, x, left) {
  if (!left.some((row) => row.some(Boolean))) return [];
  const z = transposed(left.map((row) => row.map((is) => (is ? 1 : null))));
  return [{ type: "heatmap", name: "not fitted", x, y: view.energy_edges_meV, z, hoverongaps: false, showscale: false, zmin: 0, zmax: 1, colorscale: [[0, NOT_FITTED], [1, NOT_FITTED]], text: texts(view), hovertemplate: "%{text}<extra></extra>" }];
}

// The energy below which nothing is fitted; null where there is no such band in what was measured.
function bandEnd(view, left) {
  const bins = view.energy_edges_meV.length - 1;
  let end = null;
  for (let j = 0; j < bins; j++) {
    if (view.fitted === null || view.fitted.some((row) => row[j])) break;
    if (left.some((row) => row[j])) end = view.energy_edges_meV[j + 1];
  }
  return end;
}

function edges(x) {
  if (x.length === 1) return [x[0] - 0.5, x[0] + 0.5];
  const middle = x.slice(1).map((value, i) => (value + x[i]) / 2);
  return [1.5 * x[0] - 0.5 * x[1], ...middle, 1.5 * x[x.length - 1] - 0.5 * x[x.length - 2]];
}

// What the pointer tells of every cell; made once for a spectrum.
const told = new WeakMap();
function texts(view) {
  if (!told.has(view)) {
    told.set(view, transposed(view.intensity.map((row, i) => row.map((value, j) => (value === null ? "" : cellText(view, i, j).join("<br>"))))));
  }
  return told.get(view);
}

const transposed = (m) => m[0].map((_, j) => m.map((row) => row[j]));

function heat(view, x, how, title) {
  return Object.assign({ type: "heatmap", name: "map", x, y: view.energy_edges_meV, hoverongaps: false }, how, {
    colorbar: Object.assign({ thickness: 12, outlinewidth: 0, title: { text: title, side: "right", font: { size: 12 } }, tickfont: { size: 11 } }, how.colorbar),
  });
}

function residualHeat(view, x) {
  const z = transposed(view.residual_sigma);
  return heat(view, x, {
    z, text: texts(view), zmin: -5, zmax: 5, colorscale: DIVERGING,
    hovertemplate: "%{text}<extra></extra>",
  }, "σ");
}

// What has come of the open dwell: neutrons in every cell of the path, none where none came.
function openHeat(view, x) {
  const told = openDwell()?.counts;
  const fits = told && told.length === view.path_position.length && told[0].length === view.energy_edges_meV.length - 1;
  const z = transposed(fits ? told.map((row) => row.map((n) => n || null)) : view.intensity.map((row) => row.map(() => null)));
  const most = Math.max(1, ...z.flat().filter(known));
  return heat(view, x, { z, zmin: 0, zmax: most, colorscale: "Cividis", hovertemplate: "%{z} neutrons at %{y:.2f} meV<extra></extra>" }, "neutrons");
}

// Square root stretches what is faint; the hover text and the colour bar carry true values.
function intensityHeat(view, x) {
  const z = transposed(view[layer]);
  const flat = [...view.intensity.flat(), ...view.model_intensity.flat()].filter((v) => v > 0).sort((a, b) => a - b);
  const top = flat.length ? flat[Math.floor(0.96 * (flat.length - 1))] : 1;
  const marks = [0, 0.1, 0.25, 0.5, 0.75, 1].map((share) => share * top);
  return heat(view, x, {
    z: z.map((row) => row.map((v) => (v === null ? null : Math.sqrt(Math.max(v, 0))))),
    text: texts(view), zmin: 0, zmax: Math.sqrt(top), colorscale: "Cividis",
    colorbar: { tickvals: marks.map(Math.sqrt), ticktext: marks.map((mark) => digits(mark, 2)) },
    hovertemplate: "%{text}<extra></extra>",
  }, "barn/meV/sr");
}

// Where 90 % of the posterior has the branches: one trace of a polygon for each branch and piece.
function bands(view, residual) {
  if (!view.branches_low || !view.branches_high) return [];
  const starts = [0, ...view.segment_breaks, view.path_position.length], x = [], y = [];
  for (let mode = 0; mode < (view.branches[0] ?? []).length; mode++) {
    for (let piece = 1; piece < starts.length; piece++) {
      const bins = [...Array(starts[piece] - starts[piece - 1]).keys()].map((k) => k + starts[piece - 1]).filter((bin) => known(view.branches_low[bin][mode]));
      if (!bins.length) continue;
      x.push(...bins.map((bin) => view.path_position[bin]), ...[...bins].reverse().map((bin) => view.path_position[bin]), null);
      y.push(...bins.map((bin) => Math.max(view.branches_low[bin][mode], 0)), ...[...bins].reverse().map((bin) => Math.max(view.branches_high[bin][mode], 0)), null);
    }
  }
  if (!x.length) return [];
  return [{ type: "scatter", mode: "lines", name: "90 % bands", x, y, fill: "toself", fillcolor: residual ? "rgba(255,255,255,0.3)" : "rgba(255,157,92,0.38)", line: { width: 0 }, hoverinfo: "skip" }];
}

function branches(view, residual) {
  const starts = new Set(view.segment_breaks);
  return (view.branches[0] ?? []).map((_, mode) => {
    const x = [], y = [], between = [];
    view.branches.forEach((energy, bin) => {
      if (starts.has(bin)) { x.push(null); y.push(null); between.push(""); }
      const low = view.branches_low?.[bin][mode], high = view.branches_high?.[bin][mode];
      between.push(known(low) ? `<br>90 %: ${low.toFixed(2)} to ${high.toFixed(2)}` : "");
      x.push(view.path_position[bin]);
      y.push(known(energy[mode]) && energy[mode] > 0 ? energy[mode] : null);
    });
    return { type: "scatter", mode: "lines", name: `branch ${mode + 1}`, x, y, line: { color: residual ? "#ffffff" : "#ff9d5c", width: 1.3 }, opacity: 0.95, text: between, hovertemplate: `branch ${mode + 1}: %{y:.2f} meV%{text}<extra></extra>` };
  });
}

// Energies that any cell reaches, with room for the highest branch.
function energyRange(view) {
  const energies = view.energy_edges_meV, last = energies.length - 1;
  let reach = 0, first = last;
  view.intensity.forEach((row) => row.forEach((v, j) => {
    if (v !== null) { reach = Math.max(reach, j + 1); first = Math.min(first, j); }
  }));
  if (!reach) return [energies[0], energies[last]];
  const highest = Math.max(...view.branches.flat().filter(known), 0);
  return [energies[first], Math.min(energies[last], Math.max(energies[reach], 1.04 * highest))];
}
