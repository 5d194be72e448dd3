// @ts-check
/**
 * A `fetch` that reads an event stream to its end over any number of connections.
 *
 *     new HttpAgent({ url, fetch: resumableFetch() })
 *     new DefaultChatTransport({ api, fetch: resumableFetch() })
 *     const response = await resumableFetch()(streamUrl)
 *
 * It keeps the id of the last whole event, and when a response ends before the stream does, however it ends, it asks for
 * what follows that event by the header `Last-Event-ID`: a GET at its own URL, a POST at the URL that its response names
 * in `Location`. The reader is handed whole events only, each once, in one response. Responses that are no event stream,
 * and those of a POST without `Location`, are handed through.
 *
 * The format is that of https://html.spec.whatwg.org/multipage/server-sent-events.html. It needs `AbortSignal.any`:
 * browsers since March 2024, Node.js 20.3.
 */

/**
 * @typedef {object} ResumableFetchOptions
 * @property {typeof globalThis.fetch} [fetch] What sends each request; the global `fetch` without it.
 * @property {number} [maxTries] Tries in a row that bring neither an event nor a heartbeat, after which it gives up.
 * @property {number} [maxDelayMs] The longest pause between two tries. A server that asks by `Retry-After` for a longer
 *   one is not asked again.
 * @property {number} [silenceMs] How long a connection may bring nothing before it is taken for dead: longer than the
 *   server's heartbeats are apart.
 */

/**
 * What a stream consists of: a block of lines that ends with an empty one, which is an event where it has data; or a
 * comment's line, by which a server with nothing to say tells that it is alive.
 * @typedef {object} Frame
 * @property {string} text All of it, its line breaks as LF.
 * @property {boolean} isComment
 * @property {string} [data] The lines of its data, joined by LF.
 * @property {string} [event]
 * @property {string} [id]
 * @property {number} [retryMs]
 */

const DEFAULTS = { maxTries: 10, maxDelayMs: 30_000, silenceMs: 60_000 };
const RETRY_MS = 500;
// Statuses that say nothing about the next try: request timeout, too early, too many requests.
const TRANSIENT = [408, 425, 429];

/** An event stream that was not read to its end. */
export class ResumeError extends Error {
  /**
   * @param {string} message
   * @param {{ cause?: unknown, status?: number }} [details]
   */
  constructor(message, { cause, status } = {}) {
    super(message, { cause });
    this.name = "ResumeError";
    /** The status of the response that ended it, where one did. */
    this.status = status;
  }
}

/**
 * Return a `fetch` whose event streams are resumed. One that cannot be is errored with a `ResumeError`, and one that is
 * aborted with the reason of its signal, after which no request is made.
 *
 * A POST is sent with an `Idempotency-Key`, unless it has one: it is sent again where no response comes.
 * @param {ResumableFetchOptions} [options]
 * @returns {typeof globalThis.fetch}
 */
export function resumableFetch(options = {}) {
  return (input, init) => new Call({ ...DEFAULTS, ...options }, input, init ?? {}).response();
}

/** One call of such a `fetch`, with all the requests that it makes. */
class Call {
  #stop = new AbortController();
  #lastId = "";
  #resumeUrl = "";
  /** Whether the last event was one that nothing can follow. */
  #isOver = false;

