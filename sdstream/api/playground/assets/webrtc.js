// WHIP (send) and WHEP (receive) with RTCPeerConnection and nothing else.

import { ApiError, onThisHost, refusal } from "./api.js";

const GATHERING_LIMIT_MS = 400; // host candidates only
const RELAY_LIMIT_MS = 3000; // with ICE servers, whose candidates take some round trips
const NO_CANDIDATES_LIMIT_MS = 1500; // a browser that names no address of its own hardly ever connects
const GOODBYE_LIMIT_MS = 3000;
const DISCONNECTED_LIMIT_MS = 2000; // a shorter break repairs itself

/**
 * Sends one picture track to a WHIP endpoint. Events: "connected", "failed" (detail: {cause}, "blocked" where it had never connected).
 * `patience`: milliseconds from the answer in which it must connect; null for as long as the browser tries.
 */
export class Publisher extends EventTarget {
  #link = null;

  constructor(url, { bitrate = 2_500_000, patience = null } = {}) {
    super();
    this.url = onThisHost(url);
    this.bitrate = bitrate;
    this.patience = patience;
    this.playbackUrl = null;
  }

  /** Offer, post, answer. Raises ApiError with the server's words. */
  async connect(track, signal) {
    const link = new Link(this, this.patience);
    this.#link = link;
    const transceiver = link.peer.addTransceiver(track, {
      direction: "sendonly",
      streams: [new MediaStream([track])],
      sendEncodings: [{ maxBitrate: this.bitrate }],
    });
    preferH264(transceiver, RTCRtpSender);
    const response = await link.negotiate(this.url, signal);
    const playback = response.headers.get("Livepeer-Playback-URL");
    this.playbackUrl = playback ? onThisHost(playback) : null;
    // Chrome halves the picture's size while its bandwidth estimate grows; the server scales anyway, so keep the size.
    const parameters = transceiver.sender.getParameters();
    parameters.degradationPreference = "maintain-resolution";
    await transceiver.sender.setParameters(parameters).catch(() => {}); // Firefox lacks it
  }

  /** Another camera into the same session; the far side notices only a change of size. */
  async replaceTrack(track) {
    const sender = this.#link?.peer.getSenders().find((each) => each.track?.kind === "video" || each.track === null);
    await sender?.replaceTrack(track);
  }

  /** What getStats says of the sent video: {width, height, fps, codec}, or null before the first picture. */
  async describe() {
    return this.#link?.describe("outbound-rtp") ?? null;
  }

  close(options) {
    const link = this.#link;
    this.#link = null;
    return link?.close(options);
  }
}

/** Receives from a WHEP endpoint into a MediaStream. Events: as the publisher's, and "stream" (detail: MediaStream). */
export class Player extends EventTarget {
  #link = null;

  constructor(url, { patience = null } = {}) {
    super();
    this.url = onThisHost(url);
    this.patience = patience;
  }

  async connect(signal) {
    const link = new Link(this, this.patience);
    this.#link = link;
    const stream = new MediaStream();
    link.peer.addEventListener("track", ({ track, receiver }) => {
      stream.addTrack(track);
      // Newest picture first: a jitter buffer that holds pictures back is delay the user sees in every slider.
      if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0;
      this.dispatchEvent(new CustomEvent("stream", { detail: stream }));
    });
    link.peer.addTransceiver("video", { direction: "recvonly" });
    link.peer.addTransceiver("audio", { direction: "recvonly" });
    await link.negotiate(this.url, signal);
  }

  async describe() {
    return this.#link?.describe("inbound-rtp") ?? null;
  }

  close(options) {
    const link = this.#link;
    this.#link = null;
    return link?.close(options);
  }
}

/** One RTCPeerConnection and its WHIP or WHEP resource. */
class Link {
  #owner;
  #patience;
  #timer = null;
  #connected = false;
  #failed = false;
  #closed = false;
  #resource = null;

