// Plain readers over `resumableFetch`, all at once. Plan: {readers: [{url, init?, options?, abort_after?, cancel_after?,
// raw?}]}: what `fetch` and `resumableFetch` are given; after how many events the signal or the reader ends it; whether to
// print pieces, not events. Each line holds the number of its `reader`.
import { setImmediate } from "node:timers/promises";

import { EventSourceParserStream } from "eventsource-parser/stream";

import { resumableFetch } from "./resumable_fetch_module.mjs";
import { plan, print } from "./script.mjs";

await Promise.all(plan.readers.map((reader, number) => follow(reader, (line) => print({ reader: number, ...line }))));
// What still wants to be sent would be now.
await setImmediate();

async function follow(plan, print) {
  const abort = new AbortController();
  try {
    const response = await resumableFetch(plan.options)(plan.url, { ...plan.init, signal: abort.signal });
    if (response.headers.get("content-type")?.startsWith("text/event-stream")) {
      await read(response.body.pipeThrough(new TextDecoderStream()), abort, plan, print);
      print({ ended: true });
    } else {
      print({ status: response.status, body: await response.text() });
    }
  } catch (error) {
    print({ error: error.name, message: error.message, status: error.status });
  }
}

async function read(text, abort, plan, print) {
  const reader = (plan.raw ? text : text.pipeThrough(new EventSourceParserStream())).getReader();
  for (let count = 1; ; count += 1) {
    const { done, value } = await reader.read();
    if (done) return;
    print(plan.raw ? { piece: value } : { id: value.id, event: value.event, data: value.data });
    if (count === plan.abort_after) abort.abort();
    if (count === plan.cancel_after) return reader.cancel();
  }
}
