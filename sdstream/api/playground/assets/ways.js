// Which way pictures travel: by WebRTC, or whole over a WebSocket where no WebRTC gets through. No sockets here, only the decision.

const PATIENCE_MS = 6000; // ICE takes some round trips, by a TURN server more
const SHORT_PATIENCE_MS = 3000; // where a connection has already not come about
const MOST_UNOPENED = 3; // WebSockets that did not open, before WebRTC is given another chance

/** What the server's refusals of an offer mean for the way; others mean nothing. */
const REFUSALS = { "WEBRTC/OFF": "off", "WEBRTC/TURN_UNAVAILABLE": "blocked" };

/** What an error of an attempt tells of the way: "off", "blocked", "unopened" or "" (nothing). */
export const causeOf = (error) => REFUSALS[error.code] ?? error.cause ?? "";

/** What the page has seen of this network, and what the person chose: "auto", "webrtc" or "websocket". */
export class Network {
  choice = "auto";
  blocked = false;
}

/**
 * The way of one direction of one stream. `kind` is "webrtc" or "pictures"; `why` says why it is pictures: "chosen", "off" (the
 * server takes no WebRTC) or "blocked" (no connection came about).
 */
export class Way {
  #network;
  #choice;
  #worked = false;
  #ever = false; // whether either way has connected
  #tried = 0; // turns to pictures before that
  #unopened = 0;

  constructor(network) {
    this.#network = network;
    this.#choice = network.choice;
    this.kind = this.#choice === "websocket" ? "pictures" : "webrtc";
    this.why = this.#choice === "websocket" ? "chosen" : "";
  }

  /** Milliseconds from the answer in which WebRTC must have connected; null for as long as the browser tries. */
  get patience() {
    if (this.#choice !== "auto") return null;
    return this.#network.blocked ? SHORT_PATIENCE_MS : PATIENCE_MS;
  }

  /** Nothing has got through, though each way had its chances. */
  get hopeless() {
    return !this.#ever && this.#tried > 1;
  }

  connected() {
    this.#ever = true;
    this.#unopened = 0;
    if (this.kind === "pictures") this.#worked = true;
    else this.#network.blocked = false;
  }

  /** An attempt ended, or a connection did, for `cause` (as `causeOf` has it). Returns whether the next attempt goes another way. */
  failed(cause) {
    if (this.#choice !== "auto") return false;
    if (this.kind === "webrtc") {
      if (cause !== "off" && cause !== "blocked") return false;
      this.#network.blocked ||= cause === "blocked";
      return this.#turn("pictures", cause);
    }
    if (cause !== "unopened" || this.#worked || (this.#unopened += 1) < MOST_UNOPENED) return false;
    return this.#turn("webrtc", "");
  }

  #turn(kind, why) {
    this.#unopened = 0;
    this.#tried += kind === "pictures";
    this.kind = kind;
    this.why = why;
    return true;
  }
}

const PRICE = "over a WebSocket: no sound, more delay.";

/** One sentence for a person; empty while everything goes by WebRTC. `input` and `output` are ways, or null where there is none yet. */
export function describeWays(input, output) {
  const [sends, shows] = [input?.kind === "pictures", output?.kind === "pictures"];
  if (!sends && !shows) return "";
  const whys = [sends && input.why, shows && output.why];
  const what = sends && (shows || !output) ? "pictures travel" : sends ? "your picture travels" : "the output travels";
  if (whys.includes("chosen")) return `As chosen, ${what} ${PRICE}`;
  if (whys.includes("off")) return `This server takes no WebRTC, so ${what} ${PRICE}`;
  const where = sends && (shows || !output) ? "through here" : sends ? "out of here" : "in here";
  return `No WebRTC gets ${where}, so ${what} ${PRICE}`;
}
