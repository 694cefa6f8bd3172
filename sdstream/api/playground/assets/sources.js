// Where pictures come from: camera, screen, a video file, or the built-in test picture. Each gives one video track.

import { TestPicture } from "./test_picture.js";

const FRAME_RATE = 30;

/**
 * Open a source of the given kind ("camera" | "screen" | "file" | "test").
 *
 * `width` and `height` are the stream's size: a wish for cameras, exact for drawn sources. `mirror` flips the camera before it is
 * sent. Resolves to {track, label, close()}, cameras with their deviceId; raises SourceError in words a person can act on. `onEnded` is called when the source
 * goes away by itself, as when a person ends the sharing of a screen.
 */
export async function openSource(kind, { deviceId, mirror, file, width, height, onEnded }) {
  if (kind === "test") return openTestPicture(width, height);
  if (kind === "file") return openFile(file, width, height);
  const source = kind === "screen" ? await openScreen() : await openCamera({ deviceId, mirror, width, height });
  source.ended.then(() => onEnded?.());
  return source;
}

/** Why there is no picture to send. */
export class SourceError extends Error {}

/** The cameras, with names where the person has allowed one already. */
export async function listCameras() {
  if (!navigator.mediaDevices?.enumerateDevices) return [];
  const devices = await navigator.mediaDevices.enumerateDevices();
  return devices
    .filter((device) => device.kind === "videoinput")
    .map((device, index) => ({ id: device.deviceId, label: device.label || `Camera ${index + 1}` }));
}

export const canShareScreen = () => Boolean(navigator.mediaDevices?.getDisplayMedia);

async function openCamera({ deviceId, mirror, width, height }) {
  requireMedia();
  const constraints = {
    width: { ideal: width },
    height: { ideal: height },
    frameRate: { ideal: FRAME_RATE },
    ...(deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "user" }),
  };
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: constraints });
  } catch (error) {
    throw new SourceError(CAMERA_FAULTS[error.name] ?? `The camera cannot be opened: ${error.message}`);
  }
  const track = stream.getVideoTracks()[0];
  const ended = endOf(track);
  const { deviceId: opened } = track.getSettings();
  if (!mirror) return { track, label: track.label, deviceId: opened, ended, close: () => track.stop() };
  const drawn = await drawVideo(stream, width, height, { mirror: true }).catch((error) => {
    track.stop();
    throw error;
  });
  return {
    track: drawn.track,
    label: `${track.label}, mirrored`,
    deviceId: opened,
    ended,
    close: () => {
      drawn.close();
      track.stop();
    },
  };
}

async function openScreen() {
  requireMedia();
  try {
    const stream = await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: FRAME_RATE } });
    const track = stream.getVideoTracks()[0];
    return { track, label: track.label || "Screen", ended: endOf(track), close: () => track.stop() };
  } catch (error) {
    if (error.name === "NotAllowedError") throw new SourceError("Sharing the screen was not allowed. Press Start to be asked again.");
    throw new SourceError(`The screen cannot be shared: ${error.message}`);
  }
}

async function openFile(file, width, height) {
  if (!file) throw new SourceError("Choose a video file first.");
  const address = URL.createObjectURL(file);
  try {
    const drawn = await drawVideo(address, width, height, {});
    return {
      track: drawn.track,
      label: file.name,
      close: () => {
        drawn.close();
        URL.revokeObjectURL(address);
      },
    };
  } catch (error) {
    URL.revokeObjectURL(address);
    throw error;
  }
}

function openTestPicture(width, height) {
  const picture = new TestPicture(width, height);
  const track = picture.canvas.captureStream(FRAME_RATE).getVideoTracks()[0];
  picture.start(FRAME_RATE);
  return {
    track,
    label: "Test picture",
    close: () => {
      picture.stop();
      track.stop();
    },
  };
}

/**
 * Play `from` (a MediaStream or an address) unseen and draw it to a canvas of exactly the stream's size, cropped at the centre, so
 * nothing is stretched. A file starts again at its end.
 */
async function drawVideo(from, width, height, { mirror = false }) {
  const video = document.createElement("video");
  video.muted = true;
  video.loop = true;
  video.playsInline = true;
  if (typeof from === "string") video.src = from;
  else video.srcObject = from;
  try {
    await video.play();
  } catch {
    throw new SourceError("This browser cannot play that file. MP4 with H.264 and WebM work almost everywhere.");
  }
  if (!video.videoWidth) {
    video.removeAttribute("src");
    throw new SourceError("That file has no pictures, or none that this browser can show.");
  }
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { alpha: false });
  if (mirror) context.setTransform(-1, 0, 0, 1, width, 0);
  let open = true;
  const draw = () => {
    if (!open) return;
    const scale = Math.max(width / video.videoWidth, height / video.videoHeight);
    const drawnWidth = video.videoWidth * scale;
    const drawnHeight = video.videoHeight * scale;
    context.drawImage(video, (width - drawnWidth) / 2, (height - drawnHeight) / 2, drawnWidth, drawnHeight);
    next();
  };
  const next = () => {
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(draw);
    else setTimeout(draw, 1000 / FRAME_RATE);
  };
  draw();
  const track = canvas.captureStream(FRAME_RATE).getVideoTracks()[0];
  return {
    track,
    close: () => {
      open = false;
      track.stop();
      video.pause();
      video.removeAttribute("src");
      video.srcObject = null;
    },
  };
}

function endOf(track) {
  return new Promise((resolve) => track.addEventListener("ended", resolve, { once: true }));
}

function requireMedia() {
  if (navigator.mediaDevices?.getUserMedia) return;
  throw new SourceError("Browsers give cameras and screens only to pages on HTTPS or on this machine (localhost). The test picture and files work here.");
}

const CAMERA_FAULTS = {
  NotAllowedError: "The camera was not allowed. Allow it in the address bar, then press Start again.",
  NotFoundError: "No camera was found. Plug one in, or use the test picture.",
  NotReadableError: "The camera is in use by another program.",
  OverconstrainedError: "That camera is gone. Choose another one.",
};
