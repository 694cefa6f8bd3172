// Where the output goes besides this page: recordings, RTMP servers, HLS. These are members beside `params`, not parameters.

import { copyOnClick } from "./copying.js";
import { byId, element, icon } from "./dom.js";
import { switchField } from "./fields.js";

const MOST_TARGETS = 8;
const FINISHING_MS = 700; // a recording that ended is still made a plain MP4

/** The section of the panel. `changed({outputs} or {recording})` is called with members of a create or update body. */
export class OutputPanel {
  #changed;
  #api;
  #targets = [];
  #told = [];
  #inForce = []; // the targets that the server has taken, with their keys, which it shows nobody
  #record;
  #stream = null;
  #underWay = null;
  #again = null; // the look at the recordings that is to come
  #kept = null; // a stream that ended and whose recordings can still be fetched: they are listed while it exists

  constructor({ api, changed, failed }) {
    this.#api = api;
    this.#changed = changed;
    this.failed = failed;
    this.#record = switchField({ label: "Record", value: false, changed: (on) => this.#changed({ recording: { enabled: on } }) });
    this.list = element("ol", { class: "targets", "aria-label": "RTMP servers" });
    this.adder = element("button", { type: "button", class: "link", onclick: () => this.#add() }, icon("plus"), "Push to an RTMP server");
    this.recordings = element("ol", { class: "recordings", "aria-label": "Recordings" });
    this.recordingState = element("p", { class: "field-note", role: "status" });
    this.hls = element("div", { class: "field", hidden: true });
    byId("outputs").replaceChildren(this.#record.node, this.recordingState, this.recordings, element("div", { class: "field", role: "group", "aria-label": "RTMP" }, this.list, this.adder), this.hls);
    this.#draw();
  }

  /** What a create request is to have besides params. */
  get members() {
    return { outputs: this.#given, recording: { enabled: this.recording } };
  }

  get recording() {
    return this.#record.node.querySelector("input").checked;
  }

  get #given() {
    return this.#targets.map((target) => target.trim()).filter(Boolean);
  }

  /** A stream runs (its answer), or none (null). */
  follow(stream) {
    this.#stream = stream;
    this.hls.hidden = !stream?.hls_url;
    if (stream?.hls_url) {
      const address = element("input", { type: "text", readonly: true, value: stream.hls_url, "aria-label": "HLS address", onfocus: () => address.select() });
      const copy = element("button", { type: "button", class: "button small", "aria-label": "Copy the HLS address" }, icon("copy"), element("span", { text: "Copy" }));
      copyOnClick(copy, () => stream.hls_url, () => address.select());
      this.hls.replaceChildren(element("div", { class: "field-head" }, element("span", { class: "label", text: "HLS" }), element("span", { class: "field-tail" }, copy)), address);
    }
    this.showStatus({ outputs: [], recording: null });
    this.recordings.replaceChildren();
  }

  /** Whether there is, or comes, a recording that nobody has fetched yet, as far as this page knows. */
  get hasRecordings() {
    return this.#underWay !== null || this.recordings.childElementCount > 0;
  }

  /** A stream has ended; its recordings stay in the list until `forget`. */
  keep(stream) {
    this.#stream = this.#kept = stream;
    this.showRecordings();
  }

  /** Let go of the kept stream, if any: its recordings stay on the server's disk and are listed no more. */
  async forget(options) {
    const kept = this.#kept;
    this.#kept = null;
    if (kept) await this.#api.deleteStream(kept.id, options).catch(() => {}); // the server lets go of it by itself, later
  }

  /** The server has taken these members of a create or update body. */
  taken({ outputs = this.#inForce }) {
    this.#inForce = [...outputs];
  }

  /** A change was refused; `recording` is as the stream has it. */
  takeBack({ recording }) {
    this.#targets = [...this.#inForce];
    this.#told = [...this.#inForce];
    this.#record.set(recording.enabled);
    this.#draw();
  }

  /** `outputs` and `recording` of the stream's status. */
  showStatus({ outputs = [], recording = null }) {
    for (const [index, row] of [...this.list.children].entries()) {
      const state = outputs.find(({ target }) => target === hideKey(this.#targets[index] ?? ""));
      const words = state ? [{ live: "Live", connecting: "Connecting", waiting: "Waiting to try again" }[state.state] ?? state.state, state.last_error].filter(Boolean).join(": ") : "";
      const place = row.querySelector(".field-note");
      if (place.textContent !== words) place.textContent = words;
      place.classList.toggle("is-bad", state?.state === "waiting");
    }
    const name = recording?.name ?? null;
    if (name !== this.#underWay) this.showRecordings(); // another file, or none any more
    this.#underWay = name;
    const words = recording ? `${recording.name}: ${Math.round(recording.seconds)} s, ${megabytes(recording.bytes_written)}` : "";
    if (this.recordingState.textContent !== words) this.recordingState.textContent = words;
  }

  /** Show the recordings that are whole. */
  async showRecordings() {
    const stream = this.#stream;
    if (!stream) return;
    const answer = await this.#api.recordings(stream.id).catch(() => null); // the stream may have ended meanwhile
    if (stream !== this.#stream || answer === null) return; // one that was not answered leaves the list, for Stop looks at it
    const { data } = answer;
    if ((this.#kept || !this.recording) && data.some(({ finished }) => !finished)) {
      clearTimeout(this.#again);
      this.#again = setTimeout(() => this.showRecordings(), FINISHING_MS);
    }
    this.recordings.replaceChildren(...data.filter(({ finished }) => finished).map((recording) => {
      const row = element("li", {},
        element("span", { text: `${recording.name}, ${megabytes(recording.bytes)}` }),
        element("button", { type: "button", class: "link", "aria-label": `Download ${recording.name}`, onclick: () => this.#download(stream, recording) }, "Download"),
        element("button", { type: "button", class: "icon-button", "aria-label": `Delete ${recording.name}`, title: "Delete", onclick: () => this.#delete(stream, recording, row) }, icon("close")));
      return row;
    }));
  }

  async #download(stream, { name }) {
    try {
      const address = URL.createObjectURL(await this.#api.recording(stream.id, name));
      element("a", { href: address, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    } catch (error) {
      this.failed(error, `${name} was not fetched.`);
    }
  }

  async #delete(stream, { name }, row) {
    try {
      await this.#api.deleteRecording(stream.id, name);
      row.remove();
      this.#record.node.querySelector("input").focus();
    } catch (error) {
      this.failed(error, `${name} was not deleted.`);
    }
  }

  #add() {
    this.#targets.push("");
    this.#draw();
    this.list.lastElementChild.querySelector("input").focus();
  }

  #draw() {
    this.list.replaceChildren(...this.#targets.map((target, index) => {
      const address = element("input", { type: "text", value: target, placeholder: "rtmp://host/app/key", spellcheck: "false", autocomplete: "off", "aria-label": `RTMP server ${index + 1}`, onchange: () => {
        this.#targets[index] = address.value;
        this.#tell();
      } });
      const remove = element("button", { type: "button", class: "icon-button", "aria-label": `Remove RTMP server ${index + 1}`, title: "Remove", onclick: () => {
        this.#targets.splice(index, 1);
        this.#draw();
        (this.list.children[Math.min(index, this.#targets.length - 1)]?.querySelector("input") ?? this.adder).focus();
        this.#tell();
      } }, icon("close"));
      return element("li", {}, element("div", { class: "image-row" }, address, remove), element("p", { class: "field-note" }));
    }));
    this.adder.disabled = this.#targets.length >= MOST_TARGETS;
  }

  #tell() {
    const given = this.#given;
    if (JSON.stringify(given) === JSON.stringify(this.#told)) return;
    this.#told = given;
    this.#changed({ outputs: given });
  }
}

/** A target as the server shows it: without user, query and the last part of its path, which is the key. */
export function hideKey(target) {
  const match = /^(rtmps?):\/\/(?:[^/@]*@)?([^/?]+)\/?([^?]*)/.exec(target.trim());
  if (!match) return target;
  const parts = match[3].split("/").filter(Boolean);
  const key = parts.pop();
  return `${match[1]}://${match[2]}/${key && parts.length ? `${parts.join("/")}/***` : "***"}`;
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
