// `HttpAgent` of AG-UI, its own checks of the events' order included. Plan: {package, url, thread_id, messages?, resumable?,
// asks: [{message?, run_id?, connect?}]}: what it holds at first; for each ask what the user says, or that the thread is
// joined. A line for each event that the agent lets pass: {event, id?}, and one for the end of each ask: {messages, error?, outcome?}.
import { resumableFetch } from "./resumable_fetch_module.mjs";
import { plan, print } from "./script.mjs";

const { HttpAgent, runHttpRequest, transformHttpEventStream } = await import(plan.package);

/** As the client's documentation has it: the package leaves it to its user to connect. */
class ThreadAgent extends HttpAgent {
  connect(input) {
    return transformHttpEventStream(runHttpRequest(() => this.fetch(`${this.url}/connect`, this.requestInit(input))));
  }
}

const agent = new ThreadAgent({
  url: plan.url,
  threadId: plan.thread_id,
  initialMessages: plan.messages,
  ...(plan.resumable && { fetch: resumableFetch() }),
});
for (const ask of plan.asks) print(await answerTo(ask));

async function answerTo({ message, run_id: runId, connect }) {
  const end = {};
  const subscriber = {
    onEvent: ({ event }) => print({ event: event.type, id: event.messageId }),
    onRunFinishedEvent: ({ outcome }) => Object.assign(end, { outcome }),
    onRunErrorEvent: ({ event }) => Object.assign(end, { error: event.code }),
  };
  try {
    if (connect) {
      await agent.connectAgent({ runId }, subscriber);
    } else {
      agent.addMessage({ id: crypto.randomUUID(), role: "user", content: message });
      await agent.runAgent({ runId }, subscriber);
    }
  } catch (error) {
    end.error = error.message;
  }
  return { messages: agent.messages, ...end };
}
