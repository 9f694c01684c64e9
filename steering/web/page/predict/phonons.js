/* Dispersion beside the density of states, and S(E) of indirect instruments. */

import { $, text } from "../dom.js";
import { Plotly, LAYOUT, AXIS, CONFIG } from "../charts.js";
import { pretty } from "../format.js";
import { middle, per, shown, unit } from "./units.js";

const LINES = ["#e69f00", "#009e73", "#cc79a7", "#d55e00", "#f0e442"];
const DASHES = ["dash", "dot", "dashdot", "longdash", "solid"];

export function drawPhonons(found) {
  const { dispersion, dos } = found;
  $("phonons-card").hidden = !dispersion && !dos;
  if (!dispersion && !dos) return;
  text("phonons-note", dispersion?.imaginary ? "imaginary modes are shown as negative energies" : "");
  const traces = [], shapes = [];
  const layout = { ...LAYOUT, margin: { l: 60, r: 12, t: 8, b: 44 }, yaxis: { ...AXIS, title: { text: `energy (${unit().name})` }, zeroline: true, zerolinecolor: "#5b6b7b" } };
  if (dispersion) {
    const breaks = new Set(dispersion.breaks);
    const modes = dispersion.energies_meV[0].length;
    const x = dispersion.position_inverse_A.flatMap((place, k) => (breaks.has(k) ? [null, place] : [place]));
    for (let s = 0; s < modes; s++) {
      const y = dispersion.energies_meV.flatMap((row, k) => (breaks.has(k) ? [null, shown(row[s])] : [shown(row[s])]));
      traces.push({ x, y, mode: "lines", line: { color: "#56b4e9", width: 1.3 }, name: `mode ${s + 1}`, hovertemplate: "%{y:.2f}<extra></extra>" });
    }
    const ticks = dispersion.tick_positions_inverse_A;
    for (const tick of ticks) shapes.push({ type: "line", x0: tick, x1: tick, yref: "paper", y0: 0, y1: 1, line: { color: "#2a3644", width: 1 } });
    layout.xaxis = { ...AXIS, domain: [0, dos ? 0.74 : 1], tickvals: ticks, ticktext: dispersion.tick_labels.map(pretty), range: [ticks[0], ticks[ticks.length - 1]] };
  }
  if (dos) {
    const axes = dispersion ? { xaxis: "x2" } : {};
    const y = dos.energy_meV.map(shown);
    traces.push({ x: dos.total.map(per), y, mode: "lines", fill: "tozerox", fillcolor: "rgba(86,180,233,.15)", line: { color: "#e8edf2", width: 1.5 }, name: "total", ...axes });
    if (dos.band) traces.unshift({ ...steps(dos.band, dos.energy_meV[dos.energy_meV.length - 1]), mode: "lines", fill: "toself", fillcolor: "rgba(86,180,233,.22)", line: { width: 0 }, hoverinfo: "skip", name: `total, ${Math.round(100 * dos.band.level)} % band`, ...axes });
    const parts = Object.entries(dos.partial);
    if (parts.length > 1) parts.forEach(([symbol, values], k) => traces.push({ x: values.map(per), y, mode: "lines", line: { color: LINES[k % 5], dash: DASHES[k % 5], width: 1.4 }, name: symbol, ...axes }));
    layout[dispersion ? "xaxis2" : "xaxis"] = { ...AXIS, domain: dispersion ? [0.78, 1] : [0, 1], title: { text: `modes/${unit().name}` }, rangemode: "tozero" };
    traces.forEach((trace) => { trace.showlegend = !trace.name.startsWith("mode "); });
    layout.showlegend = parts.length > 1 || Boolean(dos.band);
    layout.legend = { x: 1, xanchor: "right", y: 0.99, bgcolor: "rgba(12,17,23,.7)" };
  }
  Plotly.react("phonons", traces, { ...layout, shapes }, CONFIG);
}

/** Outline of a band over the bins below an energy: up along its high side, back along the low one. */
function steps({ energy_edges_meV, low, high }, top) {
  const edges = energy_edges_meV.map((edge) => Math.min(edge, top));
  const bins = edges.filter((edge) => edge < top).length;
  const side = (values) => values.slice(0, bins).flatMap((v, k) => [[per(v), shown(edges[k])], [per(v), shown(edges[k + 1])]]);
  const outline = [...side(high), ...side(low).reverse()];
  return { x: outline.map(([x]) => x), y: outline.map(([, y]) => y) };
}

export function drawVibrational(part) {
  $("vibrational-card").hidden = !part;
  if (!part) return;
  const x = middle(part.energy_meV_edges).map(shown);
  const sum = (rows) => rows[0].map((_, k) => 1e3 * rows.reduce((all, row) => all + row[k], 0));
  const traces = [];
  part.banks.forEach((bank, b) => {
    const line = (y, name, colour, dash) => traces.push({ x, y, name: `${bank}: ${name}`, mode: "lines", line: { color: colour, dash, width: 1.4 }, visible: b === part.banks.length - 1 ? true : "legendonly" });
    line(sum(part.orders[b].slice(1)), "all", "#e8edf2", "solid");
    line(part.orders[b][1].map((v) => 1e3 * v), "fundamentals", "#56b4e9", "solid");
    line(sum(part.orders[b].slice(2)), "overtones, combinations", "#e69f00", "dot");
    if (part.elements.length > 1) part.elements.forEach((symbol, k) => line(sum(part.partials[k][b].slice(1)), symbol, LINES[(k + 1) % 5], DASHES[k % 5]));
  });
  Plotly.react("vibrational", traces, {
    ...LAYOUT, showlegend: true, legend: { orientation: "h", y: 1.12 }, margin: { l: 60, r: 12, t: 30, b: 44 },
    xaxis: { ...AXIS, title: { text: `energy transfer (${unit().name})` } },
    yaxis: { ...AXIS, title: { text: "mbarn/meV/sr per cell" }, rangemode: "tozero" },
  }, CONFIG);
}
