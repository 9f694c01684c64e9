/* What people may ask of the run that is shown: who asks, what was asked before, and asking. */

import { ask, post } from "./source.js";

let me = null; // who looks at this page, once the server has said
let list = null; // the newest list of actions of the run that is shown

/** Ask who looks, and what people asked of a run; true if what may be shown of it has changed. */
export async function learnActions(runId) {
  me ??= await ask("/me");
  const before = JSON.stringify(list);
  list = await ask(`/runs/${encodeURIComponent(runId)}/actions`);
  return JSON.stringify(list) !== before;
}

export function forgetActions() { list = null; }

export const whoLooks = () => me;
export const actions = () => list;
export const orders = () => list?.orders ?? {};
export const closed = () => list?.orders?.closed != null;

/** Whether who looks may ask for this now. */
export const may = (what) => Boolean(me && list?.live && me.may.includes(what) && (what === "reopen") === closed());

/** What who asks has seen: the run, and the version of its log. */
export const seen = () => ({ runId: list.run_id, version: list.version });

/** Ask for something; throws an error with words for people, and the version that there is by now. */
export async function askFor({ runId, version }, asked, why) {
  const answer = await post(`/runs/${encodeURIComponent(runId)}/actions`, { version, asked, why });
  if (answer.status === 201) return;
  const told = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(typeof told.detail === "string" ? told.detail : `The server answered ${answer.status}.`), { status: answer.status, version: told.version });
}
