/* The wall: four words that are read from five metres. Asked for by ?wall. */

import { wallTime, serverNow } from "./clock.js";
import { $, text } from "./dom.js";

export const onWall = new URLSearchParams(location.search).has("wall");

/** Show the four words alone, as large as the screen allows. */
export function wireWall() {
  document.body.classList.toggle("wall", onWall);
  $("wall-foot").hidden = !onWall;
  $("to-wall").hidden = onWall;
  $("to-page").hidden = !onWall;
  for (const link of [$("to-wall"), $("to-page")]) {
    link.addEventListener("click", () => { link.hash = location.hash; });
  }
}

/** Make long words narrower, never lower; tell the time. */
export function drawWall(run) {
  if (!onWall) return;
  text("wall-run", run.title);
  text("wall-clock", wallTime(1e6 * serverNow()));
  for (const word of document.querySelectorAll(".verdict:not([hidden]) .big")) {
    word.style.transform = "none";
    const room = word.parentElement.clientWidth - 48;
    word.style.transform = word.scrollWidth > room ? `scaleX(${room / word.scrollWidth})` : "none";
  }
}
