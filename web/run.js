// @ts-check
/** One run, followed to its end over any number of connections. */
import { problemOf } from "./api.js";
import { FrameSplitter, resumableFetch } from "./resumable-fetch.js";

/** @typedef {{ kind: "text" | "reasoning", text: string }} Text */
/** @typedef {{ kind: "tool", id: string, name: string, arguments: string, result?: string }} ToolCall */

// Tries for some minutes, so that an app that starts again is waited for.
const PATIENCE = { maxTries: 60, maxDelayMs: 5_000 };

export class Run {
  /** What is known of the connection, or how the run ended. */
  state = "connecting";
  isOver = false;
  tokens = 0;
  /** How many times the output so far was dropped. */
  resets = 0;
  /** @type {number | undefined} */
  firstChunkMs;
  /** What the run has said, in order. @type {(Text | ToolCall)[]} */
  parts;
  /** @type {(Text | ToolCall)[]} */
  #told = [];
  #lastId = "";
  #stop = new AbortController();
  #connection = new AbortController();

  /**
   * @param {object} run
   * @param {string} run.correlationId
   * @param {string} run.streamUrl
   * @param {string} [run.answer] The committed one, which stands for what the run has said until that is read.
   * @param {number} [run.startedAt] When its message was sent, by `performance.now()`.
   * @param {typeof globalThis.fetch} send
   * @param {() => void} onChange
   */
  constructor({ correlationId, streamUrl, answer, startedAt }, send, onChange) {
    this.correlationId = correlationId;
    this.streamUrl = `${streamUrl}&include=all&format=json`;
    this.parts = answer === undefined ? this.#told : [{ kind: "text", text: answer }];
    this.startedAt = startedAt;
    this.send = send;
    this.onChange = onChange;
  }

  /** Read the run's events up to its end, or until it is left. */
  async follow() {
    const fetch = resumableFetch({ ...PATIENCE, fetch: (input, init) => this.#connect(input, init) });
    try {
      const response = await fetch(this.streamUrl, { signal: this.#stop.signal });
      if (!response.ok) throw await problemOf(response);
      const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
      const splitter = new FrameSplitter();
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        splitter.push(piece.value).forEach((frame) => this.#take(frame));
        this.onChange();
      }
    } catch (error) {
      if (!this.#stop.signal.aborted) this.#end(/** @type {Error} */ (error).message);
    }
  }

  /** Cut the connection as a bad network would. */
  cut() {
    this.#tell(`reconnecting from ${this.#lastId || "the beginning"}`);
    this.#connection.abort(new Error("the reader cut the connection"));
  }

  /** Stop reading; the run itself goes on. */
  leave() {
    this.#stop.abort();
  }

  /** @type {typeof globalThis.fetch} */
  async #connect(input, init = {}) {
    const cursor = new Headers(init.headers).get("last-event-id");
    if (cursor) this.#tell(`reconnecting from ${cursor}`);
    this.#connection = new AbortController();
    const signals = [this.#connection.signal, ...(init.signal ? [init.signal] : [])];
    const response = await this.send(input, { ...init, signal: AbortSignal.any(signals) });
    if (response.ok) this.#tell(cursor ? `live, resumed from ${cursor}` : "live");
    return response;
  }

  /** @param {import("./resumable-fetch.js").Frame} frame */
  #take({ event, data, id }) {
    this.#lastId = id ?? this.#lastId;
    if (data === undefined) return;
    const told = JSON.parse(data);
    switch (event) {
      case "message":
        this.firstChunkMs ??= this.startedAt && performance.now() - this.startedAt;
        return this.#append("text", told.text);
      case "reasoning":
        return this.#append("reasoning", told.text);
      case "tool_call":
        return this.#call(told.id, told.name).arguments += told.arguments;
      case "tool_result":
        return (this.#call(told.id).result = textOf(told.result) + (told.truncated ? "…" : ""));
      case "usage":
        return (this.tokens += told.total_tokens ?? 0);
      case "reset":
        this.#told.length = this.tokens = 0;
        return (this.resets += 1);
      case "error":
        return this.#end(told.message);
      case "done":
      case "cancelled":
        return this.#end(event);
    }
  }

  /**
   * @param {Text["kind"]} kind
   * @param {string} text
   */
  #append(kind, text) {
    const last = this.#told[this.#told.length - 1];
    if (last?.kind === kind) last.text += text;
    else this.#told.push({ kind, text });
  }

  /**
   * @param {string} id
   * @param {string} [name]
   * @returns {ToolCall}
   */
  #call(id, name = "tool") {
    const isIt = (/** @type {Text | ToolCall} */ part) => part.kind === "tool" && part.id === id;
    let call = /** @type {ToolCall | undefined} */ (this.#told.find(isIt));
    if (!call) this.#told.push((call = { kind: "tool", id, name, arguments: "" }));
    return call;
  }

  /** @param {string} state */
  #end(state) {
    this.isOver = true;
    if (this.#told.length) this.parts = this.#told;
    this.#tell(state);
  }

  /** @param {string} state */
  #tell(state) {
    this.state = state;
    this.onChange();
  }
}

/** @param {unknown} value */
function textOf(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
