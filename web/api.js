// @ts-check
/** Requests to the app. Their addresses are relative to the page's. */

const KEY = "function-key";
/** @type {Promise<string> | undefined} */
let asking;

/**
 * Return a `fetch` that sends the function key of this tab.
 * @param {() => Promise<string>} askForKey Asks the reader, where the app wants a key and has none, or another one.
 * @returns {typeof globalThis.fetch}
 */
export function fetchWithKey(askForKey) {
  return async function send(input, init = {}) {
    const headers = new Headers(init.headers);
    const key = sessionStorage.getItem(KEY);
    if (key) headers.set("x-functions-key", key);
    const response = await fetch(input, { ...init, headers });
    if (response.status !== 401) return response;
    // Others may have been refused at the same time.
    asking ??= askForKey().finally(() => (asking = undefined));
    sessionStorage.setItem(KEY, await asking);
    return send(input, init);
  };
}

/**
 * Return the error that a response tells of (RFC 9457).
 * @param {Response} response
 */
export async function problemOf(response) {
  const isProblem = response.headers.get("content-type")?.startsWith("application/problem+json");
  const { detail } = isProblem ? await response.json() : { detail: `The app answered ${response.status}.` };
  return new Error(detail);
}
