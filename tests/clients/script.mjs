// What the scripts share: the plan they are called with, and the lines they print.

/** What the script is to do, as its caller's JSON says. */
export const plan = JSON.parse(process.argv[2] ?? "{}");

/**
 * Print a line of JSON.
 * @param {unknown} line
 */
export function print(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

/** The kinds of event that end a run. */
export const TERMINAL = ["done", "error", "cancelled"];
