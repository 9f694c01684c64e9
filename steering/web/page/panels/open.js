/* The dwell that is open: what has come of it, a few seconds ago; nothing is estimated from it. */

import { ageOf, aged, wallTime } from "../clock.js";
import { $, text } from "../dom.js";
import { digits, fixed, known, whole } from "../format.js";

const OLD_S = 20; // a worker looks every five

let dwell = null; // of the run that is shown

/** What came last of it; null while there is none. */
export const openDwell = () => dwell;

/** Take what the server told of the open dwell of the shown run; null: none is open. */
export function learnOpen(told) {
  dwell = told;
  $("open-dwell").hidden = told === null;
  if (told === null) { text("open-dwell", ""); return; }
  const age = ageOf(told.looked_ns), seconds = (told.newest_ns - told.start_ns) / 1e9;
  const said = [
    `Open now: ${told.chunk}${known(told.psi_deg) ? ` at psi ${fixed(told.psi_deg, 1)}°` : ""}, ${aged(seconds)} since ${wallTime(told.start_ns)}`,
    `${whole(told.read)} neutrons, ${whole(told.folded)} of them in the path${told.waiting ? `, ${whole(told.waiting)} not looked at yet` : ""}`,
    known(told.rate_per_s) && `${digits(told.rate_per_s, 3)} per second`,
    known(told.beam_current_microampere) && `beam ${digits(told.beam_current_microampere, 3)} µA`,
    known(told.temperature_K) && `${digits(told.temperature_K, 4)} K`,
    told.note && `not folded yet: ${told.note}`,
    age > OLD_S ? `as of ${aged(age)} ago` : "not in the answer yet",
  ].filter(Boolean).join(" · ");
  text("open-dwell", said);
  $("open-dwell").classList.toggle("odd", age > OLD_S);
}
