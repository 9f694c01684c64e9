/* Where the page's figures come from: the API, and its word that something is new. */

/** JSON of a path; throws where there is none. */
export async function get(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

/** Call back at every new snapshot of any run, and when the connection is lost. */
export function follow(onNews, onLoss) {
  const events = new EventSource("/events");
  events.addEventListener("open", onNews);
  events.addEventListener("update", onNews);
  events.addEventListener("error", onLoss);
}
