// The REST side: requests with the key, the server's errors in words, and server-sent events.

const ANSWER_LIMIT_MS = 15_000;
const SLOWEST_LINE = 10; // bytes in a millisecond: a style image of some megabytes takes its time

const SILENCE_LIMIT_MS = 30_000; // of events: a comment comes every ten seconds

/** Where the API lives: the folder of this page, so that a proxy may put everything under a path. */
export const BASE = new URL("./", document.baseURI);

/** What the server refused, or that it could not be reached (`status` 0); `unanswered` when a request got no answer at all. */
export class ApiError extends Error {
  constructor({ status, code, message, details, requestId, unanswered = false }) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code ?? "";
    this.details = details ?? null;
    this.requestId = requestId ?? "";
    this.unanswered = unanswered;
  }

  /** One line for each field that the server found wrong; empty when it named none. */
  get problems() {
    if (!Array.isArray(this.details)) return [];
    return this.details
      .filter((detail) => detail && typeof detail === "object" && detail.problem)
      .map(({ field, problem, suggestion }) => {
        const name = field ? `${String(field).replace(/^params\./, "")}: ` : "";
        return `${name}${problem}${suggestion ? ` (did you mean ${suggestion}?)` : ""}`;
      });
  }
}

/** There was no answer, or not in time: of a line that died, as while a laptop slept, browsers tell after minutes. */
class NoAnswer extends ApiError {
  constructor() {
    super({ status: 0, message: "The server did not answer. Is it still running?", unanswered: true });
  }
}

/** The same path on the host that served this page, whatever address the server believes it has. */
export function onThisHost(address) {
  const url = new URL(address, BASE);
  const start = url.pathname.search(/\/(live\/video-to-video|playback)\//);
  if (start < 0) return url.href;
  return new URL(`.${url.pathname.slice(start)}${url.search}`, BASE).href;
}

export class Api {
  /** `answered` is told of each request that got an answer, whatever it was: when it was sent, as `performance.now()` has it. */
  constructor(key = "", answered = () => {}) {
    this.key = key;
    this.answered = answered;
  }

  models() {
    return this.json("GET", "v1/models");
  }

  parameters() {
    return this.json("GET", "v1/parameters");
  }

  capacity() {
    return this.json("GET", "v1/capacity");
  }

  createStream(body) {
    return this.json("POST", "v1/streams", body);
  }

  /** `members` are those beside params, such as outputs. */
  updateStream(id, params, members = {}) {
    return this.json("PATCH", `v1/streams/${id}`, { pipeline: "streamdiffusion", params, ...members });
  }

  /** `keepalive` lets the request outlive the page. */
  deleteStream(id, { keepalive = false } = {}) {
    return this.json("DELETE", `v1/streams/${id}`, undefined, { keepalive });
  }

  async status(id, signal) {
    return (await this.json("GET", `v1/streams/${id}/status`, undefined, { signal })).data;
  }

  async snapshot(id) {
    return (await this.send("GET", `v1/streams/${id}/snapshot.jpg`)).blob();
  }

  /** What an image processor of the stream made last, as a small picture. */
  async tap(id, processor, signal) {
    return (await this.send("GET", `v1/streams/${id}/tap/${processor}.jpg`, undefined, { signal })).blob();
  }

  recordings(id) {
    return this.json("GET", `v1/streams/${id}/recordings`);
  }

  async recording(id, name) {
    return (await this.send("GET", `v1/streams/${id}/recordings/${encodeURIComponent(name)}`)).blob();
  }

  deleteRecording(id, name) {
    return this.json("DELETE", `v1/streams/${id}/recordings/${encodeURIComponent(name)}`);
  }

  async json(method, path, body, options = {}) {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const limit = AbortSignal.timeout(ANSWER_LIMIT_MS + (text?.length ?? 0) / SLOWEST_LINE);
    const response = await this.send(method, path, text, { ...options, signal: options.signal ? AbortSignal.any([options.signal, limit]) : limit });
    try {
      return await response.json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      if (error.name !== "SyntaxError") throw new NoAnswer();
      throw new ApiError({ status: response.status, message: `The server's answer to ${method} /${path} is not JSON.` });
    }
  }

  /** `text` is JSON. */
  async send(method, path, text, { signal, keepalive = false, headers = {} } = {}) {
    const all = { "x-client-source": "playground", ...headers };
    if (this.key) all.Authorization = `Bearer ${this.key}`;
    if (text !== undefined) all["Content-Type"] = "application/json";
    let response;
    const sentAt = performance.now();
    try {
      response = await fetch(new URL(path, BASE), {
        method,
        headers: all,
        body: text,
        signal,
        keepalive,
        cache: "no-store",
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new NoAnswer();
    }
    this.answered(sentAt);
    if (!response.ok) throw await refusal(response);
    return response;
  }

  /**
   * Events of a stream, for ever: yields {id, event, data} until `signal` aborts, and throws when the connection ends.
   * fetch instead of EventSource, which cannot send the Authorization header.
   */
  async *events(id, signal, lastEventId = "") {
    const headers = { Accept: "text/event-stream" };
    if (lastEventId) headers["Last-Event-ID"] = lastEventId;
    const response = await this.send("GET", `v1/streams/${id}/events`, undefined, { signal, headers });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    const parser = new EventParser();
    for (;;) {
      const { value, done } = await inTime(reader, SILENCE_LIMIT_MS);
      if (done) throw new ApiError({ status: 0, message: "The event stream ended." });
      yield* parser.push(value);
    }
  }
}

/** What `reader` reads next; a stream that is silent for as many milliseconds has ended. */
async function inTime(reader, limit) {
  const timer = setTimeout(() => reader.cancel().catch(() => {}), limit);
  try {
    return await reader.read();
  } finally {
    clearTimeout(timer);
  }
}

/** Cuts text/event-stream into events; a line or an event may arrive in any number of pieces. */
export class EventParser {
  #rest = "";
  #event = { id: "", event: "message", data: [] };

  push(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    const events = [];
    for (const line of lines) {
      if (line === "") {
        if (this.#event.data.length) events.push(this.#finish());
        this.#event = { id: this.#event.id, event: "message", data: [] };
        continue;
      }
      const colon = line.indexOf(":");
      if (colon === 0) continue; // a comment keeps the connection open
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (field === "data") this.#event.data.push(value);
      else if (field === "event") this.#event.event = value;
      else if (field === "id") this.#event.id = value;
    }
    return events;
  }

  #finish() {
    const text = this.#event.data.join("\n");
    let data;
    try {
      data = JSON.parse(text);
    } catch {
      data = text;
    }
    return { id: this.#event.id, event: this.#event.event, data };
  }
}

/** Whether a style image is one in a data URI as lists and answers shorten it. */
export const isShortened = (image) => /^data:.*\.\.\. \(\d+ characters\)$/.test(image ?? "");

/** The error that a response carries; falls back to plain text, as WHIP and WHEP may send. */
export async function refusal(response) {
  const text = await response.text();
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // not the envelope: a proxy, or plain text
  }
  return new ApiError({
    status: response.status,
    code: body?.code,
    message: body?.error || text.slice(0, 300) || `The server answered ${response.status} ${response.statusText}`.trim(),
    details: body?.details,
    requestId: body?.requestId,
  });
}
