/** Requests to the app. Their addresses are relative to the page's. */

const KEY = "function-key";
let asking;

/** Return a `fetch` that sends the function key of this tab, and asks the reader for it where the app wants another. */
export function fetchWithKey(askForKey) {
  return async function send(input, init = {}) {
    const headers = new Headers(init.headers);
    const key = sessionStorage.getItem(KEY);
    if (key) headers.set("x-functions-key", key);
    const response = await fetch(input, { ...init, headers });
    // A refusal by the app itself is not for want of a key: nobody is signed in.
    if (response.status !== 401 || isProblem(response)) return response;
    // Others may have been refused at the same time.
    asking ??= askForKey().finally(() => (asking = undefined));
    sessionStorage.setItem(KEY, await asking);
    return send(input, init);
  };
}

/** Return the error that a response tells of (RFC 9457). */
export async function problemOf(response) {
  const { detail } = isProblem(response) ? await response.json() : { detail: `The app answered ${response.status}.` };
  return new Error(detail);
}

function isProblem(response) {
  return response.headers.get("content-type")?.startsWith("application/problem+json");
}
