// `@microsoft/fetch-event-source`. Plan: {url, resumable?}: the options of `resumableFetch`, if it reads through that.
import { fetchEventSource } from "@microsoft/fetch-event-source";

import { resumableFetch } from "./resumable_fetch_module.mjs";
import { TERMINAL, plan, print } from "./script.mjs";

// It is made for a page, and asks it whether it is shown.
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
globalThis.window = globalThis;

class Refused extends Error {}

const stop = new AbortController();
await fetchEventSource(plan.url, {
  signal: stop.signal,
  fetch: plan.resumable ? resumableFetch(plan.resumable) : fetch,
  async onopen(response) {
    if (response.ok && response.status !== 204) return;
    // Its own check takes a 204 for a mistake of the server.
    if (response.status < 500) throw new Refused(response.status);
    throw new Error(`the server answers ${response.status}`);
  },
  onmessage({ id, event, data }) {
    // The line that tells how soon to reconnect is an event without a name to it.
    if (!event) return;
    print({ id, event, data });
    if (TERMINAL.includes(event)) stop.abort();
  },
  onclose() {
    throw new Error("the response ended before the run");
  },
  onerror(error) {
    if (!(error instanceof Refused)) return;
    print({ refused: Number(error.message) });
    throw error;
  },
}).catch((error) => {
  if (!(error instanceof Refused)) throw error;
});
