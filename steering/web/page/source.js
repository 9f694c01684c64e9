/* Where the page's figures come from: the API, and its word that something is new. */

const PATIENCE_MS = 4000; // with a server that does not answer

/** JSON of a path; throws where there is none, or none comes in time. */
export async function get(path, patience = 20000) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(patience) });
  if (!answer.ok) throw Object.assign(new Error(`${path}: ${answer.status}`), { status: answer.status });
  return answer.json();
}

/** Send JSON; the answer as it is. */
export const post = (path, body) => fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal: AbortSignal.timeout(20000) });

/** The same for what is asked for again and again: a server that hangs is one that is gone. */
export const ask = (path) => get(path, PATIENCE_MS);

/** Call back at every new snapshot of any run, and when the connection is lost. */
export function follow(onNews, onLoss) {
  const events = new EventSource("/events");
  events.addEventListener("open", onNews);
  events.addEventListener("update", onNews);
  events.addEventListener("error", onLoss);
}
