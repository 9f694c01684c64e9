/* Whether the model explains the data, and why not. */

import { $, element, text, tone } from "../dom.js";

export function drawTrust({ result }) {
  tone($("verdict-trust"), result ? (result.trusted ? "good" : "bad") : "");
  text("trust-badge", result ? (result.trusted ? "✓ Trusted" : "✗ Not trusted") : "–");
  const reasons = result ? result.reasons : [];
  $("trust-reasons").replaceChildren(...reasons.map((reason) => element("li", { textContent: reason })));
}
