/* Alarms that hold, who knows of them, and a sound for those that nobody knows of. */

import { wallTime } from "../clock.js";
import { $, element, text } from "../dom.js";
import { ask, post } from "../source.js";

const AGAIN_MS = 60000; // between sounds while an alarm holds that nobody knows of
const MOST = 5; // sounds of one alarm

let served = true; // whether this server tells of alarms
let loud = false;
let air = null; // the AudioContext; browsers allow one after a click
let drawn = "";
const rung = new Map(); // alarm: how often it rang, and when last

export function wireAlarms() {
  $("sound").addEventListener("click", () => {
    loud = !loud;
    air ??= new AudioContext();
    air.resume();
    $("sound").setAttribute("aria-pressed", String(loud));
    text("sound", loud ? "Sound on" : "Sound off");
    if (loud) ring(1); // so that one knows how it sounds
  });
}

/** Ask for alarms and draw them; nothing where the server has none. */
export async function learnAlarms() {
  if (!served) return;
  try {
    draw((await ask("/alarms")).alarms);
  } catch (error) {
    if (error.status === 404) served = false;
    else throw error;
  }
}

/** The server is gone: that is an alarm that only the page can give. */
export function serverGone(gone) {
  if (gone) sound("the server is gone");
  else rung.delete("the server is gone");
}

function draw(alarms) {
  const holding = alarms.filter((one) => one.over_ns === null);
  const unknown = holding.filter((one) => !one.acknowledged);
  for (const one of unknown) sound(one.id);
  for (const id of rung.keys()) if (!unknown.some((one) => one.id === id) && id !== "the server is gone") rung.delete(id);
  document.title = `${unknown.length ? "⚠ " : ""}${document.title.replace(/^⚠ /, "")}`;
  const told = JSON.stringify(holding);
  if (told === drawn) return; // a screen reader says it once
  drawn = told;
  $("alarms").hidden = holding.length === 0;
  $("alarms").replaceChildren(...holding.map(line));
}

function line(one) {
  const known = one.acknowledged ? ` ${one.acknowledged.by} knows.` : " ";
  const words = element("p", { className: one.acknowledged ? "odd" : "failure" }, element("b", { textContent: `⚠ ${one.kind} since ${wallTime(one.since_ns)}: ` }), one.text + known);
  if (!one.acknowledged) words.append(acknowledging(one));
  return words;
}

function acknowledging(one) {
  const button = element("button", { type: "button", className: "ask", textContent: "I know" });
  button.addEventListener("click", async () => {
    button.disabled = true;
    const answer = await post(`/alarms/${encodeURIComponent(one.id)}/acknowledge`, {}).catch(() => null);
    if (answer?.ok) { await learnAlarms(); return; }
    const why = answer ? (await answer.json().catch(() => ({}))).detail : "The server cannot be reached.";
    button.disabled = false;
    button.after(element("span", { textContent: ` ${typeof why === "string" ? why : "It could not be noted."}` }));
  });
  return button;
}

function sound(id) {
  const before = rung.get(id) ?? { times: 0, at: -Infinity }, now = performance.now();
  if (!loud || before.times >= MOST || now - before.at < AGAIN_MS) return;
  rung.set(id, { times: before.times + 1, at: now });
  ring(3);
}

// Beeps of 880 Hz; how many were made is kept on the node, for whoever tests it.
function ring(beeps) {
  for (let k = 0; k < beeps; k++) {
    const tone = air.createOscillator(), volume = air.createGain(), from = air.currentTime + 0.35 * k;
    tone.frequency.value = 880;
    volume.gain.setValueAtTime(0.25, from);
    volume.gain.exponentialRampToValueAtTime(0.001, from + 0.3);
    tone.connect(volume).connect(air.destination);
    tone.start(from);
    tone.stop(from + 0.3);
  }
  $("sound").dataset.rung = String(Number($("sound").dataset.rung ?? 0) + beeps);
}
