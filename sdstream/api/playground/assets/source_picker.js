// The choice of a source: which kind, which camera, which file, mirrored or not; and the one input that is open.

import { byId, element } from "./dom.js";
import { canShareScreen, listCameras, openSource } from "./sources.js";

/** `changed()` is called when a person chose something else, `ended()` when the open input went away by itself. */
export class SourcePicker {
  #kind = "camera";
  #input = null;
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
      byId("file-name").textContent = event.target.files[0]?.name ?? "Choose a video…";
      tell();
    });
    for (const id of ["mirror", "camera-list"]) byId(id).addEventListener("change", tell);
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

  /** Open what is chosen in place of what is open. Raises SourceError; the old input then stays. */
  async open(width, height) {
    const input = await openSource(this.#kind, {
      deviceId: byId("camera-list").value,
      mirror: byId("mirror").checked,
      file: byId("file").files[0],
      width,
      height,
      onEnded: () => this.#input === input && this.#ended(),
    });
    this.#input?.close();
    this.#input = input;
    this.draw(); // the names of cameras are known from the first permission on
    return input;
  }

  close() {
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
    const list = byId("camera-list");
    const chosen = list.value;
    list.hidden = !cameras[0]?.id; // before the first permission cameras have neither id nor name
    list.replaceChildren(...cameras.map(({ id, label }) => element("option", { value: id, text: label })));
    if (cameras.some(({ id }) => id === chosen)) list.value = chosen;
  }
}
