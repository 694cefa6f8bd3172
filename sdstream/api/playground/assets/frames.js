// The pictures of a video track one by one, as something that a canvas can draw.

const FRAME_RATE = 30; // where a browser does not say when a picture is new
const UNSEEN_PAUSE_MS = 1000; // a page out of sight is told of no new pictures by its video elements

/** Calls `take(picture, width, height)` for each picture until `stop`; `picture` is good during the call only. */
export class Frames {
  #take;
  #open = true;
  #stop = () => {};

  constructor(track, take) {
    this.#take = take;
    // Of a page out of sight, as when a person shares another window, only the first way gives all pictures.
    if (globalThis.MediaStreamTrackProcessor) this.#read(track);
    else this.#watch(track);
  }

  stop() {
    this.#open = false;
    this.#stop();
  }

  async #read(track) {
    const reader = new MediaStreamTrackProcessor({ track, maxBufferSize: 1 }).readable.getReader();
    this.#stop = () => reader.cancel().catch(() => {});
    for (;;) {
      const { value: frame, done } = await reader.read();
      if (done) return;
      if (this.#open) this.#take(frame, frame.displayWidth, frame.displayHeight);
      frame.close(); // the camera has few of them
    }
  }

  #watch(track) {
    const video = document.createElement("video");
    video.muted = true;
    video.playsInline = true;
    video.srcObject = new MediaStream([track]);
    video.play().catch(() => {}); // a track that ended meanwhile
    let timer = null;
    const draw = () => {
      clearTimeout(timer);
      if (!this.#open) return;
      if (video.videoWidth) this.#take(video, video.videoWidth, video.videoHeight);
      next();
    };
    const next = () => {
      const told = Boolean(video.requestVideoFrameCallback);
      const handle = told ? video.requestVideoFrameCallback(draw) : null;
      timer = setTimeout(() => {
        if (told) video.cancelVideoFrameCallback(handle);
        draw();
      }, told ? UNSEEN_PAUSE_MS : 1000 / FRAME_RATE);
    };
    this.#stop = () => {
      clearTimeout(timer);
      video.srcObject = null;
    };
    next();
  }
}