  constructor(owner, patience) {
    this.#owner = owner;
    this.#patience = patience;
    if (!globalThis.RTCPeerConnection) throw new NoWebRtc();
    this.peer = new RTCPeerConnection({ iceServers: [], bundlePolicy: "max-bundle" });
    this.peer.addEventListener("connectionstatechange", () => this.#onState());
  }

  async negotiate(url, signal) {
    const iceServers = await iceServersOf(url, signal);
    if (iceServers.length) this.peer.setConfiguration({ iceServers, bundlePolicy: "max-bundle" });
    await this.peer.setLocalDescription(await this.peer.createOffer());
    await gathered(this.peer, iceServers.length ? RELAY_LIMIT_MS : GATHERING_LIMIT_MS);
    let response;
    try {
      response = await fetch(url, {
        method: "POST",
        headers: { "Content-Type": "application/sdp" },
        body: this.peer.localDescription.sdp,
        signal,
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError({ status: 0, message: "The server did not answer the WebRTC offer." });
    }
    if (!response.ok) throw await refusal(response);
    const location = response.headers.get("Location");
    if (location) this.#resource = onThisHost(new URL(location, url).href);
    const answer = await response.text();
    if (this.#closed) {
      await this.#remove(false); // stopped while the answer was on its way
      throw new DOMException("closed", "AbortError");
    }
    await this.peer.setRemoteDescription({ type: "answer", sdp: answer });
    this.#limit();
    return response;
  }

  /** Give up in time, where another way is there. */
  #limit() {
    if (this.#patience === null || this.#connected) return;
    const candidates = /^a=candidate:/m.test(this.peer.localDescription.sdp);
    setTimeout(() => this.#connected || this.#fail(), candidates ? this.#patience : Math.min(this.#patience, NO_CANDIDATES_LIMIT_MS));
  }

  async describe(type) {
    const report = await this.peer.getStats();
    for (const entry of report.values()) {
      if (entry.type !== type || entry.kind !== "video" || !entry.frameWidth) continue;
      const codec = report.get(entry.codecId)?.mimeType?.replace("video/", "") ?? "";
      return { width: entry.frameWidth, height: entry.frameHeight, fps: entry.framesPerSecond ?? 0, codec };
    }
    return null;
  }

  close({ keepalive = false } = {}) {
    if (this.#closed) return Promise.resolve();
    this.#closed = true;
    clearTimeout(this.#timer);
    // The resource first: a closed peer says goodbye by itself, and the server would then no longer know the resource.
    const removed = this.#remove(keepalive);
    if (keepalive) this.peer.close();
    else removed.then(() => this.peer.close());
    return removed;
  }

  async #remove(keepalive) {
    const resource = this.#resource;
    this.#resource = null;
    // The session also ends by itself when packets stop, so a failure here is no news.
    if (resource) await fetch(resource, { method: "DELETE", keepalive, signal: AbortSignal.timeout(GOODBYE_LIMIT_MS) }).catch(() => {});
  }

  #onState() {
    clearTimeout(this.#timer);
    if (this.#closed) return;
    const state = this.peer.connectionState;
    if (state === "connected") {
      this.#connected = true;
      this.#owner.dispatchEvent(new Event("connected"));
    } else if (state === "failed" || state === "closed") this.#fail();
    else if (state === "disconnected") this.#timer = setTimeout(() => this.#fail(), DISCONNECTED_LIMIT_MS);
  }

  #fail() {
    if (this.#failed || this.#closed) return;
    this.#failed = true;
    this.#owner.dispatchEvent(new CustomEvent("failed", { detail: { cause: this.#connected ? "lost" : "blocked" } }));
  }
}

/** A browser that was told to have no WebRTC. */
class NoWebRtc extends ApiError {
  cause = "blocked";

  constructor() {
    super({ status: 0, message: "This browser has no WebRTC." });
  }
}

/** H.264 first where the browser has it; the others stay as a way out. */
function preferH264(transceiver, side) {
  const codecs = side.getCapabilities?.("video")?.codecs ?? [];
  const first = codecs.filter((codec) => codec.mimeType.toLowerCase() === "video/h264");
  if (!first.length || !transceiver.setCodecPreferences) return;
  transceiver.setCodecPreferences([...first, ...codecs.filter((codec) => !first.includes(codec))]);
}

/** The STUN and TURN servers for one session: RFC 9725 has the server name them in the Link headers of OPTIONS. */
async function iceServersOf(url, signal) {
  try {
    const response = await fetch(url, { method: "OPTIONS", signal });
    return response.ok ? readIceLinks(response.headers.get("Link") ?? "") : [];
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return []; // the offer that follows tells what is wrong
  }
}

/** `<turn:host>; rel="ice-server"; username="u"; credential="p", <...>` as RTCIceServer objects. */
export function readIceLinks(header) {
  const servers = [];
  for (const [, urls, rest] of header.matchAll(/<([^>]*)>((?:\s*;\s*[\w-]+="(?:[^"\\]|\\.)*")*)/g)) {
    const members = {};
    for (const [, name, value] of rest.matchAll(/([\w-]+)="((?:[^"\\]|\\.)*)"/g)) {
      members[name] = value.replace(/\\(.)/g, "$1");
    }
    if (members.rel !== "ice-server") continue;
    const { username, credential } = members;
    servers.push(credential === undefined ? { urls } : { urls, username, credential });
  }
  return servers;
}

function gathered(peer, limit) {
  if (peer.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, limit);
    peer.addEventListener("icegatheringstatechange", () => {
      if (peer.iceGatheringState !== "complete") return;
      clearTimeout(timer);
      resolve();
    });
  });
}
