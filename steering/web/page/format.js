/* Numbers and labels as text. */

const GREEK = { Gamma: "Γ", GAMMA: "Γ", Sigma: "Σ", Delta: "Δ", Lambda: "Λ" };

export const known = (x) => typeof x === "number" && Number.isFinite(x);

/** A number in so many significant digits; a dash where it is not known. */
export function digits(x, n = 4) {
  if (!known(x)) return "–";
  if (x !== 0 && (Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3)) return x.toExponential(Math.max(n - 2, 1));
  return Number(x.toPrecision(n)).toString().replace("-", "−");
}

/** A number with so many decimals. */
export const fixed = (x, n) => (known(x) ? x.toFixed(n).replace("-", "−") : "–");

export const whole = (x) => (known(x) ? x.toLocaleString("en-US") : "–");

/** As many decimals as an error carries. */
export function decimals(sigma) {
  return known(sigma) && sigma > 0 ? Math.min(6, Math.max(0, 1 - Math.floor(Math.log10(sigma)))) : 4;
}

/** Minutes to come: finer where few are left. */
export const minutes = (x) => fixed(x, x < 10 ? 1 : 0);

/** Names of points on the path, "Gamma|U" as "Γ|U". */
export const pretty = (label) => label.split("|").map((part) => GREEK[part] || part).join("|");
