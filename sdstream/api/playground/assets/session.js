// One stream, from "create" to "delete": publishing, watching, updates, status and events, with repair of each.

import { ApiError, isShortened } from "./api.js";
import { PicturePlayer, PicturePublisher } from "./pictures.js";
import { causeOf, describeWays, Way } from "./ways.js";
import { Player, Publisher } from "./webrtc.js";

const UPDATE_PAUSE_MS = 80; // a slider gives sixty values a second; the server needs the newest
const STATUS_PAUSE_MS = 700;
const LONGEST_EVENT_PAUSE_MS = 15_000;
const PUBLISH_PAUSES_MS = [1000, 2000, 4000, 8000, 16000];
const WATCH_PAUSES_MS = [200, 200, 300, 500, 1000, 2000];
const TURNING = { pictures: "No WebRTC gets through. Connecting over a WebSocket", webrtc: "No WebSocket opens. Connecting by WebRTC" };

/**
 * Events, all CustomEvents: "phase" {phase, text}, "status" (the status data), "event" {event, data}, "updated" {reply, params, members, sentAt},
 * "refused" {error, params, members}, "output" (MediaStream), "way" (a sentence, see `describeWays`), "fault" (Error), "ended" {why, reason}.
 * Phases: creating, publishing, live, reconnecting, ended.
 */
export class StreamSession extends EventTarget {
  #api;
  #sends; // the way of the input
  #shows; // the way of the output
  #abort = new AbortController();
  #publisher = null;
  #player = null;
  #track = null;
  #waiting = null;
  #timer = null;
  #updating = false;
  #playing = false;
  #seen = false;
  #ended = false;

  /** `network` is what the page has seen of it (see ways.js). */
  constructor(api, network) {
    super();
    this.#api = api;
    this.#sends = new Way(network);
    this.#shows = new Way(network);
    this.record = null;
  }

  get live() {
    return this.record !== null && !this.#ended;
  }

