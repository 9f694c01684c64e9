/* In short: whether to measure on, where to turn to, and what was used so far. */

import { $, text, tone } from "../dom.js";
import { digits, fixed, known, minutes, whole } from "../format.js";

export function drawVerdicts(run) {
  drawStop(run);
  drawNext(run);
  drawUsed(run);
}

function stopWord(run) {
  const { result } = run;
  const ended = run.status !== "running";
  if (!result) return ended ? "Nothing" : "Waiting";
  if (result.stop.stop) return "Stop now";
  if (!result.trusted) return "Test the model";
  const left = result.stop.minutes_to_target;
  if (!known(left)) return "Go on";
  return ended ? `Short by ${minutes(left)} min` : `Go on: ${minutes(left)} min`;
}

function drawStop(run) {
  tone($("verdict-stop"), run.result?.stop.stop ? "good" : "");
  text("stop-word", stopWord(run));
  text("stop-reason", run.result ? run.result.stop.reason : "No chunk has been folded yet.");
}

function drawNext({ result }) {
  const best = result?.advice[0];
  text("next-psi", best ? `ψ = ${digits(best.psi_deg)}°` : "–");
  if (best) text("next-more", `for ${digits(best.minutes, 3)} min at Ei ${digits(best.ei_meV)} meV`);
  else text("next-more", result ? `No advice: ${result.stop.reason}` : "");
}

function drawUsed(run) {
  const { result } = run;
  const folded = run.chunks.filter((chunk) => chunk.status === "folded").length;
  text("used", result ? `${fixed(result.minutes_used, 1)} min` : `${folded} ${folded === 1 ? "chunk" : "chunks"}`);
  text("used-more", [
    `${folded} ${folded === 1 ? "chunk" : "chunks"} folded`,
    run.chunks.length > folded && `${run.chunks.length - folded} set aside`,
    result && `${fixed(100 * result.coverage_fraction, 0)} % of cells covered`,
    result && `${whole(result.events.folded)} of ${whole(result.events.read)} events folded`,
    known(run.estimate_seconds) && `estimate in ${digits(run.estimate_seconds, 2)} s`,
  ].filter(Boolean).join(" · "));
}
