// The page: signs in, draws the controls from the server's catalogue, and ties one stream to them.

import { Api, ApiError, BASE } from "./api.js";
import { defaultOf, readCatalogue } from "./catalogue.js";
import { ControlPanel, labelOf } from "./controls.js";
import { byId, element } from "./dom.js";
import { clearMessage, clearMessages, showError } from "./messages.js";
import { StreamSession } from "./session.js";
import { LANGUAGES, snippet } from "./snippets.js";
import { canShareScreen, listCameras, openSource } from "./sources.js";
import { Stage } from "./stage.js";
import { forgetKey, forgetSettings, keepKey, loadSettings, saveSettings, takeKey } from "./store.js";

const FACTS_PAUSE_MS = 1000;
const DEFAULT_PARAMS = {
  skip_diffusion: true,
  image_preprocessing: { enabled: true, processors: [{ type: "canny", enabled: true, params: {} }] },
};

class Playground {
  #api = new Api(takeKey());
  #stage = new Stage();
  #panel = null;
  #models = [];
  #catalogue = null;
  #params = {};
  #source = "camera";
  #language = LANGUAGES[0].key;
  #session = null;
  #input = null;
  #pending = null;
  #busy = false;

  async open() {
    this.#wire();
    await this.#signIn();
  }

  // ---- signing in -------------------------------------------------------------------------------------------------------------

  async #signIn(typed = false) {
    byId("key-error").textContent = "";
    try {
      const [models, parameters] = await Promise.all([this.#api.models(), this.#api.parameters()]);
      if (typed) keepKey(this.#api.key);
      this.#models = models.data;
      this.#catalogue = readCatalogue(parameters);
    } catch (error) {
      this.#showGate(error, typed);
      return;
    }
    byId("gate").hidden = true;
    byId("page").hidden = false;
    byId("sign-out").hidden = !this.#api.key;
    clearMessages();
    this.#loadParams();
    this.#drawModels();
    this.#drawPanel();
    this.#drawSource();
    this.#drawCode();
    this.#showServer();
  }

  #showGate(error, typed) {
    const refused = error instanceof ApiError && error.status === 401;
    byId("page").hidden = true;
    byId("gate").hidden = false;
    byId("sign-out").hidden = true;
    if (!refused) showError("sign-in", error, "The playground cannot start.");
    else if (typed || this.#api.key) {
      byId("key-error").textContent = `This key was not accepted (401): ${error.message}.`;
      byId("key").setAttribute("aria-invalid", "true");
    }
    byId("key").focus();
  }

  async #signOut() {
    forgetKey();
    await this.stop();
    this.#api.key = "";
    this.#catalogue = null;
    byId("key").value = "";
    this.#signIn();
  }

  async #showServer() {
    try {
      const { streams, max_streams: most, device } = (await this.#api.capacity()).data;
      byId("server-facts").textContent = [device, `${streams} of ${most} streams`].filter(Boolean).join(" · ");
    } catch {
      byId("server-facts").textContent = "";
    }
  }

  // ---- settings ---------------------------------------------------------------------------------------------------------------

