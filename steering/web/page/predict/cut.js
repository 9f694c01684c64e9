/* S(Q,E) of a single crystal: along a line against energy, or over a plane in a band. */

import { $, text } from "../dom.js";
import { Plotly, LAYOUT, AXIS, CONFIG } from "../charts.js";
import { digits, known } from "../format.js";
import { shown, unit } from "./units.js";

const bracket = (hkl, [open, close]) => `${open}${hkl.map((x) => digits(x, 3)).join(", ")}${close}`;

export function drawCut(found) {
  const part = found.line ?? found.plane;
  $("cut-card").hidden = !part;
  if (!part) return;
  const plane = part.band_meV !== null;
  text("cut-title", plane ? `S(Q,Q) at ${part.band_meV.map((e) => digits(shown(e), 3)).join(" to ")} ${unit().name}` : "S(Q,E) along a line");
  const columns = part.intensity.map((row) => Math.max(...row.filter(known), 0)).filter((v) => v > 0).sort((a, b) => a - b);
  const top = columns.length ? columns[Math.floor(0.8 * (columns.length - 1))] : 1;
  const z = part.intensity[0].map((_, j) => part.intensity.map((row) => row[j]));
  const names = part.intensity.map((_, i) => part.intensity[0].map((__, j) => bracket(plane ? part.hkl_rlu[i][j] : part.hkl_rlu[i], "()")));
  const marks = [0, 0.05, 0.25, 0.5, 1].map((share) => share * top);
  const [u, v] = part.directions_rlu;
  Plotly.react("cut", [{
    type: "heatmap", x: part.x_edges, y: plane ? part.y_edges : part.y_edges.map(shown), z: z.map((row) => row.map((value) => (value === null ? null : Math.sqrt(Math.max(value, 0))))),
    text: z.map((row, j) => row.map((value, i) => `${names[i][j]} r.l.u.: ${digits(value, 3)}`)), hovertemplate: "%{text}<extra></extra>", zmin: 0, zmax: Math.sqrt(top), colorscale: "Viridis",
    colorbar: { title: { text: "barn/meV/sr<br>per cell" }, tickvals: marks.map(Math.sqrt), ticktext: marks.map((value) => digits(value, 2)), thickness: 14 },
  }], {
    ...LAYOUT, plot_bgcolor: "#3c4653", margin: { l: 60, r: 10, t: 8, b: 48 },
    xaxis: { ...AXIS, showgrid: false, title: { text: `Q along ${bracket(u, "[]")} from ${bracket(part.origin_rlu, "()")} (1/Å)` } },
    yaxis: { ...AXIS, showgrid: false, title: { text: plane ? `Q along ${bracket(v, "[]")} (1/Å)` : `energy transfer (${unit().name})` }, ...(plane ? { scaleanchor: "x", constrain: "domain" } : {}) },
  }, CONFIG);
}
