// Whole pictures over WebSockets, where no WebRTC gets through: a publisher and a player with the ways of those in webrtc.js.

import { ApiError, onThisHost } from "./api.js";
import { formatNumber } from "./dom.js";
import { Frames } from "./frames.js";
import { Pacing } from "./pacing.js";

const OPENING_LIMIT_MS = 10_000;
const SILENCE_LIMIT_MS = 10_000; // a line that died tells nobody
const CHECK_PAUSE_MS = 1000;
const LONGEST_SIDE = 4096;
const TAKEN = "taken";

/** What the codes mean with which the server closes a WebSocket. `final`: another attempt would be of no use, or do harm. */
const CLOSINGS = {
  1000: { words: "The server ended the connection." },
  1001: { words: "The server is shutting down or has deleted the stream." },
  1003: { words: "The server could not read the pictures that were sent to it.", final: true },
  1009: { words: "A picture was larger than the server takes.", final: true },
  1011: { words: "The server met a fault." },
  4001: { words: "Another publisher took over the stream.", final: true },
};

/** {cause, words, final} of a close code; those that say nothing are a connection that was lost. */
export function closing(code) {
  return { cause: "lost", words: "Connection lost.", final: false, ...CLOSINGS[code] };
}

/** Where whole pictures go to and come from: the WHIP or WHEP URL on this page's host, with another end and scheme. */
export function picturesUrl(url) {
  const address = new URL(onThisHost(url));
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  address.pathname = address.pathname.replace(/\/wh[ie]p$/, "/pictures");
  return address.href;
}

