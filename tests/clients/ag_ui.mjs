// AG-UI's `HttpAgent`, as CopilotKit and assistant-ui use it, over `resumableFetch`. Plan: {client, url, threadId, runId,
// message, plain?, options?}: the package; whether it has the global `fetch` instead; those of `resumableFetch`. Prints the text it shows whenever that
// changes, then its messages.
import { resumableFetch } from "./resumable_fetch_module.mjs";
import { plan, print } from "./script.mjs";

const { HttpAgent } = await import(plan.client);
const { url, threadId, runId } = plan;
const agent = new HttpAgent({ url, threadId, fetch: plan.plain ? undefined : resumableFetch(plan.options) });
agent.addMessage({ id: `${runId}-question`, role: "user", content: plan.message });
let error;
await agent
  .runAgent(
    { runId },
    {
      onTextMessageContentEvent: ({ textMessageBuffer, event }) => print({ text: textMessageBuffer + event.delta }),
      onRunErrorEvent: ({ event }) => {
        error = event.code;
      },
    },
  )
  .catch((failure) => {
    error ??= failure.name;
  });
print({ messages: agent.messages, error });
