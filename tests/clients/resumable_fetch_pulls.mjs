// How often the response's stream is read where the reader asks for three events.
import { setImmediate } from "node:timers/promises";

import { resumableFetch } from "./resumable_fetch_module.mjs";
import { print } from "./script.mjs";

let pulls = 0;
const endless = new ReadableStream(
  {
    pull(controller) {
      pulls += 1;
      controller.enqueue(new TextEncoder().encode(`id: ${pulls}-0\nevent: message\ndata: a\n\n`));
    },
  },
  { highWaterMark: 0 },
);
const headers = { "Content-Type": "text/event-stream" };
const fetch = resumableFetch({ fetch: async () => new Response(endless, { headers }) });
const reader = (await fetch("http://localhost/stream")).body.getReader();
for (let piece = 1; piece <= 3; piece += 1) await reader.read();
// What is read ahead would be now.
for (let turn = 0; turn < 10; turn += 1) await setImmediate();
print({ pieces: 3, pulls });