  /**
   * @param {typeof DEFAULTS & ResumableFetchOptions} settings
   * @param {RequestInfo | URL} input
   * @param {RequestInit} init
   */
  constructor(settings, input, init) {
    const request = input instanceof Request ? input : undefined;
    const signal = init.signal ?? request?.signal;
    this.settings = settings;
    this.input = input;
    this.init = init;
    this.method = (init.method ?? request?.method ?? "GET").toUpperCase();
    this.headers = new Headers(init.headers ?? request?.headers);
    this.credentials = init.credentials ?? request?.credentials;
    this.signal = signal ? AbortSignal.any([signal, this.#stop.signal]) : this.#stop.signal;
    this.patience = new Patience(settings);
  }

  async response() {
    if (!["GET", "POST"].includes(this.method)) return this.#send(this.input, this.init);
    const connection = this.#connect();
    const response = await this.#firstResponse(connection);
    const url = this.#urlThatResumes(response);
    if (!isEventStream(response) || url === undefined) return response;
    this.#resumeUrl = url;
    this.#lastId = this.headers.get("last-event-id") ?? "";
    const { status, statusText, headers } = response;
    const whole = new Response(this.#body(connection.framesOf(response)), { status, statusText, headers });
    Object.defineProperty(whole, "url", { value: response.url });
    return whole;
  }

  /**
   * Send the caller's request until there is a response that does not ask for another try.
   * @param {Connection} connection
   */
  async #firstResponse(connection) {
    const { headers, input } = this;
    if (this.method === "POST" && !headers.has("idempotency-key")) headers.set("Idempotency-Key", randomKey());
    const init = { ...this.init, headers, signal: connection.signal };
    const canRepeat = !(init.body instanceof ReadableStream);
    for (;;) {
      let problem, response;
      try {
        response = await this.#send(input instanceof Request ? input.clone() : input, init);
        if (!response.headers.has("retry-after")) return response;
        problem = new Refusal(response);
      } catch (error) {
        problem = error;
      }
      const delayMs = canRepeat && !this.signal.aborted ? this.patience.delayMs(problem) : undefined;
      if (delayMs === undefined) {
        if (response) return response;
        throw problem;
      }
      discard(response);
      await sleep(delayMs, this.signal);
    }
  }

  /**
   * @param {Response} response
   * @returns {string | undefined} None where it cannot be resumed.
   */
  #urlThatResumes(response) {
    const own = this.input instanceof Request ? this.input.url : new Request(this.input).url;
    const location = response.headers.get("location");
    if (location === null) return this.method === "GET" ? own : undefined;
    const url = new URL(location, response.url || own);
    // The caller's headers may hold secrets: they are for the server that they were sent to.
    return url.origin === new URL(own).origin ? url.href : undefined;
  }

  /**
   * @param {AsyncGenerator<Frame[], void, void>} frames
   * @returns {ReadableStream<Uint8Array>}
   */
  #body(frames) {
    const texts = this.#texts(frames);
    const encoder = new TextEncoder();
    return new ReadableStream(
      {
        pull: async (controller) => {
          const { done, value } = await texts.next();
          if (done) controller.close();
          else controller.enqueue(encoder.encode(value));
        },
        cancel: async (reason) => {
          this.#stop.abort(reason);
          await texts.return();
        },
      },
      // Nothing is read before it is asked for.
      { highWaterMark: 0 },
    );
  }

  /**
   * Yield the text of the stream's frames, from the first response's first to the last response's last.
   * @param {AsyncGenerator<Frame[], void, void> | undefined} connection
   * @returns {AsyncGenerator<string, void, void>}
   */
  async *#texts(connection) {
    while (connection) {
      /** @type {unknown} */
      let problem = new Error("the response ended before the stream did");
      try {
        for await (const frames of connection) {
          const text = this.#take(frames);
          if (text) yield text;
          if (this.#isOver) return;
        }
      } catch (error) {
        problem = error;
      }
      connection = await this.#resume(problem);
    }
  }

  /**
   * Remember what these frames tell of the stream.
   * @param {Frame[]} frames
   * @returns {string} Their text, up to the stream's end.
   */
  #take(frames) {
    let text = "";
    for (const frame of frames) {
      text += frame.text;
      this.#lastId = frame.id ?? this.#lastId;
      this.patience.baseMs = frame.retryMs ?? this.patience.baseMs;
      if (frame.isComment || frame.data !== undefined) this.patience.failures = 0;
      if (frame.data === undefined) continue;
      this.#isOver = endsRun(frame) && this.#isOfOneRun(frame);
      if (this.#isOver) break;
    }
    return text;
  }

  /**
   * A conversation's stream goes on after the end of one run with the next; all others are of one run.
   * @param {Frame} frame
   */
  #isOfOneRun(frame) {
    return frame.event === undefined || new URL(this.#resumeUrl).searchParams.has("correlation_id");
  }

  /**
   * Ask for what follows the last event, until there is an answer.
   * @param {unknown} problem Why that is needed.
   * @returns {Promise<AsyncGenerator<Frame[], void, void> | undefined>} None where nothing follows.
   */
  async #resume(problem) {
    for (;;) {
      this.signal.throwIfAborted();
      const delayMs = this.patience.delayMs(problem);
      if (delayMs === undefined) throw cannotResume(problem, this.patience.failures);
      await sleep(delayMs, this.signal);
      const connection = this.#connect();
      try {
        const response = await connection.beforeSilence(this.#send(this.#resumeUrl, this.#resumption(connection)));
        if (response.status === 204) return undefined;
        if (isEventStream(response)) return connection.framesOf(response);
        problem = await Refusal.from(response);
      } catch (error) {
        problem = error;
      }
    }
  }

