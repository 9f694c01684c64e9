/* What people asked of the run: the log, and who looks at this page. */

import { actions, closed, may, orders, whoLooks } from "../acting.js";
import { wallTime } from "../clock.js";
import { asking } from "../dialog.js";
import { $, cell, element, rows, text, tone } from "../dom.js";
import { digits, known } from "../format.js";

export function drawWho() {
  const me = whoLooks();
  $("who").hidden = !me?.login && !me?.named;
  text("who-name", me ? `${me.name} (${me.role})` : "");
  $("logout").hidden = !me?.login;
}

export function drawActions(run) {
  const told = actions();
  $("actions-card").hidden = !told?.live;
  if (!told?.live) return;
  const count = told.version === 1 ? "1 action" : `${told.version} actions`;
  text("actions-note", told.version ? count : "nobody has asked for anything");
  $("act-on-run").replaceChildren(...buttons(run));
  $("closed").hidden = !closed();
  text("closed", closed() ? `The run is ${told.orders.closed}. It takes nothing more.` : "");
  rows("actions", told.actions.map(line), "Withdraw a chunk, pin or veto an orientation, set targets: it is written here with who, when and why.");
}

function buttons(run) {
  const motion = run.experiment?.motion ?? {}, targets = run.experiment?.targets ?? {};
  const wanted = orders(), budget = wanted.budget_minutes ?? motion.budget_minutes;
  const number = (value) => (value === "" ? null : Number(value));
  return [
    asking("Targets…", "How well is every parameter to be known?", [{ what: "targets", label: "The stop rule and the advice go by this from now on, for all chunks there are.", asked: (value) => ({ what: "targets", relative_sigma: number(value) }) }], {
      field: { label: "sigma / |value|", type: "number", value: wanted.relative_sigma ?? targets.relative_sigma ?? "", hint: `Empty: as the experiment file says${known(targets.relative_sigma) ? ` (${digits(targets.relative_sigma)})` : ""}.`, optional: true },
    }),
    asking("Budget…", "How many beam minutes are planned?", [{ what: "budget", label: "Forecasts look ahead as far as this.", asked: (value) => ({ what: "budget", minutes: number(value) }) }], {
      field: { label: "beam minutes", type: "number", value: budget ?? "", hint: `Empty: as the experiment file says${known(motion.budget_minutes) ? ` (${digits(motion.budget_minutes)} min)` : ""}.`, optional: true },
    }),
    asking("Close the run…", "Close the run?", [{ what: "close", label: "It takes no chunk and no action any more, and is advised nothing, until somebody reopens it. What comes meanwhile is recorded, not folded.", asked: () => ({ what: "close" }) }], { danger: true }),
    asking("Reopen the run…", "Reopen the run?", [{ what: "reopen", label: "It takes chunks and actions again, and is advised again.", asked: () => ({ what: "reopen" }) }]),
  ].filter(Boolean);
}

function line(action) {
  const applied = action.state === "applied";
  const state = element("td", { className: applied ? "left" : "left waiting", textContent: applied ? `✓ applied ${wallTime(action.applied_ns)}` : `… asked for; waits for the ${action.waits_for.join(" and the ")}` });
  return element("tr", {}, cell(String(action.number)), cell(wallTime(action.at_ns), "left"), cell(action.by, "left wrap"), cell(action.what.replace("psi ", "ψ "), "left wrap"), cell(action.why, "left wrap"), state);
}

/** Orientations that people pinned, vetoed or decided about, each with a way back. */
export function drawWishes() {
  const { pinned = [], vetoed = [] } = orders();
  const told = [
    ...pinned.map((one) => [`pinned ψ = ${digits(one.psi_deg)}° (${one.by})`, asking("Undo", `Undo the pin of ψ = ${digits(one.psi_deg)}°?`, [{ what: "unpin", label: "It is advised again by what it is worth.", asked: () => ({ what: "unpin", psi_deg: one.psi_deg }) }])]),
    ...vetoed.map((one) => [`vetoed ψ = ${digits(one.psi_deg)}° ± ${digits(one.within_deg)}° (${one.by}: ${one.why})`, asking("Undo", `Undo the veto of ψ = ${digits(one.psi_deg)}°?`, [{ what: "unveto", label: "It may be advised again.", asked: () => ({ what: "unveto", psi_deg: one.psi_deg }) }])]),
  ];
  $("wishes").hidden = told.length === 0;
  $("wishes").replaceChildren(...told.map(([words, undo]) => element("li", {}, element("span", { textContent: words }), undo)));
  const other = ["pin", "veto"].some(may) ? [asking("Another orientation…", "Pin or veto an orientation", [
    { what: "pin", label: "Pin: it is advised first, until it was measured.", asked: (value) => ({ what: "pin", psi_deg: Number(value) }) },
    { what: "veto", label: "Veto: it is never advised, nor what is within half a degree.", asked: (value) => ({ what: "veto", psi_deg: Number(value) }) },
  ], { field: { label: "ψ in degrees", type: "number", hint: "" } })] : [];
  $("other-psi").replaceChildren(...other);
}

/** What may be decided about one advised orientation. */
export function deciding(one) {
  const psi = one.psi_deg, name = `ψ = ${digits(psi)}°`;
  const choice = (what, label) => ({ what, label, asked: () => ({ what, psi_deg: psi }) });
  return asking("Decide…", `What about ${name}?`, one.wanted === "pinned" ? [choice("unpin", "Undo the pin.")] : [
    choice("approve", "Approve: it comes first until the next chunk."),
    choice("reject", "Reject: it is not advised until the next chunk."),
    choice("pin", "Pin: it comes first until it was measured."),
    choice("veto", "Veto: never advise it, nor what is within half a degree."),
  ]);
}

/** A way to take a chunk out, or what becomes of it. */
export function withdrawing(chunk) {
  if (orders().withdrawn?.[chunk.chunk] != null) return element("span", { className: "waiting", textContent: "withdrawing" });
  return asking("Withdraw…", `Withdraw chunk ${chunk.chunk}?`, [{ what: "withdraw", label: "It leaves fold and estimate as if it had never come; its file stays, and it can be restored.", asked: () => ({ what: "withdraw", chunk: chunk.chunk }) }]);
}

/** A way to take a withdrawn chunk in again. */
export function restoring(chunk) {
  if (chunk.status !== "withdrawn") return "";
  if (actions()?.live && orders().withdrawn?.[chunk.chunk] == null) return element("span", { className: "waiting", textContent: " restoring" });
  return asking("Restore…", `Restore chunk ${chunk.chunk}?`, [{ what: "restore", label: "It counts again in fold and estimate.", asked: () => ({ what: "restore", chunk: chunk.chunk }) }]);
}

/** Log out, and go where one logs in. */
export function wireWho() {
  $("logout").addEventListener("click", async () => {
    await fetch("/logout", { method: "POST", redirect: "manual" });
    location.assign("/login");
  });
  tone($("who"), "");
}
