/* Every parameter against the minutes used, with its 90 % interval and the band of its target. */

import { AXIS, CONFIG, LAYOUT, Plotly, Z90 } from "../charts.js";
import { $, element } from "../dom.js";
import { decimals, fixed, known } from "../format.js";
import { targetOf } from "../targets.js";

const ROW = 122; // pixels per row of small plots

export function drawHistory(run) {
  const node = $("history");
  const { history } = run;
  if (!history.length) {
    Plotly.purge(node);
    node.replaceChildren(element("p", { className: "note", textContent: "No estimate yet." }));
    node.style.height = "auto";
    return;
  }
  if (!node.classList.contains("js-plotly-plot")) node.replaceChildren();
  const all = history[history.length - 1].parameters.map((one) => one.name);
  const targeted = all.filter((name) => targetOf(run.result, name));
  const names = targeted.length ? targeted : all;
  const grid = gridOf(names.length, node.clientWidth || 800);
  node.style.height = `${grid.down * ROW + 62}px`;
  const traces = [], shapes = [], notes = [];
  const layout = Object.assign({}, LAYOUT, { margin: { l: 46, r: 8, t: 24, b: 38 }, shapes, annotations: notes, uirevision: run.run_id });
  names.forEach((name, k) => {
    const points = pointsOf(history, name);
    if (!points.length) return;
    const suffix = k ? String(k + 1) : "";
    const place = grid.place(k);
    traces.push(trace(name, points, suffix));
    const target = targetOf(run.result, name);
    if (target && run.result.trusted) shapes.push(band(points[points.length - 1].value, target.sigma, suffix));
    notes.push(heading(name, points[points.length - 1], place, grid.narrow));
    const lowest = place.row === grid.down - 1;
    layout[`xaxis${suffix}`] = Object.assign({}, AXIS, { domain: place.x, anchor: `y${suffix}`, title: lowest ? { text: "minutes used", font: { size: 11 }, standoff: 4 } : undefined, rangemode: "tozero", tickfont: { size: 11 }, nticks: 5, showticklabels: lowest || k + grid.across >= names.length });
    layout[`yaxis${suffix}`] = Object.assign({}, AXIS, { domain: place.y, anchor: `x${suffix}`, range: rangeOf(points), tickfont: { size: 11 }, nticks: 4 });
  });
  Plotly.react(node, traces, layout, Object.assign({}, CONFIG, { displayModeBar: false }));
}

function gridOf(n, width) {
  const across = Math.min(n, width > 720 ? 4 : width > 360 ? 2 : 1);
  const down = Math.ceil(n / across);
  const gapX = 50 / (width - 54), gapY = down > 1 ? 28 / (down * ROW) : 0;
  const w = (1 - gapX * (across - 1)) / across, h = (1 - gapY * (down - 1)) / down;
  return {
    across, down, narrow: width < 720,
    place(k) {
      const row = Math.floor(k / across), x0 = (k % across) * (w + gapX), y1 = 1 - row * (h + gapY);
      return { row, x: [x0, x0 + w], y: [y1 - h, y1] };
    },
  };
}

function pointsOf(history, name) {
  return history
    .map((step) => Object.assign({ minutes: step.minutes_used, trusted: step.trusted }, step.parameters.find((one) => one.name === name)))
    .filter((point) => known(point.value) && known(point.sigma));
}

function trace(name, points, suffix) {
  return {
    type: "scatter", mode: "lines+markers", name, xaxis: `x${suffix}`, yaxis: `y${suffix}`,
    x: points.map((p) => p.minutes), y: points.map((p) => p.value),
    error_y: { type: "data", array: points.map((p) => Z90 * p.sigma), color: "#8fd0f5", thickness: 1.4, width: 3 },
    line: { color: "#3f7ea6", width: 1 },
    marker: { size: 6.5, color: points.map((p) => (p.trusted ? "#56b4e9" : "#0b1016")), line: { color: "#8fd0f5", width: 1.4 } },
    hovertemplate: `${plain(name)} %{y:.4g} ± %{error_y.array:.2g} (90 %)<br>%{x:.1f} min<extra></extra>`,
  };
}

function band(value, sigma, suffix) {
  return { type: "rect", xref: `x${suffix} domain`, x0: 0, x1: 1, yref: `y${suffix}`, y0: value - Z90 * sigma, y1: value + Z90 * sigma, fillcolor: "#f0e442", opacity: 0.16, line: { width: 0 }, layer: "below" };
}

// Plotly reads a little markup in texts.
const plain = (name) => name.replace(/[<>&]/g, "");

function heading(name, last, place, narrow) {
  const n = decimals(last.sigma);
  return { text: `<b>${plain(name)}</b>  ${fixed(last.value, n)} ± ${fixed(last.sigma, n)}`, xref: "paper", yref: "paper", x: place.x[0], y: place.y[1], xanchor: "left", yanchor: "bottom", showarrow: false, font: { size: narrow ? 10.5 : 12.5, color: last.trusted ? "#e8edf2" : "#8392a1" } };
}

// The later half sets the scale, so that a wild first estimate does not flatten the rest.
function rangeOf(points) {
  const late = points.slice(Math.floor(points.length / 2));
  const low = Math.min(...late.map((p) => p.value - 2.4 * p.sigma)), high = Math.max(...late.map((p) => p.value + 2.4 * p.sigma));
  return high > low ? [low, high] : [low - 1, high + 1];
}
