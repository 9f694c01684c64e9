/* How well a parameter is to be known: as the stop rule wants it, never by a rule of the page. */

/** The target of a parameter, with its wanted sigma; undefined before the first estimate. */
export const targetOf = (result, name) => result?.targets?.find((target) => target.name === name);

/** The verdict of the run; results of old have the wanted sigma alone. Of a run that is not trusted nothing is met. */
export const isMet = (target, sigma) => target.met ?? sigma <= target.sigma;
