// A response that neither goes on nor ends when its signal is aborted, as that of Node.js at times.
import { resumableFetch } from "./resumable_fetch_module.mjs";
import { print } from "./script.mjs";

const deaf = new ReadableStream({
  start(controller) {
    controller.enqueue(new TextEncoder().encode("id: 1-0\nevent: message\ndata: a\n\n"));
  },
});
const headers = { "Content-Type": "text/event-stream" };
const fetch = resumableFetch({ fetch: async () => new Response(deaf, { headers }) });
const abort = new AbortController();
const response = await fetch("http://localhost/stream", { signal: abort.signal });
const reader = response.body.getReader();
await reader.read();
const next = reader.read();
abort.abort();
await next.catch((error) => print({ error: error.name }));
