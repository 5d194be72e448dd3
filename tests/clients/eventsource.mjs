// `eventsource`, the EventSource of Node.js: as a browser's, it resumes by itself. Plan: {url}.
import { EventSource } from "eventsource";

import { TERMINAL, plan, print } from "./script.mjs";

const source = new EventSource(plan.url);
for (const kind of ["message", "reset", ...TERMINAL]) {
  source.addEventListener(kind, (event) => {
    // Without data, an `error` is the connection's: it is made again, unless the server said that there is no more.
    if (event.data !== undefined) {
      print({ id: event.lastEventId, event: kind, data: event.data });
      if (TERMINAL.includes(kind)) source.close();
    } else if (source.readyState === EventSource.CLOSED) {
      print({ refused: event.code });
    }
  });
}
