/* Nothing is drawn under a pressed pointer: a button that is replaced meanwhile is not clicked. */

const LONGEST_MS = 2000; // whoever holds it for longer does not click, and the page must go on

let pressed = false;
const waiting = new Set();

/** Draw now, or once what is pressed was clicked. */
export function unpressed(draw) {
  if (pressed) waiting.add(draw);
  else draw();
}

function catchUp() {
  pressed = false;
  const late = [...waiting];
  waiting.clear();
  for (const draw of late) draw();
}

let held = 0;
addEventListener("pointerdown", () => {
  pressed = true;
  clearTimeout(held);
  held = setTimeout(catchUp, LONGEST_MS);
}, true);
for (const over of ["pointerup", "pointercancel"]) addEventListener(over, () => {
  clearTimeout(held);
  held = setTimeout(catchUp); // after the click
}, true);
