/* Pictures of a latent: where spectra lie, what dimensions tell of, what each orientation tells. */

import { text } from "../dom.js";
import { AXIS, CONFIG, LAYOUT, Plotly } from "../charts.js";
import { digits } from "../format.js";

const LINES = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#f0e442", "#e8edf2", "#a3b1c0"];
const DASHES = ["solid", "dash", "dashdot", "longdash"];
const MARK = { symbol: "star", size: 17, color: "#f0e442", line: { color: "#0b1016", width: 1.2 } };

export function drawPlaces(latent, chosen, reading, run) {
  const { map, parameter_names: names, unit } = latent;
  const x = map.simulated.map((place) => place[0]), y = map.simulated.map((place) => place[1]);
  const values = map.parameters.map((row) => row[chosen]);
  const traces = [{
    x, y, mode: "markers", name: "simulated", text: values.map((v) => `${names[chosen]} ${digits(v)}`), hovertemplate: "%{text}<extra></extra>",
    marker: { size: 6, color: values, colorscale: "Viridis", opacity: 0.85, colorbar: { title: { text: unit.replace("^2", "²") }, thickness: 12, outlinewidth: 0 } },
  }];
  if (reading?.latent_place) traces.push({ x: [reading.latent_place[0]], y: [reading.latent_place[1]], mode: "markers+text", text: [run], textposition: "top center", marker: MARK, name: run, hovertemplate: `${run}<extra></extra>` });
  const share = (k) => `component ${k + 1} (${Math.round(100 * map.shares[k])} % of the variance)`;
  Plotly.react("places", traces, { ...LAYOUT, margin: { l: 56, r: 12, t: 10, b: 46 }, xaxis: { ...AXIS, title: { text: share(0) } }, yaxis: { ...AXIS, title: { text: share(1) } } }, CONFIG);
  text("places-note", `principal components of ${latent.spectra} simulated spectra, coloured by ${names[chosen]}`);
}

export function drawDimensions(latent) {
  const order = latent.activity.variance.map((_, k) => k).sort((a, b) => latent.activity.variance[b] - latent.activity.variance[a]);
  const heat = (id, table, title, more) => Plotly.react(id, [{ type: "heatmap", z: order.map((k) => table[k]), x: latent.parameter_names, y: order.map(String), hovertemplate: "dimension %{y}, %{x}: %{z:.2f}<extra></extra>", colorbar: { thickness: 12, outlinewidth: 0 }, ...more }], {
    ...LAYOUT, title: { text: title, font: { size: 13 } }, margin: { l: 56, r: 8, t: 34, b: 62 }, xaxis: { ...AXIS, tickangle: -50 },
    yaxis: { ...AXIS, type: "category", autorange: "reversed", title: { text: "dimension, most active first" } },
  }, CONFIG);
  heat("sensitivity", latent.sensitivity, "spreads of the code per prior sigma", { colorscale: "Viridis", zmin: 0 });
  heat("correlation", latent.correlation, "correlation of code and parameter", { colorscale: "RdBu", reversescale: false, zmin: -1, zmax: 1 });
  text("dimensions-note", `${latent.activity.active.filter(Boolean).length} of ${order.length} dimensions are active`);
}

export function drawPsi(latent, minutes) {
  const { psi_deg: psi, error_over_prior: error, all_orientations: all } = latent.psi;
  const traces = [], shapes = [];
  latent.parameter_names.forEach((name, k) => {
    const color = LINES[k % LINES.length];
    traces.push({ x: psi, y: error[minutes].map((row) => row[k]), mode: "lines+markers", name, line: { color, dash: DASHES[Math.floor(k / LINES.length) % 4], width: 1.6 }, hovertemplate: `${name}: %{y:.2f} at %{x}°<extra></extra>` });
    shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: all[minutes][k], y1: all[minutes][k], line: { color, dash: "dot", width: 1 } });
  });
  Plotly.react("psi", traces, { ...LAYOUT, showlegend: true, shapes, margin: { l: 60, r: 12, t: 10, b: 46 }, xaxis: { ...AXIS, title: { text: "psi (degrees)" } }, yaxis: { ...AXIS, title: { text: "error / prior width" }, rangemode: "tozero" } }, CONFIG);
}

export function drawDistance(latent, reading, run) {
  const shares = latent.distance["shares of simulated spectra that are nearer"];
  const traces = latent.distance.levels.map((level, k) => ({ x: level.distance, y: shares.map((share) => 100 * share), mode: "lines+markers", name: `${level.counts.toLocaleString("en-US")} counts`, line: { color: LINES[k % LINES.length], width: 1.6 }, hovertemplate: "%{y:.0f} % are nearer than %{x:.2f}<extra></extra>" }));
  const far = Math.max(...latent.distance.levels.map((level) => level.distance[level.distance.length - 1]), reading?.latent_distance ?? 0);
  const shapes = reading ? [{ type: "line", x0: reading.latent_distance, x1: reading.latent_distance, yref: "paper", y0: 0, y1: 1, line: { color: MARK.color, width: 2 } }] : [];
  const annotations = reading ? [{ x: reading.latent_distance, y: 1, yref: "paper", yanchor: "bottom", text: run, showarrow: false, font: { color: MARK.color } }] : [];
  Plotly.react("distance", traces, { ...LAYOUT, showlegend: true, shapes, annotations, margin: { l: 60, r: 12, t: 24, b: 46 }, xaxis: { ...AXIS, title: { text: "latent distance" }, range: [0, 1.08 * far] }, yaxis: { ...AXIS, title: { text: "simulated spectra that are nearer (%)" }, range: [0, 104] } }, CONFIG);
}
