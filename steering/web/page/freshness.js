/* How old the page is: grey and "as of" as soon as anything that feeds it is gone. */

import { aged, ageOf, learn, serverNow, skewText, wallTime } from "./clock.js";
import { $, element, text, tone } from "./dom.js";

const GONE_MS = 5000; // without an answer
const STATUS = { running: "live", finished: "ended", failed: "failed" };

let verdict = null; // the newest one
let answered = performance.now(); // when the server answered last, by a clock that never steps
let lost = false; // the last question was not answered
let drawn = "";

/** Take in what the server said, and when it was asked and came, by the browser's clock. */
export function heard(newest, asked, came) {
  learn(newest.now_ns, asked, came);
  verdict = newest;
  reached();
}

/** The server answered something. */
export function reached() {
  answered = performance.now();
  lost = false;
  tick();
}

/** The server did not answer. */
export function unheard() {
  lost = true;
  tick();
}

/** Forget the run that was shown. */
export function forget() { verdict = null; }

/** Tell how old everything is; called every second. */
export function tick() {
  const gone = performance.now() - answered > GONE_MS;
  const reasons = [...(verdict?.stale ?? []).map((one) => one.text)];
  let asOf = verdict && reasons.length ? verdict.as_of_ns : null;
  if (gone) {
    const last = verdict ? Math.min(verdict.now_ns, asOf ?? verdict.now_ns) : 1e6 * (serverNow() - (performance.now() - answered));
    reasons.unshift(`The server has not answered since ${wallTime(verdict?.now_ns ?? last)}: it is gone, or cannot be reached. Nothing below is newer. Look whether “beamsteer serve” runs, and at the network.`);
    asOf = last;
  }
  const old = asOf !== null;
  document.body.classList.toggle("old", old);
  for (const node of document.querySelectorAll(".as-of")) {
    node.hidden = !old;
    node.textContent = old ? `as of ${wallTime(asOf)}` : "";
  }
  const odd = [skewText(), ...(verdict?.warnings ?? [])].filter(Boolean);
  const told = JSON.stringify([reasons, odd]);
  if (told !== drawn) { // a screen reader says it once
    drawn = told;
    list("stale", reasons, "failure");
    list("odd", odd, "odd");
  }
  drawLink(gone, old ? `old: as of ${wallTime(asOf)}` : null);
}

function list(id, lines, className) {
  $(id).hidden = lines.length === 0;
  $(id).replaceChildren(...lines.map((line) => element("p", { className, textContent: line })));
}

function drawLink(gone, old) {
  const link = $("link");
  const state = gone ? "server gone" : lost ? "connection lost, trying again" : null;
  tone(link, state ? "bad" : old ? "warn" : verdict ? "good" : "");
  text("link", state && old ? `${state}, ${old}` : state ?? old ?? live());
}

function live() {
  if (!verdict) return "connected";
  const word = STATUS[verdict.status];
  if (verdict.status !== "running") return `${word} ${wallTime(verdict.as_of_ns)}`;
  const made = verdict.trust.made_ns;
  return made == null ? `${word}, no estimate yet` : `${word}, estimate of ${wallTime(made)}, ${aged(ageOf(made))} old`;
}
