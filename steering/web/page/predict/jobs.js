/* Asking for predictions: a form goes out, a result or a job comes back. */

async function faultOf(answer) {
  try { const body = await answer.json(); return body.detail ?? body.title ?? answer.statusText; } catch { return `${answer.status} ${answer.statusText}`; }
}

export async function asked(path, options) {
  let answer;
  try { answer = await fetch(path, options); } catch { throw new Error("The server does not answer; try again."); }
  if (!answer.ok) throw new Error(await faultOf(answer));
  return answer;
}

/** Send a form; `told` hears of the job. Returns the result and where it is. */
export async function predict(form, told) {
  const answer = await asked("/v1/predict", { method: "POST", body: form });
  const where = answer.headers.get("Location");
  if (answer.status !== 202) return { found: await answer.json(), where };
  const job = await answer.json();
  told(job);
  const end = await followed(job, told);
  if (end.state === "cancelled") throw new Error("Cancelled.");
  if (end.state === "failed") throw new Error(end.fault?.detail ?? "It failed.");
  return { found: await (await asked(`${where}/result`)).json(), where };
}

function followed(job, told) {
  return new Promise((resolve, reject) => {
    const events = new EventSource(job.events);
    let lost = 0;
    events.addEventListener("state", ({ data }) => {
      lost = 0;
      const now = JSON.parse(data);
      told(now);
      if (["done", "failed", "cancelled"].includes(now.state)) { events.close(); resolve(now); }
    });
    events.addEventListener("error", () => {
      lost += 1;
      if (lost > 5) { events.close(); reject(new Error("The connection to the server is lost.")); }
    });
  });
}

export const cancel = (job) => asked(`/v1/jobs/${job.id}`, { method: "DELETE" });
