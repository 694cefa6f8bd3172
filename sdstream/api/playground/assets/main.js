// The page: signs in, draws the controls from the server's catalogue, and ties one stream to them.

import { Api, ApiError } from "./api.js";
import { defaultOf, readCatalogue } from "./catalogue.js";
import { CodePanel } from "./code_panel.js";
import { translateControlNets } from "./controlnets.js";
import { ControlPanel, labelOf } from "./controls.js";
import { byId, element } from "./dom.js";
import { clearMessage, clearMessages, clearUnanswered, showError } from "./messages.js";
import { showMissing } from "./missing.js";
import { showRemarks } from "./remarks.js";
import { OutputPanel } from "./outputs.js";
import { StreamSession } from "./session.js";
import { SourcePicker } from "./source_picker.js";
import { Stage } from "./stage.js";
import { Taps } from "./taps.js";
import { forgetKey, forgetSettings, keepKey, loadSettings, saveSettings, takeGivenKey, takeKey } from "./store.js";
import { Network } from "./ways.js";

const FACTS_PAUSE_MS = 1000;
const DEFAULT_PARAMS = {
  skip_diffusion: true,
  image_preprocessing: { enabled: true, processors: [{ type: "canny", enabled: true, params: {} }] },
};

class Playground {
  #api = new Api(takeKey(), clearUnanswered);
  #stage = new Stage();
  #network = new Network();
  #code = new CodePanel();
  #sources = new SourcePicker({ changed: () => this.#swapInput(), ended: (kind) => this.#loseInput(kind) });
  #taps = new Taps(byId("panel"));
  #outputs = new OutputPanel({ api: this.#api, changed: (members) => this.#changeOutputs(members), failed: (error, words) => showError("outputs", error, words) });
  #panel = null;
  #models = [];
  #catalogue = null;
  #params = {};
  #session = null;
  #pending = null; // the update that was answered and is not known to be in force
  #effective = null; // the newest revision in force
  #missing = []; // what the stream cannot have, as the last status had it
  #remarks = []; // what is in force otherwise than asked for, in the same way
  #attempt = null; // of the start that is under way or has led to a session; another one, or null, once it counts no more
  #stopping = null; // the end under way

  async open() {
    this.#wire();
    await this.#signIn();
  }

  // ---- signing in -------------------------------------------------------------------------------------------------------------