/** The size to send a source of `width` x `height` at: no larger than fills the stream's size, and never another shape. */
export function sizeToSend(width, height, stream) {
  const scale = Math.min(1, Math.max(stream.width / width, stream.height / height), LONGEST_SIDE / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

/** Sends the pictures of one track as JPEG, at the pace of the server's answers. Events: "connected", "failed" (as `closing` has it). */
export class PicturePublisher extends EventTarget {
  #stream;
  #track = null;
  #socket = null;
  #frames = null;
  #canvas = new Canvas();
  #pacing = new Pacing();
  #fresh = false; // the canvas has a picture that has not been sent
  #encoding = false;
  #sentAt = null;
  #timer = null;
  #closed = false;

  /** `stream` is the stream's {width, height}. */
  constructor(url, stream) {
    super();
    this.url = picturesUrl(url);
    this.playbackUrl = null;
    this.#stream = stream;
  }

  /** Raises ApiError when no WebSocket opens. */
  async connect(track, signal) {
    this.#track = track;
    const socket = await openSocket(this.url, signal, { message: (data) => this.#onMessage(data), closed: (code) => this.#fail(closing(code)) });
    if (this.#closed) return void socket.close();
    this.#socket = socket;
    this.#follow();
    this.#timer = setInterval(() => this.#check(), CHECK_PAUSE_MS);
    this.dispatchEvent(new Event("connected"));
  }

  async replaceTrack(track) {
    this.#track = track;
    if (this.#socket && !this.#closed) this.#follow();
  }

  /** {width, height, codec} of what is sent, or null before the first picture. */
  async describe() {
    if (this.#sentAt === null) return null;
    const { width, height } = this.#canvas;
    return { width, height, codec: `JPEG ${formatNumber(this.#pacing.rate / 1e6)} Mbit/s` };
  }

  async close() {
    this.#closed = true;
    clearInterval(this.#timer);
    this.#frames?.stop();
    this.#socket?.close();
  }

  #follow() {
    this.#frames?.stop();
    this.#frames = new Frames(this.#track, (picture, width, height) => this.#take(picture, width, height));
  }

  #take(picture, width, height) {
    this.#canvas.draw(picture, sizeToSend(width, height, this.#stream));
    this.#fresh = true;
    this.#pacing.offer(performance.now());
    this.#send();
  }

  async #send() {
    if (!this.#fresh || this.#encoding || this.#closed || !this.#pacing.may(performance.now())) return;
    this.#fresh = false;
    this.#encoding = true;
    const jpeg = await this.#canvas.encode(this.#pacing.quality);
    this.#encoding = false;
    // The server may have begun to close it meanwhile; that is told when it is closed.
    if (!jpeg || this.#closed || this.#socket.readyState !== WebSocket.OPEN) return;
    this.#sentAt = performance.now();
    this.#pacing.sent(this.#sentAt, jpeg.size);
    this.#socket.send(jpeg);
    this.#send(); // another one may have come meanwhile
  }

  #onMessage(data) {
    if (data !== TAKEN) return;
    this.#pacing.answered(performance.now());
    this.#send();
  }

  #check() {
    const now = performance.now();
    if (this.#pacing.silence(now) > SILENCE_LIMIT_MS) return this.#fail(closing(null));
    // A shared screen that does not change gives no pictures; the server is to see that somebody is still here.
    if (this.#sentAt !== null && now - this.#sentAt >= CHECK_PAUSE_MS) this.#fresh = true;
    this.#send();
  }

  #fail(detail) {
    if (this.#closed) return;
    this.close();
    this.dispatchEvent(new CustomEvent("failed", { detail }));
  }
}

/** Shows JPEGs from a WebSocket as a MediaStream. Events: "connected", "failed" (as `closing` has it), "stream" (detail: MediaStream). */
export class PicturePlayer extends EventTarget {
  #canvas = document.createElement("canvas");
  #context = this.#canvas.getContext("2d", { alpha: false });
  #stream = null;
  #socket = null;
  #newest = null;
  #drawing = false;
  #drawn = false;
  #heardAt = 0;
  #timer = null;
  #closed = false;

  constructor(url) {
    super();
    this.url = picturesUrl(url);
  }

  async connect(signal) {
    const stream = (this.#stream = this.#canvas.captureStream()); // before the first picture, which it would miss otherwise
    this.addEventListener("connected", () => this.dispatchEvent(new CustomEvent("stream", { detail: stream })));
    const socket = await openSocket(this.url, signal, { message: (data, from) => this.#onMessage(data, from), closed: (code) => this.#fail(closing(code)) });
    if (this.#closed) return void socket.close();
    this.#socket = socket;
    this.#heardAt = performance.now();
    this.#timer = setInterval(() => {
      if (performance.now() - this.#heardAt > SILENCE_LIMIT_MS) this.#fail(closing(null));
    }, CHECK_PAUSE_MS);
  }

  async describe() {
    return this.#drawn ? { width: this.#canvas.width, height: this.#canvas.height, codec: "JPEG" } : null;
  }

  async close() {
    this.#closed = true;
    this.#newest = null;
    clearInterval(this.#timer);
    this.#socket?.close();
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
  }

  #onMessage(data, socket) {
    if (typeof data === "string" || this.#closed) return;
    // At once: the server learns from it how fast the line is, not this machine.
    if (socket.readyState === WebSocket.OPEN) socket.send(TAKEN);
    this.#heardAt = performance.now();
    this.#newest = data;
    this.#draw();
  }

  /** Draw the newest picture until there is no newer one; those that came meanwhile are skipped. */
  async #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    while (this.#newest) {
      const data = this.#newest;
      this.#newest = null;
      const bitmap = await createImageBitmap(new Blob([data], { type: "image/jpeg" })).catch(() => null);
      if (!bitmap || this.#closed) continue;
      const { width, height } = bitmap;
      if (this.#canvas.width !== width || this.#canvas.height !== height) Object.assign(this.#canvas, { width, height });
      this.#context.drawImage(bitmap, 0, 0);
      bitmap.close();
      if (!this.#drawn) {
        this.#drawn = true;
        this.dispatchEvent(new Event("connected"));
      }
    }
    this.#drawing = false;
  }

  #fail(detail) {
    if (this.#closed) return;
    this.close();
    this.dispatchEvent(new CustomEvent("failed", { detail }));
  }
}

/** What pictures are drawn on and made JPEG from; in memory alone where the browser can, as that works out of sight, too. */
class Canvas {
  #surface = globalThis.OffscreenCanvas?.prototype.convertToBlob ? new OffscreenCanvas(1, 1) : document.createElement("canvas");
  #context = this.#surface.getContext("2d", { alpha: false });

  get width() {
    return this.#surface.width;
  }

  get height() {
    return this.#surface.height;
  }

  draw(picture, { width, height }) {
    if (this.width !== width || this.height !== height) Object.assign(this.#surface, { width, height });
    this.#context.drawImage(picture, 0, 0, width, height);
  }

  /** A JPEG of what is drawn now, or null where the browser made none. */
  encode(quality) {
    const type = "image/jpeg";
    if (this.#surface.convertToBlob) return this.#surface.convertToBlob({ type, quality }).catch(() => null);
    return new Promise((resolve) => this.#surface.toBlob(resolve, type, quality));
  }
}

/** A WebSocket did not open. Browsers do not tell a page why. */
class NotOpened extends ApiError {
  cause = "unopened";

  constructor() {
    super({ status: 0, message: "No WebSocket for pictures could be opened." });
  }
}

/** Resolves to an open WebSocket. `closed` is told the code of an open one that ends, unless this side ended it or `signal` did. */
function openSocket(url, signal, { message, closed }) {
  return new Promise((resolve, reject) => {
    let socket;
    try {
      signal.throwIfAborted();
      socket = new WebSocket(url);
    } catch (error) {
      return void reject(error.name === "AbortError" ? error : new NotOpened());
    }
    socket.binaryType = "arraybuffer";
    let open = false;
    const timer = setTimeout(() => socket.close(), OPENING_LIMIT_MS);
    const abort = () => {
      socket.close();
      reject(new DOMException("stopped", "AbortError"));
    };
    signal.addEventListener("abort", abort, { once: true });
    socket.addEventListener("open", () => {
      clearTimeout(timer);
      open = true;
      resolve(socket);
    });
    socket.addEventListener("message", ({ data }) => message(data, socket));
    socket.addEventListener("close", ({ code }) => {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
      if (open) closed(code);
      else reject(new NotOpened());
    });
  });
}