  /** Create the stream and send `track` to it. Raises what the first attempt raises, after undoing it. */
  async start(track, body) {
    this.#track = track;
    try {
      this.#phase("creating", "Creating the stream");
      this.record = await this.#api.createStream(body);
      if (this.#ended) {
        await this.#api.deleteStream(this.record.id).catch(() => {}); // there was nothing to delete when it was stopped
        throw new DOMException("stopped", "AbortError");
      }
      this.#phase("publishing", "Connecting");
      if (this.#waiting) this.#scheduleUpdate();
      this.#watchStatus();
      this.#watchEvents();
      await this.#publishFirst();
    } catch (error) {
      await this.#finish(error.name === "AbortError" ? "stopped" : "failed");
      throw error;
    }
  }

  /**
   * Send these members of params, and `members` beside params, soon; later calls win over members not yet sent. Waits for the stream
   * while it is being created.
   */
  update(params, members = {}) {
    if (this.#ended) return;
    this.#waiting = { params: { ...this.#waiting?.params, ...params }, members: { ...this.#waiting?.members, ...members } };
    if (this.record) this.#scheduleUpdate();
  }

  async replaceTrack(track) {
    this.#track = track;
    await this.#publisher?.replaceTrack(track);
  }

  describeSent() {
    return this.#publisher?.describe() ?? Promise.resolve(null);
  }

  describeReceived() {
    return this.#player?.describe() ?? Promise.resolve(null);
  }

  snapshot() {
    return this.#api.snapshot(this.record.id);
  }

  /** What an image processor made last. */
  tap(processor) {
    return this.#api.tap(this.record.id, processor, this.#abort.signal);
  }

  /** End everything; the stream on the server, too, unless its record is to stay, for its recordings. */
  stop({ keepRecord = false } = {}) {
    return this.#finish("stopped", { keepRecord });
  }

  /** The page is going away: ask for the end in requests that outlive it. */
  abandon() {
    if (this.#ended) return;
    this.#ended = true;
    this.#publisher?.close({ keepalive: true });
    this.#player?.close({ keepalive: true });
    if (this.record) this.#api.deleteStream(this.record.id, { keepalive: true }).catch(() => {});
    this.#abort.abort(); // a page that may be shown again asks for nothing meanwhile
  }

  async #publishFirst() {
    try {
      await this.#publish();
    } catch (error) {
      if (this.#ended || !this.#sends.failed(causeOf(error))) throw error;
      await this.#publisher?.close();
      this.#phase("publishing", TURNING[this.#sends.kind]);
      await this.#publish().catch((second) => {
        if (second.name !== "AbortError") second.message = `${error.message}. ${second.message}`;
        throw second;
      });
    }
  }

  async #publish() {
    const { whip_url: url, params } = this.record;
    const way = this.#sends;
    const publisher = way.kind === "pictures" ? new PicturePublisher(url, params) : new Publisher(url, { patience: way.patience });
    this.#publisher = publisher;
    publisher.addEventListener("connected", () => {
      way.connected();
      this.#tellWays();
      this.#phase("live", "");
      if (!this.#playing) this.#watch(publisher.playbackUrl ?? this.record.output_stream_url);
    });
    publisher.addEventListener("failed", ({ detail }) => this.#republish(detail));
    await publisher.connect(this.#track, this.#abort.signal);
  }

  /** `words` say why the connection ended, `final` that it is to stay so. */
  async #republish({ cause, words = "Connection lost.", final = false }) {
    if (this.#ended) return;
    await this.#publisher?.close();
    if (final) return void (await this.#lose(words));
    let turned = this.#sends.failed(cause);
    for (const [attempt, pause] of PUBLISH_PAUSES_MS.entries()) {
      if (this.#sends.hopeless) return void (await this.#lose("Neither WebRTC nor a WebSocket gets through to the server.", { unused: true }));
      if (turned) {
        this.#phase("publishing", TURNING[this.#sends.kind]);
      } else {
        this.#phase("reconnecting", `${words} Attempt ${attempt + 1} of ${PUBLISH_PAUSES_MS.length}`);
        await this.#sleep(pause);
      }
      if (this.#ended) return;
      try {
        await this.#publish();
        return;
      } catch (error) {
        if (this.#ended) return;
        await this.#publisher?.close();
        if (error.status === 404) return this.#lose("The server no longer has this stream.");
        if (error.cause === "unopened") words = error.message;
        turned = this.#sends.failed(causeOf(error));
      }
    }
    await this.#lose("The connection was lost and could not be made again.");
  }

  /** Play, and play again after every failure: 404 only means that there is nothing to see yet. */
  async #watch(url) {
    this.#playing = true;
    const way = this.#shows;
    for (let attempt = 0; !this.#ended; ) {
      const player = way.kind === "pictures" ? new PicturePlayer(url) : new Player(url, { patience: way.patience });
      this.#player = player;
      const over = new Promise((resolve) => player.addEventListener("failed", ({ detail }) => resolve(detail.cause), { once: true }));
      player.addEventListener("connected", () => {
        attempt = 0;
        way.connected();
        this.#seen = true;
        this.#tellWays();
      });
      player.addEventListener("stream", ({ detail }) => this.#emit("output", detail));
      let cause = "";
      try {
        await player.connect(this.#abort.signal);
        cause = await Promise.race([over, this.#aborted()]);
      } catch (error) {
        if (this.#ended) return;
        const fatal = error instanceof ApiError && ![0, 404, 429, 503].includes(error.status);
        if (fatal) this.#emit("fault", error);
        cause = causeOf(error);
      }
      await player.close();
      if (this.#ended || way.failed(cause)) continue;
      await this.#sleep(WATCH_PAUSES_MS[Math.min(attempt, WATCH_PAUSES_MS.length - 1)]);
      attempt += 1;
    }
  }

  /** The output's way counts once there was something to see: before, it may still change. */
  #tellWays() {
    this.#emit("way", describeWays(this.#sends, this.#seen ? this.#shows : null));
  }

  #scheduleUpdate() {
    if (this.#timer === null && !this.#updating) this.#timer = setTimeout(() => this.#sendUpdate(), UPDATE_PAUSE_MS);
  }

  async #sendUpdate() {
    this.#timer = null;
    const waiting = this.#waiting;
    this.#waiting = null;
    if (!waiting || this.#ended) return;
    const { params, members } = waiting;
    this.#updating = true;
    const sentAt = performance.now();
    try {
      const reply = await this.#api.updateStream(this.record.id, params, members);
      this.record = { ...this.record, ...reply, params: withWholeImage(reply.params, this.record.params) };
      this.#emit("updated", { reply, params, members, sentAt });
    } catch (error) {
      // What was changed again meanwhile is still to be sent, and is not taken back.
      if (!this.#ended) this.#emit("refused", { error, params: without(params, this.#waiting?.params), members: without(members, this.#waiting?.members) });
    } finally {
      this.#updating = false;
    }
    if (this.#waiting && !this.#ended) this.#scheduleUpdate();
  }

  async #watchStatus() {
    while (!this.#ended) {
      try {
        const status = await this.#api.status(this.record.id, this.#abort.signal);
        if (!this.#ended) this.#emit("status", status);
      } catch (error) {
        if (this.#ended) return;
        if (error.status === 404) return void (await this.#lose("The server has deleted this stream."));
        this.#emit("fault", error);
        await this.#sleep(2000);
      }
      await this.#sleep(STATUS_PAUSE_MS);
    }
  }

  async #watchEvents() {
    let last = "";
    for (let failures = 0; !this.#ended; ) {
      try {
        for await (const event of this.#api.events(this.record.id, this.#abort.signal, last)) {
          failures = 0;
          if (event.id) last = event.id;
          if (this.#ended) return;
          this.#emit("event", event);
          if (event.event === "deleted") return void (await this.#lose("The stream was deleted on the server."));
        }
      } catch {
        failures += 1; // the status is polled anyway, so this is worth no message and ever rarer attempts
        await this.#sleep(Math.min(1000 * failures, LONGEST_EVENT_PAUSE_MS));
      }
    }
  }

  #lose(reason, options) {
    return this.#finish("lost", { reason, ...options });
  }

  /** A stream that was lost is gone on the server, or another may send to it: it is left alone, unless it is `unused`. */
  async #finish(why, { reason = "", keepRecord = false, unused = why !== "lost" } = {}) {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#timer);
    const record = this.record;
    this.#abort.abort();
    await Promise.all([this.#publisher?.close(), this.#player?.close()]);
    if (record && unused) {
      // A recording that is not switched off waits for a publisher who comes back.
      const ending = keepRecord ? this.#api.updateStream(record.id, {}, { recording: { enabled: false } }) : this.#api.deleteStream(record.id);
      await ending.catch((error) => {
        if (error.status !== 404) this.#emit("fault", error);
      });
    }
    this.#emit("ended", { why, reason });
  }

  #phase(phase, text) {
    if (!this.#ended) this.#emit("phase", { phase, text });
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  #aborted() {
    return new Promise((resolve) => this.#abort.signal.addEventListener("abort", resolve, { once: true }));
  }

  #sleep(milliseconds) {
    if (this.#ended) return Promise.resolve();
    return new Promise((resolve) => {
      const { signal } = this.#abort;
      const wake = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      const timer = setTimeout(wake, milliseconds);
      signal.addEventListener("abort", wake);
    });
  }
}

/** `params` of an answer, which has a style image that did not change shortened, with the whole one of `before`. */
function withWholeImage(params, { ip_adapter_style_image_url: image }) {
  return isShortened(params.ip_adapter_style_image_url) ? { ...params, ip_adapter_style_image_url: image } : params;
}

const without = (members, others = {}) => Object.fromEntries(Object.entries(members).filter(([name]) => !(name in others)));
