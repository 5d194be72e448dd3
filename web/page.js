/** The page: one conversation at a time, named by the part of the address after `#`. */
import { Answer, element, write } from "./answer.js";
import { fetchWithKey, problemOf } from "./api.js";
import { conversations, forget, remember } from "./conversations.js";
import { resumableFetch } from "./resumable-fetch.js";
import { Run } from "./run.js";

// So near to the end counts as there.
const END_PX = 40;

const byId = (id) => document.getElementById(id);
const [field, agent, stop, cut, remove, history_] = ["message", "agent", "stop", "cut", "delete", "history"].map(byId);
const main = byId("conversation");
const send = fetchWithKey(askForKey);

let conversation = "";
// Of each question of the conversation: its run, and its answer as it is shown.
let turns = [];
// What the reader is told that is not of a run.
let notice = "";
let listing;
let isSending = false;
let isAtEnd = true;
let frame = 0;

/** Show a conversation, or a new one where there is no id. */
async function open(id) {
  leaveFor(id);
  if (!id) return field.focus();
  const response = await send(`agent/conversations/${encodeURIComponent(id)}`);
  if (!response.ok) throw await problemOf(response);
  const { messages } = await response.json();
  await listAgents();
  if (conversation !== id) return;
  agent.value = conversations().find((known) => known.id === id)?.agent ?? agent.value;
  for (const { role, text, correlation_id: correlationId } of messages) {
    if (role !== "user") continue;
    const answer = messages.find((other) => other.correlation_id === correlationId && other.role !== "user");
    const streamUrl = `agent/stream/${encodeURIComponent(id)}?correlation_id=${encodeURIComponent(correlationId)}`;
    follow(text, { correlationId, streamUrl, answer: answer?.text });
  }
  if (messages.length) remember(id, messages[0].text, agent.value);
}

function leaveFor(id) {
  for (const { run } of turns) run.leave();
  [conversation, turns, notice, isAtEnd] = [id, [], "", true];
  main.replaceChildren();
  repaint();
}

/** Send what is in the field. */
async function ask() {
  await listAgents();
  const [message, startedAt, before] = [field.value, performance.now(), conversation];
  const body = JSON.stringify({ message, conversation_id: before || undefined });
  const request = { method: "POST", body, headers: { "Content-Type": "application/json" } };
  // Under one Idempotency-Key, so that a message whose 202 was lost is not run twice.
  const response = await resumableFetch({ fetch: send })(`agents/${encodeURIComponent(agent.value)}/run`, request);
  if (!response.ok) throw await problemOf(response);
  const { conversation_id: id, correlation_id: correlationId, stream_url: streamUrl } = await response.json();
  remember(id, message, agent.value);
  if (conversation !== before) return;
  if (field.value === message) field.value = "";
  if (!before) history.pushState(null, "", `#${id}`);
  conversation = id;
  isAtEnd = true;
  follow(message, { correlationId, streamUrl, startedAt });
}

function follow(question, known) {
  const run = new Run(known, send, repaint);
  const answer = new Answer();
  main.append(element("article", { className: "question", ariaLabel: "Question" }, question), answer.article);
  turns.push({ run, answer });
  run.follow();
}

/** Paint with the next frame: by then it is known whether the reader has scrolled. */
function repaint() {
  frame ||= requestAnimationFrame(paint);
}

function paint() {
  frame = 0;
  for (const { run, answer } of turns) answer.show(run);
  const run = turns.at(-1)?.run;
  const isOpen = turns.some((turn) => !turn.run.isOver);
  if (!isOpen && [stop, cut].includes(document.activeElement)) field.focus();
  byId("send").hidden = isOpen;
  stop.hidden = cut.disabled = !isOpen;
  remove.disabled = isOpen || !conversation;
  write(byId("status"), notice || (run?.state ?? ""));
  const first = run?.firstChunkMs === undefined ? [] : [`first chunk after ${(run.firstChunkMs / 1000).toFixed(2)} s`];
  write(byId("figures"), [...first, ...(run?.tokens ? [`${run.tokens} tokens`] : [])].join(" · "));
  if (isAtEnd) main.scrollTop = main.scrollHeight;
}

async function cancel() {
  const { run } = turns[turns.length - 1];
  const response = await send(`agent/runs/${encodeURIComponent(run.correlationId)}/cancel`, { method: "POST" });
  // One that has ended meanwhile has told so itself.
  if (!response.ok && response.status !== 409) throw await problemOf(response);
}

async function erase() {
  const id = conversation;
  if (!confirm("Delete this conversation for good?")) return;
  const response = await send(`agent/conversations/${encodeURIComponent(id)}`, { method: "DELETE" });
  if (!response.ok && response.status !== 404) throw await problemOf(response);
  forget(id);
  history.replaceState(null, "", location.pathname);
  await open("");
}

function askForKey() {
  const [dialog, key] = ["key-dialog", "key"].map(byId);
  key.value = "";
  dialog.showModal();
  return new Promise((resolve, reject) => {
    dialog.onclose = () => (key.value ? resolve(key.value) : reject(new Error("Without its function key the app does not answer.")));
  });
}

/** List the agents, once however many ask for it. */
function listAgents() {
  return (listing ??= fetchAgents().catch((error) => {
    listing = undefined;
    throw error;
  }));
}

async function fetchAgents() {
  const { agents } = await (await send("health")).json();
  agent.replaceChildren(...agents.map(({ name }) => element("option", {}, name)));
  agent.hidden = agents.length < 2;
}

/** Do something, and tell the reader if it fails. */
async function attempt(act) {
  notice = "";
  try {
    await act();
  } catch (error) {
    notice = error.message;
  }
  repaint();
}

const openAddress = () => attempt(() => open(decodeURIComponent(location.hash.slice(1))));

byId("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  field.focus();
  if (isSending || byId("send").hidden || !field.value.trim()) return;
  isSending = true;
  await attempt(ask);
  isSending = false;
});
field.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("composer").requestSubmit();
});
stop.addEventListener("click", () => attempt(cancel));
cut.addEventListener("click", () => turns[turns.length - 1].run.cut());
remove.addEventListener("click", () => attempt(erase));
byId("new").addEventListener("click", () => {
  if (location.hash) history.pushState(null, "", location.pathname);
  attempt(() => open(""));
});
history_.addEventListener("toggle", () => {
  const links = conversations().map(({ id, title }) => element("a", { href: `#${id}` }, title));
  history_.querySelector("ul").replaceChildren(...links.map((link) => element("li", {}, link)));
});
history_.addEventListener("click", (event) => (history_.open &&= !event.target.href));
main.addEventListener("scroll", () => (isAtEnd = main.scrollHeight - main.scrollTop - main.clientHeight < END_PX));
addEventListener("hashchange", openAddress);

openAddress();
attempt(listAgents);