  #loadParams() {
    const kept = loadSettings();
    const known = this.#models.some(({ id }) => id === kept?.params.model_id);
    this.#params = known ? kept.params : this.#defaults();
    if (kept?.source) this.#source = kept.source;
    byId("mirror").checked = kept?.mirror ?? false;
  }

  #defaults() {
    const model = this.#models.find((each) => each.default) ?? this.#models[0];
    return { model_id: model.id, ...structuredClone(DEFAULT_PARAMS) };
  }

  #save() {
    saveSettings({ params: this.#params, source: this.#source, mirror: byId("mirror").checked });
    this.#drawCode();
  }

  #value(name) {
    const parameter = this.#catalogue.parameters.find((each) => each.name === name);
    return this.#params[name] ?? (parameter ? defaultOf(parameter, this.#family) : null);
  }

  get #family() {
    return this.#models.find(({ id }) => id === this.#params.model_id)?.family ?? null;
  }

  /** A person changed a parameter: remember it, send it. */
  #change(name, value) {
    this.#params[name] = value;
    if (name === "num_inference_steps") this.#drawPanel(); // the denoising steps are bounded by it
    if (name === "width" || name === "height") this.#shape();
    this.#save();
    if (!this.#session?.live) return;
    this.#stage.showApplied(`${labelOf(name)}: sending`);
    this.#session.update({ model_id: this.#params.model_id, [name]: value });
  }

  #changeModel(id) {
    const family = this.#family;
    this.#change("model_id", id);
    if (this.#family !== family) this.#drawPanel();
  }

  #changeDiffusion(on) {
    this.#change("skip_diffusion", !on);
    this.#drawDiffusion();
  }

  #reset() {
    if (this.#session?.live) return;
    forgetSettings();
    this.#params = this.#defaults();
    clearMessages();
    this.#drawModels();
    this.#drawPanel();
    this.#save();
  }

  // ---- drawing ----------------------------------------------------------------------------------------------------------------

  #drawModels() {
    const select = byId("model");
    select.replaceChildren(...this.#models.map(({ id }) => element("option", { value: id, text: id })));
    select.value = this.#params.model_id;
  }

  #drawPanel() {
    this.#panel = new ControlPanel(byId("controls"), this.#catalogue, (parameter, value) => this.#change(parameter.name, value));
    this.#panel.render(this.#family, this.#params);
    this.#panel.setLive(Boolean(this.#session?.live));
    this.#drawDiffusion();
    this.#shape();
  }

  #drawDiffusion() {
    const on = !this.#value("skip_diffusion");
    byId("diffusion").checked = on;
    byId("diffusion-note").textContent = on ? "on: the model redraws each picture" : "off: only the processors run";
    this.#panel.setDiffusing(on);
  }

  #shape() {
    this.#stage.setShape(this.#value("width") ?? 512, this.#value("height") ?? 512);
  }

  async #drawSource() {
    for (const radio of document.getElementsByName("source")) {
      radio.checked = radio.value === this.#source;
      if (radio.value === "screen") radio.closest("label").hidden = !canShareScreen();
    }
    byId("mirror-option").hidden = this.#source !== "camera";
    byId("file-option").hidden = this.#source !== "file";
    const cameras = this.#source === "camera" ? await listCameras().catch(() => []) : [];
    const list = byId("camera-list");
    const chosen = list.value;
    list.hidden = this.#source !== "camera" || cameras.length < 1 || !cameras[0].id;
    list.replaceChildren(...cameras.map(({ id, label }) => element("option", { value: id, text: label })));
    if (cameras.some(({ id }) => id === chosen)) list.value = chosen;
  }

  #drawPhase(phase) {
    document.body.dataset.phase = phase;
    const running = phase !== "idle";
    byId("start").hidden = running;
    byId("stop").hidden = !running;
    byId("snapshot").disabled = !running;
    byId("reset").disabled = running;
  }

  #drawCode() {
    byId("code").textContent = snippet(this.#language, { base: BASE.href.replace(/\/$/, ""), params: this.#params });
    for (const tab of byId("code-tabs").children) {
      const chosen = tab.dataset.language === this.#language;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      if (chosen) byId("code-panel").setAttribute("aria-labelledby", tab.id);
    }
  }

  // ---- streaming --------------------------------------------------------------------------------------------------------------

  async start() {
    if (this.#busy || this.#session) return;
    this.#busy = true;
    clearMessages();
    this.#drawPhase("starting");
    this.#stage.reset();
    this.#stage.showApplied("");
    this.#stage.showState("IDLE", "Opening the source");
    try {
      await this.#openInput();
      const session = new StreamSession(this.#api);
      this.#session = session;
      this.#listen(session);
      await session.start(this.#input.track, { pipeline: "streamdiffusion", name: "playground", params: this.#params });
      this.#panel.setLive(true);
      this.#showServer();
    } catch (error) {
      if (error.name !== "AbortError") showError("start", error, "Not started.");
      if (error.status === 401) this.#showGate(error, true);
      this.#closeAll();
    } finally {
      this.#busy = false;
    }
  }

  async stop() {
    byId("stop").disabled = true;
    await this.#session?.stop();
    byId("stop").disabled = false;
    this.#closeAll();
    if (this.#catalogue) this.#showServer();
  }

  #listen(session) {
    const on = (name, act) => session.addEventListener(name, ({ detail }) => act(detail));
    on("phase", ({ phase, text }) => {
      this.#drawPhase(phase);
      if (text) this.#stage.showState(phase === "reconnecting" ? "DEGRADED_INPUT" : "LOADING", text);
      if (text) this.#stage.note(text);
      if (phase === "live") this.#followFacts(session);
    });
    on("status", (data) => {
      clearMessage("fault");
      const status = this.#stage.showStatus(data);
      this.#noticeEffective(status.inForce);
    });
    on("event", ({ event, data }) => {
      this.#stage.noteEvent(event, data);
      if (event === "effective") this.#noticeEffective(data.revision, data.effective_frame);
    });
    on("output", (stream) => this.#stage.showPicture("output", stream));
    on("updated", (update) => this.#showUpdated(update));
    on("refused", ({ error, params }) => this.#takeBack(error, params));
    on("fault", (error) => showError("fault", error));
    on("ended", ({ why, reason }) => {
      if (why === "lost") showError("start", new Error(reason), "The stream ended.");
      this.#closeAll();
    });
  }

  #showUpdated({ reply, params, sentAt, answeredAt }) {
    clearMessage("update");
    const names = Object.keys(params).filter((name) => name !== "model_id").map(labelOf).join(", ") || "Model";
    const words = { hot: "applied live", reload: "needs a reload, under way", unchanged: "changes nothing" }[reply.applied] ?? "accepted";
    this.#stage.showApplied(`${names}: ${words}`, reply.applied);
    for (const warning of reply.warnings ?? []) this.#stage.note(warning);
    this.#pending = reply.applied === "unchanged" ? null : { revision: reply.revision, names, words, sentAt, answeredAt };
  }

  #noticeEffective(revision, frame = null) {
    const pending = this.#pending;
    if (!pending || revision === null || revision === undefined || revision < pending.revision) return;
    this.#pending = null;
    const after = Math.round(performance.now() - pending.sentAt);
    const where = frame === null || frame === undefined ? "" : ` from picture ${frame}`;
    this.#stage.showApplied(`${pending.names}: in force${where}, ${after} ms after it was sent`, "effective");
  }

  /** The server refused an update: say so and show what is really in force. */
  #takeBack(error, params) {
    showError("update", error, "Not changed.");
    this.#stage.showApplied("");
    const record = this.#session?.record;
    if (!record) return;
    for (const name of Object.keys(params)) if (name in record.params) this.#params[name] = record.params[name];
    this.#drawModels();
    this.#drawPanel();
    this.#save();
  }

  async #openInput() {
    const input = await openSource(this.#source, {
      deviceId: byId("camera-list").value,
      mirror: byId("mirror").checked,
      file: byId("file").files[0],
      width: this.#value("width") ?? 512,
      height: this.#value("height") ?? 512,
      onEnded: () => this.#input === input && this.stop(),
    });
    this.#input?.close();
    this.#input = input;
    this.#stage.showPicture("input", new MediaStream([input.track]));
    this.#drawSource(); // names of cameras are known from the first permission on
  }

  /** Another source while the stream runs: the same session goes on with its pictures. */
  async #swapInput() {
    this.#save();
    this.#drawSource();
    if (!this.#session?.live) return;
    if (this.#source === "file" && !byId("file").files[0]) return;
    try {
      await this.#openInput();
      await this.#session.replaceTrack(this.#input.track);
      clearMessage("source");
    } catch (error) {
      showError("source", error, "The source was not changed.");
    }
  }

  #closeAll() {
    this.#session = null;
    this.#pending = null;
    const input = this.#input;
    this.#input = null;
    input?.close();
    this.#stage.showPicture("input", null);
    this.#stage.showPicture("output", null);
    this.#stage.showFacts("input", null);
    this.#stage.showFacts("output", null);
    this.#stage.showState("IDLE");
    this.#stage.showApplied("");
    this.#panel?.setLive(false);
    this.#drawPhase("idle");
  }

  async #followFacts(session) {
    if (session.followed) return;
    session.followed = true;
    while (session === this.#session) {
      this.#stage.showFacts("input", await session.describeSent(), this.#input?.label);
      this.#stage.showFacts("output", await session.describeReceived());
      await new Promise((resolve) => setTimeout(resolve, FACTS_PAUSE_MS));
    }
  }

  async #saveSnapshot() {
    try {
      const picture = await this.#session.snapshot();
      const address = URL.createObjectURL(picture);
      const time = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
      element("a", { href: address, download: `sdstream-${time}.jpg` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10_000);
      clearMessage("snapshot");
    } catch (error) {
      showError("snapshot", error, "No snapshot.");
    }
  }

  async #copy() {
    const label = byId("copy").querySelector("span");
    try {
      await navigator.clipboard.writeText(byId("code").textContent);
      label.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(byId("code")); // no permission: the text is selected, ready for the keyboard
      label.textContent = "Selected";
    }
    setTimeout(() => (label.textContent = "Copy"), 1500);
  }

  // ---- listeners --------------------------------------------------------------------------------------------------------------

  #wire() {
    const on = (id, name, act) => byId(id).addEventListener(name, act);
    on("sign-in", "submit", (event) => {
      event.preventDefault();
      this.#api.key = byId("key").value.trim();
      this.#signIn(true);
    });
    on("sign-out", "click", () => this.#signOut());
    on("start", "click", () => this.start());
    on("stop", "click", () => this.stop());
    on("snapshot", "click", () => this.#saveSnapshot());
    on("fullscreen", "click", () => byId("output").requestFullscreen?.());
    on("model", "change", (event) => this.#changeModel(event.target.value));
    on("diffusion", "change", (event) => this.#changeDiffusion(event.target.checked));
    on("reset", "click", () => this.#reset());
    on("copy", "click", () => this.#copy());
    on("mirror", "change", () => this.#swapInput());
    on("camera-list", "change", () => this.#swapInput());
    on("file", "change", (event) => {
      byId("file-name").textContent = event.target.files[0]?.name ?? "Choose a video…";
      this.#swapInput();
    });
    on("source-kinds", "change", (event) => {
      this.#source = event.target.value;
      this.#swapInput();
    });
    byId("code-tabs").append(...LANGUAGES.map(({ key, name }) => element("button", {
      type: "button", role: "tab", id: `tab-${key}`, "data-language": key, "aria-controls": "code-panel", text: name,
      onclick: () => this.#choose(key),
      onkeydown: (event) => this.#stepTab(event),
    })));
    addEventListener("pagehide", () => {
      this.#session?.abandon();
      this.#closeAll(); // the browser may show this very page again when a person goes back
    });
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.#drawSource());
  }

  #choose(language) {
    this.#language = language;
    this.#drawCode();
  }

  #stepTab(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const place = LANGUAGES.findIndex(({ key }) => key === this.#language);
    const next = LANGUAGES[(place + by + LANGUAGES.length) % LANGUAGES.length].key;
    this.#choose(next);
    byId(`tab-${next}`).focus();
  }
}

new Playground().open();