  async #signIn(typed = false) {
    byId("key-error").textContent = "";
    byId("key").removeAttribute("aria-invalid");
    const { key } = this.#api;
    try {
      const [models, parameters] = await Promise.all([this.#api.models(), this.#api.parameters()]);
      if (key !== this.#api.key) return; // another one was given meanwhile
      if (typed) keepKey(key);
      this.#models = models.data;
      this.#catalogue = { ...readCatalogue(parameters), controlnets: models.controlnets };
    } catch (error) {
      if (key === this.#api.key) this.#showGate(error, typed);
      return;
    }
    byId("gate").hidden = true;
    byId("page").hidden = false;
    byId("sign-out").hidden = !this.#api.key;
    byId("fullscreen").hidden = !document.fullscreenEnabled;
    clearMessages();
    this.#loadParams();
    this.#drawModels();
    try {
      this.#drawPanel();
    } catch (error) {
      console.warn("settings of a shape that this page does not know were let go", error); // as of another version
      this.#reset();
    }
    this.#sources.draw();
    this.#code.show(this.#params);
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

  #signOut() {
    forgetKey();
    return this.#changeKey("");
  }

  async #changeKey(key) {
    await this.stop({ leaving: true });
    this.#api.key = key;
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
    this.#sources.choice = kept ?? {};
    byId("connection").value = kept?.connection ?? "auto";
    this.#chooseConnection();
  }

  #defaults() {
    const model = this.#models.find((each) => each.default) ?? this.#models[0];
    return { model_id: model.id, ...structuredClone(DEFAULT_PARAMS) };
  }

  #save() {
    saveSettings({ params: this.#params, ...this.#sources.choice, connection: this.#network.choice });
    this.#code.show(this.#params);
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
    if (name === "num_inference_steps") this.#panel.limitSteps(value); // may change t_index_list too, in the same update
    if (name === "width" || name === "height") this.#shape();
    this.#save();
    if (!this.#session) return;
    this.#stage.showApplied(`${labelOf(name)}: sending`);
    this.#session.update({ model_id: this.#params.model_id, [name]: value });
  }

  #changeModel(id) {
    const family = this.#family;
    this.#change("model_id", id);
    if (this.#family === family) return;
    const nets = this.#params.controlnets ?? [];
    if (nets.length) this.#change("controlnets", translateControlNets(nets, this.#catalogue.controlnets, this.#family));
    this.#drawPanel();
  }

  /** Recordings and RTMP servers are no parameters, and are not kept for next time: targets hold keys. */
  #changeOutputs(members) {
    if (!this.#session) return;
    this.#stage.showApplied("Outputs: sending");
    this.#session.update({}, members);
  }

  /** Counts from the next start on; a value that the page no longer offers is the first. */
  #chooseConnection() {
    const list = byId("connection");
    if (list.selectedIndex < 0) list.selectedIndex = 0;
    this.#network.choice = list.value;
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
    this.#panel.setLive(Boolean(this.#session));
    this.#drawDiffusion();
    this.#shape();
    this.#taps.show();
    showMissing(this.#missing);
    showRemarks(this.#remarks);
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

  #drawPhase(phase) {
    document.body.dataset.phase = phase;
    const running = phase !== "idle";
    const held = [byId("start"), byId("stop")].includes(document.activeElement);
    byId("start").hidden = running;
    byId("stop").hidden = !running;
    byId("snapshot").disabled = !this.#session?.live;
    byId("reset").disabled = running;
    byId("connection").disabled = running;
    if (held) byId(running ? "stop" : "start").focus(); // a hidden button loses the keyboard
  }

  // ---- streaming --------------------------------------------------------------------------------------------------------------

  async start() {
    if (this.#attempt) return;
    const attempt = (this.#attempt = Symbol("start"));
    clearMessages();
    this.#drawPhase("starting");
    this.#stage.reset();
    this.#stage.showApplied("");
    this.#stage.showState("IDLE", "Opening the source");
    try {
      await this.#openInput();
      if (this.#attempt === attempt) await this.#outputs.forget();
      if (this.#attempt !== attempt) return; // stopped, or begun anew with another source, while the browser asked for the camera
      const session = new StreamSession(this.#api, this.#network);
      this.#session = session;
      this.#listen(session);
      this.#panel.setLive(true);
      const { members } = this.#outputs;
      this.#outputs.taken(members);
      await session.start(this.#sources.input.track, { pipeline: "streamdiffusion", name: "playground", params: this.#params, ...members });
      if (this.#session !== session) return; // stopped, or lost, a moment ago
      this.#outputs.follow(session.record);
      this.#taps.follow(session);
      this.#showServer();
    } catch (error) {
      if (this.#attempt !== attempt) return; // as above
      if (error.name !== "AbortError") showError("start", error, "Not started.");
      if (error.status === 401) this.#showGate(error, true);
      this.#closeAll();
    }
  }

  stop(options) {
    return (this.#stopping ??= this.#stop(options).finally(() => (this.#stopping = null)));
  }

  async #stop({ leaving = false } = {}) {
    const session = this.#session;
    this.#attempt = null;
    const keepRecord = !leaving && Boolean(session?.record) && this.#outputs.hasRecordings;
    byId("stop").setAttribute("aria-disabled", "true");
    this.#sources.close(); // the camera's light goes out whether or not the server answers
    await session?.stop({ keepRecord });
    byId("stop").removeAttribute("aria-disabled");
    this.#closeAll();
    if (keepRecord) this.#outputs.keep(session.record);
    if (leaving) await this.#outputs.forget();
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
      this.#noticeEffective(status.inForce, status.effectiveFrame);
      this.#taps.show(status.processors);
      this.#missing = status.missing;
      showMissing(status.missing, status.fault);
      showRemarks((this.#remarks = status.remarks));
      this.#outputs.showStatus(status);
    });
    on("event", ({ event, data }) => {
      this.#stage.noteEvent(event, data);
      if (event === "effective") this.#noticeEffective(data.revision, data.effective_frame);
      // Found out behind the answer to an update that was taken: a style image that is no picture, or is not at its address.
      if (event === "error" && data.code === "STREAMS/INVALID_PARAMS") showError("params", data, "Taken, but of no use.");
    });
    on("way", (words) => this.#stage.showWay(words));
    on("output", (stream) => this.#stage.showPicture("output", stream));
    on("updated", (update) => this.#showUpdated(update));
    on("refused", ({ error, params, members }) => this.#takeBack(error, params, members));
    on("fault", (error) => showError("fault", error));
    on("ended", ({ why, reason }) => {
      if (why === "failed" || session !== this.#session) return; // `start` tells why it failed
      if (why === "lost") showError("start", new Error(reason), "The stream ended.");
      this.#closeAll();
    });
  }

  #showUpdated({ reply, params, members, sentAt }) {
    clearMessage("update");
    this.#outputs.taken(members);
    if ("ip_adapter_style_image_url" in params && !reply.warnings?.length) clearMessage("params");
    if (Object.keys(members).length && !Object.keys(params).length) return this.#stage.showApplied("Outputs: changed", "hot");
    const names = Object.keys(params).filter((name) => name !== "model_id").map(labelOf).join(", ") || "Model";
    const words = { hot: "applied live", reload: "needs a reload, under way", unchanged: "changes nothing" }[reply.applied] ?? "accepted";
    this.#stage.showApplied(`${names}: ${words}`, reply.applied);
    for (const warning of reply.warnings ?? []) this.#stage.note(warning);
    this.#pending = reply.applied === "unchanged" ? null : { revision: reply.revision, names, sentAt };
    this.#showEffective();
  }

  /** The server says which revision is in force; by an event, which may come before the answer to the update, or by the status. */
  #noticeEffective(revision, frame) {
    if (revision === null || revision === undefined || revision <= (this.#effective?.revision ?? 0)) return;
    this.#effective = { revision, frame, at: performance.now() };
    this.#showEffective();
  }

  #showEffective() {
    const [pending, effective] = [this.#pending, this.#effective];
    if (!pending || !effective || effective.revision < pending.revision) return;
    this.#pending = null;
    const after = Math.round(effective.at - pending.sentAt);
    const where = effective.frame === null || effective.frame === undefined ? "" : ` from picture ${effective.frame}`;
    this.#stage.showApplied(`${pending.names}: in force${where}, ${after} ms after it was sent`, "effective");
  }

  /** The server refused an update: say so and show what is really in force. */
  #takeBack(error, params, members) {
    showError("update", error, "Not changed.");
    this.#stage.showApplied("");
    const record = this.#session?.record;
    if (!record) return;
    if (Object.keys(members).length) this.#outputs.takeBack(record);
    const family = this.#family;
    for (const name of Object.keys(params)) if (name in record.params) this.#params[name] = record.params[name];
    this.#drawModels();
    if (this.#family !== family) this.#drawPanel();
    this.#panel.set(this.#params);
    this.#panel.limitSteps(this.#value("num_inference_steps"));
    this.#drawDiffusion();
    this.#save();
  }

  /** Resolves to the track, or to null when the source is not wanted any more. */
  async #openInput() {
    const input = await this.#sources.open(this.#value("width") ?? 512, this.#value("height") ?? 512);
    if (input) this.#stage.showPicture("input", new MediaStream([input.track]));
    return input?.track ?? null;
  }

  /** Another source while the stream runs, or is being created: the same session goes on with its pictures. */
  async #swapInput() {
    this.#save();
    if (!this.#attempt || !this.#sources.complete) return;
    const session = this.#session;
    if (!session) {
      this.#attempt = null; // the browser still asks for the source before this one
      return void this.start();
    }
    try {
      const track = await this.#openInput();
      if (track) await session.replaceTrack(track);
      clearMessage("source");
    } catch (error) {
      if (session !== this.#session) return;
      showError("source", error, "The source was not changed.");
      this.#sources.revert();
      this.#save();
    }
  }

  #loseInput(kind) {
    if (kind === "camera") showError("source", new Error("The camera gives no more pictures: it was unplugged, or is not allowed any more"), "The stream ended.");
    this.stop();
  }

  #closeAll() {
    this.#session = null;
    this.#attempt = null;
    this.#pending = null;
    this.#effective = null;
    this.#sources.close();
    this.#taps.follow(null);
    this.#outputs.follow(null);
    this.#stage.showPicture("input", null);
    this.#stage.showPicture("output", null);
    this.#stage.showFacts("input", null);
    this.#stage.showFacts("output", null);
    this.#stage.showState("IDLE");
    this.#stage.showWay("");
    this.#stage.showApplied("");
    showMissing((this.#missing = []));
    showRemarks((this.#remarks = []));
    this.#panel?.setLive(false);
    this.#drawPhase("idle");
  }

  async #followFacts(session) {
    if (session.followed) return;
    session.followed = true;
    while (session === this.#session) {
      const [sent, received] = await Promise.all([session.describeSent(), session.describeReceived()]);
      if (session !== this.#session) return;
      this.#stage.showFacts("input", sent, this.#sources.input?.label);
      this.#stage.showFacts("output", received);
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

  // ---- listeners --------------------------------------------------------------------------------------------------------------

  #wire() {
    const on = (id, name, act) => byId(id).addEventListener(name, act);
    on("sign-in", "submit", (event) => {
      event.preventDefault();
      this.#api.key = byId("key").value.trim();
      this.#signIn(true);
    });
    on("sign-out", "click", () => this.#signOut());
    // The second click of a double one falls on the button that has just taken the first one's place.
    on("start", "click", ({ detail }) => detail < 2 && this.start());
    on("stop", "click", ({ detail }) => detail < 2 && this.stop());
    on("snapshot", "click", () => this.#saveSnapshot());
    on("fullscreen", "click", () => byId("output").requestFullscreen?.());
    on("connection", "change", () => {
      this.#chooseConnection();
      this.#save();
    });
    on("model", "change", (event) => this.#changeModel(event.target.value));
    on("diffusion", "change", (event) => this.#changeDiffusion(event.target.checked));
    on("reset", "click", () => this.#reset());
    // A link with a key that is opened in this tab loads nothing anew.
    addEventListener("hashchange", () => {
      const key = takeGivenKey();
      if (key && key !== this.#api.key) this.#changeKey(key);
    });
    addEventListener("pagehide", () => {
      this.#session?.abandon();
      this.#outputs.forget({ keepalive: true });
      this.#closeAll(); // the browser may show this very page again when a person goes back
    });
  }
}

new Playground().open();
