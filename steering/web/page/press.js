/* Nothing is drawn under a pressed pointer: a button that is replaced meanwhile is not clicked. */

const LONGEST_MS = 2000; // whoever holds it for longer does not click, and the page must go on

let pressedAt = -Infinity;
const waiting = new Set();

/** Draw now, or once what is pressed was clicked. */
export function unpressed(draw) {
  if (performance.now() - pressedAt > LONGEST_MS) draw();
  else waiting.add(draw);
}

function catchUp() {
  pressedAt = -Infinity;
  const late = [...waiting];
  waiting.clear();
  for (const draw of late) draw();
}

let held = 0;
addEventListener("pointerdown", () => {
  pressedAt = performance.now();
  clearTimeout(held);
  held = setTimeout(catchUp, LONGEST_MS);
}, true);
for (const over of ["pointerup", "pointercancel"]) addEventListener(over, () => {
  clearTimeout(held);
  held = setTimeout(catchUp); // after the click
}, true);
