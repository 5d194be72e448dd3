/** The conversations of this browser, newest first: `{ id, title, agent }`, with the agent that was asked last. */

const NAME = "conversations";
const MAX = 50;

export function conversations() {
  return JSON.parse(localStorage.getItem(NAME) ?? "[]");
}

/** Put a conversation at the top of the list; where it is new, the message is its title. */
export function remember(id, message, agent) {
  const title = conversations().find((one) => one.id === id)?.title ?? message.slice(0, 200);
  keep([{ id, title, agent }, ...without(id)].slice(0, MAX));
}

export function forget(id) {
  keep(without(id));
}

function without(id) {
  return conversations().filter((one) => one.id !== id);
}

function keep(list) {
  localStorage.setItem(NAME, JSON.stringify(list));
}
