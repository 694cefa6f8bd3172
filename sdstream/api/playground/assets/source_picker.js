// The choice of a source: which kind, which camera, which file, mirrored or not; and the one input that is open.

import { byId, element } from "./dom.js";
import { canShareScreen, listCameras, openSource } from "./sources.js";

/** `changed()` is called when a person chose something else, `ended(kind)` when the open input went away by itself. */
export class SourcePicker {
  #kind = "camera";
  #camera = ""; // the one that was chosen or opened last
  #input = null;
  #opened = null; // the choice that led to the input
  #opening = null; // the newest `open` under way: what an older one opens is wanted no more
  #ended;

  constructor({ changed, ended }) {
    this.#ended = ended;
    const tell = async () => {
      await this.draw();
      changed();
    };
    byId("source-kinds").addEventListener("change", (event) => {
      this.#kind = event.target.value;
      tell();
    });
    byId("file").addEventListener("change", (event) => {
      this.#chooseFile(event.target.files[0]?.name ?? "");
      tell();
    });
    byId("mirror").addEventListener("change", tell);
    byId("camera-list").addEventListener("change", (event) => {
      this.#camera = event.target.value;
      tell();
    });
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.draw());
  }

  /** What is remembered for next time. */
  get choice() {
    return { source: this.#kind, mirror: byId("mirror").checked };
  }

  set choice({ source, mirror }) {
    this.#kind = source ?? this.#kind;
    byId("mirror").checked = mirror ?? false;
  }

  /** The open input, {track, label}, or null. */
  get input() {
    return this.#input;
  }

  /** Whether there is something to open: a kind "file" without a file is a choice not finished. */
  get complete() {
    return this.#kind !== "file" || byId("file").files.length > 0;
  }

  /**
   * Open what is chosen in place of what is open. Raises SourceError; the old input then stays. Resolves to null, with nothing opened,
   * when a newer `open` or `close` came meanwhile: browsers ask for a camera for as long as the person likes.
   */
  async open(width, height) {
    const opening = (this.#opening = Symbol("open"));
    const { choice } = this;
    let input;
    try {
      input = await openSource(choice.source, {
        deviceId: byId("camera-list").value,
        mirror: choice.mirror,
        file: byId("file").files[0],
        width,
        height,
        onEnded: () => this.#input === input && this.#ended(choice.source),
      });
    } catch (error) {
      if (this.#opening !== opening) return null;
      throw error;
    }
    if (this.#opening !== opening) {
      input.close();
      return null;
    }
    this.#input?.close();
    this.#input = input;
    this.#opened = choice;
    if (input.deviceId) this.#camera = input.deviceId;
    this.draw(); // the names of cameras are known from the first permission on
    return input;
  }

  /** The choice could not be opened: show the one that is open again, and let go of a file that may be the reason. */
  revert() {
    if (this.#kind === "file") this.#chooseFile("");
    this.choice = this.#opened;
    this.#camera = this.#input.deviceId ?? this.#camera;
    this.draw();
  }

  #chooseFile(name) {
    byId("file-name").textContent = name || "Choose a video…";
    if (!name) byId("file").value = "";
  }

  close() {
    this.#opening = null;
    const input = this.#input;
    this.#input = null;
    input?.close();
  }

  async draw() {
    for (const radio of document.getElementsByName("source")) {
      radio.checked = radio.value === this.#kind;
      if (radio.value === "screen") radio.closest("label").hidden = !canShareScreen();
    }
    byId("mirror-option").hidden = this.#kind !== "camera";
    byId("file-option").hidden = this.#kind !== "file";
    const cameras = this.#kind === "camera" ? await listCameras().catch(() => []) : [];
    if (cameras.length && this.#kind !== "camera") return; // another source was chosen meanwhile
    const list = byId("camera-list");
    list.hidden = !cameras[0]?.id; // before the first permission cameras have neither id nor name
    list.replaceChildren(...cameras.map(({ id, label }) => element("option", { value: id, text: label })));
    if (cameras.some(({ id }) => id === this.#camera)) list.value = this.#camera;
  }
}
