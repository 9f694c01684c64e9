/* What is known of one cell of the map, in lines of words. */

import { digits, fixed, known } from "../format.js";

/** Where a path bin lies, as (h k l); empty where the run does not tell. */
export function placeText(view, i) {
  return view.hkl ? `(${view.hkl[i].map((x) => digits(Math.abs(x) < 1e-9 ? 0 : x, 3)).join(" ")})` : "";
}

export const energyAt = (view, j) => 0.5 * (view.energy_edges_meV[j] + view.energy_edges_meV[j + 1]);

/** Place, energy, intensity with its error, counts and exposure of a cell. */
export function cellText(view, i, j) {
  const value = view.intensity[i][j];
  const lines = [`${placeText(view, i)} E ${fixed(energyAt(view, j), 2)} meV`.trim()];
  if (value === null) return [...lines, "no exposure: unknown, not empty"];
  lines.push(`I ${digits(value, 4)} ± ${digits(upperError(view, i, j), 2)} barn/meV/sr${view.fitted && !view.fitted[i][j] ? ", not fitted" : ""}`);
  if (known(view.model_intensity[i][j])) lines.push(`model ${digits(view.model_intensity[i][j], 4)}, residual ${fixed(view.residual_sigma[i][j], 2)} σ`);
  if (view.counts) lines.push(`${digits(view.counts[i][j], 4)} counts${known(view.exposure?.[i][j]) ? `, exposure ${digits(view.exposure[i][j], 3)}` : ""}`);
  return lines;
}

const NOT_COUNTED = 1.15; // 68 % limit on the expected count where nothing was counted

/** The error upwards: of a cell where nothing was counted what its exposure leaves open. */
export function upperError(view, i, j) {
  const sigma = view.sigma[i][j];
  if (sigma || !known(view.exposure?.[i][j]) || !known(view.scale)) return sigma;
  return NOT_COUNTED / (view.exposure[i][j] * view.scale);
}
