/* Energies in the unit that the reader chose. All that the server sends is in meV. */

export const UNITS = {
  meV: { name: "meV", per: 1 },
  THz: { name: "THz", per: 1 / 4.135667696923859 },
  cm: { name: "cm⁻¹", per: 8.065543937 },
};

let chosen = UNITS.meV;

export const unit = () => chosen;
export function choose(name) { chosen = UNITS[name] ?? UNITS.meV; }

/** An energy of meV in the chosen unit; null stays null. */
export const shown = (meV) => (meV === null ? null : meV * chosen.per);
/** An energy of the chosen unit in meV. */
export const inMeV = (value) => value / chosen.per;
/** A density per meV, per the chosen unit. */
export const per = (density) => (density === null ? null : density / chosen.per);

export const middle = (edges) => edges.slice(1).map((edge, k) => 0.5 * (edge + edges[k]));
