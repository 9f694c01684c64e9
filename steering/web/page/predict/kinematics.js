/* What a neutron of an incident energy can reach: hbar^2 / 2m = 2.0721248 meV A^2. */

import { Plotly, LAYOUT, AXIS, CONFIG } from "../charts.js";
import { fixed } from "../format.js";
import { shown, unit } from "./units.js";

const H2_2M = 2.0721248;
const POINTS = 120;
const LOWEST = 1;
const HIGHEST = 3000;

/** |Q| in 1/A at an energy transfer, for a scattering angle. */
export function momentum(eiMeV, energyMeV, degrees) {
  const ef = eiMeV - energyMeV;
  if (ef < 0) return null;
  const q2 = (eiMeV + ef - 2 * Math.sqrt(eiMeV * ef) * Math.cos((degrees * Math.PI) / 180)) / H2_2M;
  return Math.sqrt(Math.max(q2, 0));
}

/** Outline of what is in reach, as points of |Q| and E in meV. */
export function outline(eiMeV, [low, high]) {
  const energies = Array.from({ length: POINTS }, (_, k) => (eiMeV * k) / (POINTS - 1));
  const near = energies.map((e) => momentum(eiMeV, e, low));
  const far = energies.map((e) => momentum(eiMeV, e, high));
  return { q: [...near, ...far.reverse()], energy: [...energies, ...energies.slice().reverse()] };
}

/** Width at E = 0, between the energies of the table. */
export function elasticWidth(preset, eiMeV, genericShare) {
  if (preset.kind === "generic") return genericShare * eiMeV;
  const { ei_meV: table, elastic_fwhm_meV: widths } = preset;
  const k = Math.min(Math.max(table.findIndex((e) => e >= eiMeV), 1), table.length - 1);
  const at = (Math.log(eiMeV) - Math.log(table[k - 1])) / (Math.log(table[k]) - Math.log(table[k - 1]));
  return Math.exp(Math.log(widths[k - 1]) + at * (Math.log(widths[k]) - Math.log(widths[k - 1])));
}

export const eiOfSlider = (place) => Number((LOWEST * (HIGHEST / LOWEST) ** (place / 1000)).toPrecision(3));
export const sliderOfEi = (ei) => (1000 * Math.log(ei / LOWEST)) / Math.log(HIGHEST / LOWEST);

/** Draw what is in reach, and say it. */
export function drawReach(preset, eiMeV, genericShare, topMeV) {
  const found = outline(eiMeV, preset.two_theta_deg);
  const line = { x: found.q, y: found.energy.map(shown), mode: "lines", fill: "toself", fillcolor: "rgba(86,180,233,.18)", line: { color: "#56b4e9", width: 1.5 }, hoverinfo: "skip" };
  const shapes = topMeV && topMeV < eiMeV ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: shown(topMeV), y1: shown(topMeV), line: { color: "#f5b942", width: 1, dash: "dash" } }] : [];
  Plotly.react("kinematics", [line], {
    ...LAYOUT, margin: { l: 48, r: 8, t: 6, b: 42 }, shapes,
    xaxis: { ...AXIS, title: { text: "|Q| (1/Å)", standoff: 4 }, rangemode: "tozero" },
    yaxis: { ...AXIS, title: { text: `E (${unit().name})` }, rangemode: "tozero" },
  }, { ...CONFIG, displayModeBar: false, staticPlot: true });
  const [low, high] = preset.two_theta_deg.map((angle) => momentum(eiMeV, 0, angle));
  const width = elasticWidth(preset, eiMeV, genericShare);
  return `|Q| from ${fixed(low, 2)} to ${fixed(high, 2)} 1/Å at E = 0; resolution ${fixed(shown(width), 2)} ${unit().name} there (FWHM)`;
}