  /**
   * @param {Connection} connection
   * @returns {RequestInit}
   */
  #resumption(connection) {
    const headers = new Headers(this.headers);
    for (const name of ["content-type", "content-length", "idempotency-key"]) headers.delete(name);
    headers.set("Accept", "text/event-stream");
    if (this.#lastId) headers.set("Last-Event-ID", this.#lastId);
    else headers.delete("last-event-id");
    const { body, ...init } = this.init;
    const { credentials } = this;
    return { ...init, method: "GET", headers, credentials, cache: "no-store", signal: connection.signal };
  }

  #connect() {
    return new Connection(this.signal, this.settings.silenceMs);
  }

  /**
   * @param {RequestInfo | URL} input
   * @param {RequestInit} init
   */
  #send(input, init) {
    // As a method of an object, a browser's refuses to be called.
    const send = this.settings.fetch ?? globalThis.fetch;
    return send(input, init);
  }
}

/** One request and its response, dead when they bring nothing for too long. */
class Connection {
  #dead = new AbortController();

  /**
   * @param {AbortSignal} signal
   * @param {number} silenceMs
   */
  constructor(signal, silenceMs) {
    this.signal = AbortSignal.any([signal, this.#dead.signal]);
    this.silenceMs = silenceMs;
  }

  /**
   * Wait for what this connection brings, at most until its signal ends it: what is under it may miss the signal.
   * @template T
   * @param {Promise<T>} promise
   * @returns {Promise<T>}
   */
  async beforeSilence(promise) {
    const silence = new Error(`the server said nothing for ${this.silenceMs / 1000} s`);
    const timer = setTimeout(() => this.#dead.abort(silence), this.silenceMs);
    try {
      return await unlessAborted(promise, this.signal);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Yield what each piece of the response completes.
   * @param {Response} response
   * @returns {AsyncGenerator<Frame[], void, void>}
   */
  async *framesOf(response) {
    const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
    const splitter = new FrameSplitter();
    try {
      for (;;) {
        const { done, value } = await this.beforeSilence(reader.read());
        if (done) return;
        yield splitter.push(value);
      }
    } finally {
      // One that has failed cannot be cancelled.
      reader.cancel().catch(() => {});
    }
  }
}

/** Splits the bytes of one response into frames, wherever they are cut; an unfinished last frame is none. */
export class FrameSplitter {
  #decoder = new TextDecoder();
  /** The lines of the unfinished block, and the unfinished line. @type {string[]} */
  #lines = [];
  #line = "";
  #endsWithCr = false;

  /**
   * @param {Uint8Array} bytes
   * @returns {Frame[]} The frames that these bytes complete.
   */
  push(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (!text) return [];
    // The second half of a line break whose first ended a line already.
    if (this.#endsWithCr && text.startsWith("\n")) text = text.slice(1);
    this.#endsWithCr = text.endsWith("\r");
    const lines = text.split(/\r\n|\n|\r/);
    lines[0] = this.#line + lines[0];
    this.#line = lines.pop() ?? "";
    return lines.flatMap((line) => this.#take(line));
  }

  /** @param {string} line */
  #take(line) {
    if (line.startsWith(":")) return [{ text: `${line}\n`, isComment: true }];
    // No field has such a name, but handed on as the first it would be taken for a byte order mark.
    if (line.startsWith("\ufeff")) return [];
    if (line) this.#lines.push(line);
    if (line || !this.#lines.length) return [];
    const frame = parse(this.#lines);
    this.#lines = [];
    return [frame];
  }
}

/**
 * @param {string[]} lines
 * @returns {Frame}
 */
function parse(lines) {
  /** @type {Frame} */
  const frame = { text: `${lines.join("\n")}\n\n`, isComment: false };
  for (const line of lines) {
    const [, name, value = ""] = /** @type {string[]} */ (/^([^:]*)(?:: ?(.*))?$/s.exec(line));
    if (name === "data") frame.data = frame.data === undefined ? value : `${frame.data}\n${value}`;
    else if (name === "event") frame.event = value;
    else if (name === "id" && !value.includes("\0")) frame.id = value;
    else if (name === "retry" && /^\d+$/.test(value)) frame.retryMs = Number(value);
  }
  return frame;
}

/**
 * Whether nothing follows in the frame's run, on any of the wires: ours names its events, AG-UI's and the AI SDK's do not.
 * @param {Frame} frame
 */
function endsRun({ event, data = "" }) {
  if (event !== undefined) return ["done", "error", "cancelled"].includes(event);
  if (data === "[DONE]") return true;
  // Most are not, and need not be parsed.
  if (!data.includes("RUN_FINISHED") && !data.includes("RUN_ERROR")) return false;
  try {
    return ["RUN_FINISHED", "RUN_ERROR"].includes(JSON.parse(data)?.type);
  } catch {
    return false;
  }
}

/** How long to wait before the next try, and for how many. */
class Patience {
  failures = 0;
  baseMs = RETRY_MS;

  /** @param {typeof DEFAULTS} settings */
  constructor({ maxTries, maxDelayMs }) {
    this.maxTries = maxTries;
    this.maxDelayMs = maxDelayMs;
  }

  /**
   * @param {unknown} problem What has failed.
   * @returns {number | undefined} Milliseconds; none where it is not to be tried again.
   */
  delayMs(problem) {
    const refusal = problem instanceof Refusal ? problem : undefined;
    const askedMs = refusal?.retryAfterMs ?? 0;
    if (refusal?.isFinal || this.failures >= this.maxTries || askedMs > this.maxDelayMs) return undefined;
    const backoffMs = Math.min(this.baseMs * 2 ** this.failures, this.maxDelayMs);
    this.failures += 1;
    // Half of it by chance, so that all whom a server has lost do not come back at once.
    return Math.max(askedMs, backoffMs * (0.5 + Math.random() / 2));
  }
}

/** A response that is not what was asked for. */
class Refusal extends Error {
  /**
   * @param {Response} response
   * @param {string} [detail]
   */
  constructor(response, detail) {
    super(`the server answered ${response.status}${detail ? `: ${detail}` : ""}`);
    this.status = response.status;
    this.isFinal = response.status < 500 && !TRANSIENT.includes(response.status);
    this.retryAfterMs = parseRetryAfter(response.headers.get("retry-after"));
  }

  /**
   * Return it with what the server says of it (RFC 9457).
   * @param {Response} response
   */
  static async from(response) {
    const isProblem = response.headers.get("content-type")?.startsWith("application/problem+json");
    const { detail } = isProblem ? await response.json().catch(() => ({})) : { detail: undefined };
    discard(response);
    return new Refusal(response, detail);
  }
}

/**
 * @param {string | null} value Seconds, or a date (RFC 9110, section 10.2.3).
 * @returns {number} Milliseconds.
 */
function parseRetryAfter(value) {
  const ms = /^\d+$/.test(value ?? "") ? Number(value) * 1000 : Date.parse(value ?? "") - Date.now();
  return Math.max(ms || 0, 0);
}

/**
 * @param {unknown} problem
 * @param {number} tries
 */
function cannotResume(problem, tries) {
  const reason = problem instanceof Error ? problem.message : String(problem);
  const status = problem instanceof Refusal ? problem.status : undefined;
  return new ResumeError(`The stream cannot be resumed (tries: ${tries}): ${reason}`, { cause: problem, status });
}

/** @param {Response} response */
function isEventStream(response) {
  const type = response.headers.get("content-type")?.split(";")[0].trim().toLowerCase();
  return response.ok && response.body !== null && type === "text/event-stream";
}

/** @param {Response} [response] */
function discard(response) {
  response?.body?.cancel().catch(() => {});
}

/**
 * Wait for the promise, at most until the signal is aborted, by whose reason it then rejects.
 * @template T
 * @param {Promise<T>} promise
 * @param {AbortSignal} signal
 * @returns {Promise<T>}
 */
async function unlessAborted(promise, signal) {
  let stop = () => {};
  /** @type {Promise<never>} */
  const aborted = new Promise((_, reject) => {
    stop = () => reject(signal.reason);
    signal.addEventListener("abort", stop);
    if (signal.aborted) stop();
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal Ends it early, by its reason.
 */
async function sleep(ms, signal) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const pause = new Promise((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  try {
    await unlessAborted(pause, signal);
  } finally {
    clearTimeout(timer);
  }
}

/** Return a new key; `crypto.randomUUID` is for secure contexts only. */
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
