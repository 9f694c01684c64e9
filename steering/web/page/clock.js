/* Times and ages. Ages are told by the server's clock, which the browser's may differ from. */

const SKEWED_MS = 3000;
let offset = 0; // of the server's clock against that of the browser, ms

/** Learn the server's clock from an answer that it dated; asked and came by the browser's clock. */
export function learn(serverNs, asked, came) {
  offset = serverNs / 1e6 - (asked + came) / 2;
}

/** The server's time now, ms since the Unix epoch. */
export const serverNow = () => Date.now() + offset;

/** Seconds since a time of the server, ns. */
export const ageOf = (ns) => Math.max(0, (serverNow() - ns / 1e6) / 1000);

/** What is told of a browser whose clock is off; null if it is not. */
export function skewText() {
  if (Math.abs(offset) < SKEWED_MS) return null;
  return `The clock of this browser is ${aged(Math.abs(offset) / 1000)} ${offset > 0 ? "behind" : "ahead of"} that of the server. Times and ages here are the server’s. Set the clock of this computer.`;
}

/** A duration in one unit, as the server says it. */
export function aged(seconds) {
  if (seconds < 99.5) return `${Math.max(seconds, 0).toFixed(0)} s`;
  if (seconds < 99.5 * 60) return `${(seconds / 60).toFixed(0)} min`;
  return seconds < 2 * 86400 ? `${(seconds / 3600).toFixed(0)} h` : `${(seconds / 86400).toFixed(0)} days`;
}

// "CET" where a country has such a name, else "GMT+9".
function zoneOf(date) {
  const name = (locale) => new Intl.DateTimeFormat(locale, { timeZoneName: "short" }).formatToParts(date).find((part) => part.type === "timeZoneName").value;
  const plain = (text) => /^(GMT|UTC)[+-]/.test(text);
  return [name("en-GB"), name("en-US"), name("en-AU")].find((text) => !plain(text)) ?? name("en-GB");
}

/** A time as a clock on the wall shows it, with its zone; of another day with the date. */
export function wallTime(ns) {
  const date = new Date(ns / 1e6);
  const clock = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  const today = date.toDateString() === new Date(serverNow()).toDateString();
  const day = today ? "" : `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} `;
  return `${day}${clock} ${zoneOf(date)}`;
}
