// The AI SDK's `DefaultChatTransport`, which `useChat` talks through, over `resumableFetch`. Plan: {client, url, chatId,
// messageId, message, options?}: the package, and the options of `resumableFetch`. Prints the text it shows whenever that changes, then the message.
import { resumableFetch } from "./resumable_fetch_module.mjs";
import { plan, print } from "./script.mjs";

const { DefaultChatTransport, readUIMessageStream } = await import(plan.client);
const transport = new DefaultChatTransport({ api: plan.url, fetch: resumableFetch(plan.options) });
const question = { id: plan.messageId, role: "user", parts: [{ type: "text", text: plan.message }] };
const stream = await transport.sendMessages({ chatId: plan.chatId, messages: [question], trigger: "submit-message" });
const textOf = ({ parts }) => parts.map((part) => (part.type === "text" ? part.text : "")).join("");
let message = { id: "", parts: [] };
let error;
const onError = (failure) => {
  error = failure.message;
};
for await (message of readUIMessageStream({ stream, onError })) print({ text: textOf(message) });
print({ id: message.id, text: textOf(message), error });
