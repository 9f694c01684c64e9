/* One dialog for everything that is asked for: what, a choice or a field, why, and a last look. */

import { askFor, may, seen } from "./acting.js";
import { $, element } from "./dom.js";

let wanted = null; // makes what is asked for out of the form
let basis = null; // what there was when the dialog opened: who asks has seen no more
let done = () => {}; // after something was asked for

/** Say what is to happen after something was asked for. */
export function wireDialog(after) {
  done = after;
  $("ask-cancel").addEventListener("click", () => $("ask").close());
  $("ask-form").addEventListener("submit", send);
  $("ask-form").addEventListener("input", check);
}

/** A button that opens the dialog; nothing where who looks may not ask for any of it.

    choices: [{what, label, asked}], of which those that may be asked for are offered.
    field: {label, type, value, hint, optional}; its value is given to `asked`. */
export function asking(label, title, choices, { field = null, danger = false } = {}) {
  const open = choices.filter((choice) => may(choice.what));
  if (!open.length) return "";
  const button = element("button", { type: "button", className: danger ? "ask danger" : "ask", textContent: label, title });
  button.addEventListener("click", () => show(title, open, field));
  return button;
}

function show(title, choices, field) {
  basis = seen();
  $("ask-title").textContent = title;
  $("ask-fault").hidden = true;
  $("ask-choices").replaceChildren(...(choices.length === 1 ? [element("p", { textContent: choices[0].label })] : choices.map(offered)));
  $("ask-field").hidden = field === null;
  const input = $("ask-value");
  input.value = field?.value ?? "";
  input.required = field !== null && !field.optional;
  input.type = field?.type ?? "text";
  input.step = "any";
  $("ask-label").textContent = field?.label ?? "";
  $("ask-hint").textContent = field?.hint ?? "";
  $("ask-why").value = "";
  $("ask-send").textContent = "Ask for it";
  wanted = () => {
    const chosen = choices.length === 1 ? choices[0] : choices[Number(new FormData($("ask-form")).get("choice"))];
    return chosen.asked(input.value.trim());
  };
  check();
  $("ask").showModal();
  (field ? input : choices.length > 1 ? $("ask-choices").querySelector("input") : $("ask-why")).focus();
}

const offered = (choice, i) => element("label", { className: "choice" }, element("input", { type: "radio", name: "choice", value: String(i), checked: i === 0 }), element("span", { textContent: choice.label }));

function check() {
  const empty = $("ask-why").value.trim() === "" || ($("ask-value").required && $("ask-value").value.trim() === "");
  $("ask-send").disabled = empty;
}

async function send(event) {
  event.preventDefault();
  $("ask-send").disabled = true;
  try {
    await askFor(basis, wanted(), $("ask-why").value.trim());
    $("ask").close();
  } catch (error) {
    const conflict = error.status === 409 && Number.isInteger(error.version);
    if (conflict) basis = { ...basis, version: error.version };
    $("ask-fault").textContent = error.status ? error.message : "It could not be sent: the server is gone, or cannot be reached. Nothing is lost but this; try again.";
    $("ask-fault").hidden = false;
    $("ask-send").textContent = conflict ? "Ask all the same" : "Ask for it";
  }
  check();
  if (!$("ask").open) $("ask-send").textContent = "Ask for it";
  done();
}
