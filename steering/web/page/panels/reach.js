/* Which parts of the path each orientation reaches: measured ones, and those that are advised. */

import { $, cell, element, rows, text } from "../dom.js";
import { digits, pretty } from "../format.js";

const WIDTH = 560, BLUE = [86, 180, 233], YELLOW = [240, 228, 66];

export function drawReach(answer, view) {
  $("reach-card").hidden = !answer || !view;
  if (!answer || !view) return;
  const listed = answer.orientations.filter((one) => one.rank === 0).length;
  text("reach-note", `share of the energies within reach of Ei, from dark (none) to bright (all)${listed < answer.measured ? `; ${listed} of ${answer.measured} measured orientations` : ""}`);
  const x = view.path_position, ends = edges(x), at = (value) => WIDTH * (value - ends[0]) / (ends[ends.length - 1] - ends[0]);
  $("reach-ticks").replaceChildren(...labels(view, at));
  const advised = answer.orientations.filter((one) => one.rank > 0), done = answer.orientations.filter((one) => one.rank === 0);
  rows("reach", [...advised, ...done].map((one) => element("tr", {},
    cell(`${digits(one.psi_deg)}°`), cell(one.rank ? `◆ advised ${one.rank}` : "measured", "left"),
    element("td", { className: "strip" }, strip(one, view, ends, at)), cell(`${(100 * one.covered).toFixed(0)} %`))), "Comes with the first chunk.");
}

function strip(one, view, ends, at) {
  const canvas = element("canvas", { width: WIDTH, height: 14 }), pen = canvas.getContext("2d");
  const [r, g, b] = one.rank ? YELLOW : BLUE;
  one.share.forEach((share, k) => {
    pen.fillStyle = `rgba(${r},${g},${b},${share > 0 ? 0.15 + 0.85 * share : 0})`;
    const from = Math.round(at(ends[k]));
    pen.fillRect(from, 0, Math.round(at(ends[k + 1])) - from, 14);
  });
  pen.fillStyle = "#e8edf2";
  for (const tick of view.tick_positions) pen.fillRect(at(tick) - 0.5, 0, 1, 14);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `ψ ${digits(one.psi_deg)}° reaches ${segments(one, view).join(", ")}`);
  canvas.title = segments(one, view).join(", ");
  return canvas;
}

// What is reached between every two labels of the path.
function segments(one, view) {
  return view.tick_positions.slice(1).map((end, k) => {
    const inside = one.share.filter((_, bin) => view.path_position[bin] >= view.tick_positions[k] && view.path_position[bin] <= end);
    const mean = inside.reduce((sum, share) => sum + share, 0) / Math.max(inside.length, 1);
    return `${pretty(view.tick_labels[k].split("|").pop())}–${pretty(view.tick_labels[k + 1].split("|")[0])} ${(100 * mean).toFixed(0)} %`;
  });
}

// Labels that have room beside those before.
function labels(view, at) {
  let free = -Infinity;
  return view.tick_positions.map((tick, k) => [100 * at(tick) / WIDTH, pretty(view.tick_labels[k])]).filter(([place]) => {
    const fits = place - free > 5;
    if (fits) free = place;
    return fits;
  }).map(([place, label]) => element("span", { textContent: label, style: { left: `${place}%` } }));
}

function edges(x) {
  if (x.length === 1) return [x[0] - 0.5, x[0] + 0.5];
  return [1.5 * x[0] - 0.5 * x[1], ...x.slice(1).map((value, i) => (value + x[i]) / 2), 1.5 * x[x.length - 1] - 0.5 * x[x.length - 2]];
}
