// @ts-check
/** The conversations of this browser, newest first. */

const NAME = "conversations";
const MAX = 50;

/** @typedef {{ id: string, title: string, agent: string }} Conversation What it began with, and whom the reader asked last. */

/** @returns {Conversation[]} */
export function conversations() {
  return JSON.parse(localStorage.getItem(NAME) ?? "[]");
}

/**
 * @param {string} id
 * @param {string} message Its first one, where it is new.
 * @param {string} agent
 */
export function remember(id, message, agent) {
  const title = conversations().find((one) => one.id === id)?.title ?? message.slice(0, 200);
  keep([{ id, title, agent }, ...without(id)].slice(0, MAX));
}

/** @param {string} id */
export function forget(id) {
  keep(without(id));
}

/** @param {string} id */
function without(id) {
  return conversations().filter((one) => one.id !== id);
}

/** @param {Conversation[]} list */
function keep(list) {
  localStorage.setItem(NAME, JSON.stringify(list));
}
