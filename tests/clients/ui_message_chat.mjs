// The AI SDK's `DefaultChatTransport` and `readUIMessageStream`. Plan: {package, api, id, text?, resumable?}: sends a message
// with this text, or without one resumes the chat's active stream. A line for each state of the answer, and one for the end:
// {message, error?}, or {nothing: true} where there is nothing to resume.
import { resumableFetch } from "./resumable_fetch_module.mjs";
import { plan, print } from "./script.mjs";

const { DefaultChatTransport, readUIMessageStream } = await import(plan.package);
const transport = new DefaultChatTransport({ api: plan.api, ...(plan.resumable && { fetch: resumableFetch() }) });

let message, error;
try {
  const stream = await (plan.text === undefined ? transport.reconnectToStream({ chatId: plan.id }) : send(plan.text));
  if (stream === null) {
    print({ nothing: true });
    process.exit();
  }
  for await (message of readUIMessageStream({ stream, terminateOnError: true })) print({ id: message.id });
} catch (problem) {
  error = problem.message;
}
print({ message, error });

function send(text) {
  const messages = [{ id: crypto.randomUUID(), role: "user", parts: [{ type: "text", text }] }];
  return transport.sendMessages({ chatId: plan.id, messages, trigger: "submit-message" });
}
