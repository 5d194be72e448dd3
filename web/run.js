/** One run, followed to its end over any number of connections. */
import { problemOf } from "./api.js";
import { FrameSplitter, resumableFetch } from "./resumable-fetch.js";

// Tries for some minutes, so that an app that starts again is waited for.
const PATIENCE = { maxTries: 60, maxDelayMs: 5_000 };

export class Run {
  /** What is known of the connection, or how the run ended. */
  state = "connecting";
  isOver = false;
  tokens = 0;
  /** How many times the output so far was dropped. */
  resets = 0;
  firstChunkMs;
  #told = [];
  #lastId = "";
  #stop = new AbortController();
  #connection = new AbortController();

  /**
   * `answer` is the committed one, where there is one; it stands for what the run has told until that is read.
   * `startedAt` is when its message was sent, by `performance.now()`.
   */
  constructor({ correlationId, streamUrl, answer, startedAt }, send, onChange) {
    this.correlationId = correlationId;
    this.streamUrl = `${streamUrl}&include=all&format=json`;
    /** In order: `{ kind: "text" | "reasoning", text }` or `{ kind: "tool", id, name, arguments, result }`. */
    this.parts = answer === undefined ? this.#told : [{ kind: "text", text: answer }];
    this.answer = answer;
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
      const reader = response.body?.getReader();
      const splitter = new FrameSplitter();
      for (let piece = await reader?.read(); piece && !piece.done; piece = await reader.read()) {
        splitter.push(piece.value).forEach((frame) => this.#take(frame));
        this.onChange();
      }
      if (!this.isOver) throw new Error("The stream has ended, and the run's end is not in it. Load the page again.");
    } catch (error) {
      if (!this.#stop.signal.aborted) this.#end(error.message);
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

  async #connect(input, init = {}) {
    const cursor = new Headers(init.headers).get("last-event-id");
    if (cursor) this.#tell(`reconnecting from ${cursor}`);
    this.#connection = new AbortController();
    const signals = [this.#connection.signal, ...(init.signal ? [init.signal] : [])];
    const response = await this.send(input, { ...init, signal: AbortSignal.any(signals) });
    if (response.ok) this.#tell(cursor ? `live, resumed from ${cursor}` : "live");
    return response;
  }

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
        return (this.#call(told.id).result = `${told.result}${told.truncated ? "…" : ""}`);
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

  #append(kind, text) {
    const last = this.#told[this.#told.length - 1];
    if (last?.kind === kind) last.text += text;
    else this.#told.push({ kind, text });
  }

  #call(id, name = "tool") {
    let call = this.#told.find((part) => part.kind === "tool" && part.id === id);
    if (!call) this.#told.push((call = { kind: "tool", id, name, arguments: "" }));
    return call;
  }

  #end(state) {
    this.isOver = true;
    // What is left of an old run in the stream may be less than its answer.
    const isWhole = this.answer === undefined || this.answer === this.#text();
    this.parts = isWhole ? this.#told : [...this.#told.filter(({ kind }) => kind === "tool"), ...this.parts];
    this.#tell(state);
  }

  #text() {
    return this.#told.map(({ kind, text }) => (kind === "text" ? text : "")).join("");
  }

  #tell(state) {
    this.state = state;
    this.onChange();
  }
}
