/* The four words of a run, as the server makes them: the page adds none. */

import { wallTime } from "../clock.js";
import { $, element, text, tone } from "../dom.js";

export function drawVerdicts(verdict) {
  card("verdict-stop", "stop-word", "stop-reason", verdict.stop);
  if (verdict.stop.eta_ns != null) $("stop-reason").append(element("li", { id: "eta", textContent: `targets about ${wallTime(verdict.stop.eta_ns)}, without pauses` }));
  card("verdict-next", "next-psi", "next-more", verdict.advice);
  card("verdict-trust", "trust-badge", "trust-evidence", verdict.trust);
  card("verdict-coverage", "coverage-word", "coverage-more", verdict.coverage);
  text("next-title", verdict.advice.code === "turn" ? "Turn to" : "Next");
  const { more } = verdict.trust;
  $("trust-why").hidden = more.length === 0;
  text("trust-more", verdict.trust.code === "trusted" ? "More" : "All reasons, in full");
  lines("trust-reasons", more);
}

function card(id, word, evidence, said) {
  $(id).hidden = said.word === "";
  tone($(id), said.tone);
  text(word, said.word.replace("psi", "ψ"));
  lines(evidence, said.evidence);
}

function lines(id, told) { $(id).replaceChildren(...told.map((line) => element("li", { textContent: line }))); }
