// What people call the image and latent processors; the wire's names are the engines' and libraries'.

import { humanName } from "./dom.js";

const PROCESSORS = {
  canny: "Canny edges",
  depth: "Depth",
  depth_tensorrt: "Depth (TensorRT)",
  external: "External picture",
  hed: "HED soft edges",
  lineart: "Line art",
  mediapipe_pose: "Pose (MediaPipe)",
  mediapipe_segmentation: "Person mask (MediaPipe)",
  openpose: "Pose (OpenPose)",
  pose_tensorrt: "Pose (TensorRT)",
  realesrgan_trt: "Enlarge (Real-ESRGAN)",
  standard_lineart: "Line art, plain",
  temporal_net_tensorrt: "Motion (TemporalNet)",
};

/** A processor of the catalogue for a person; the wire's name in words where nobody has named it. */
export const processorName = (name) => PROCESSORS[name] ?? humanName(name);
