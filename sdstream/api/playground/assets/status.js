// Reads the status answer: Daydream's members and sdstream's further ones, into the few values that the page shows.

/** What each state is called, and in which tone the badge is drawn. IDLE is the page's own: there is no stream. */
export const STATES = {
  IDLE: { word: "Idle", tone: "quiet" },
  OFFLINE: { word: "Offline", tone: "quiet" },
  LOADING: { word: "Loading", tone: "busy" },
  ONLINE: { word: "Online", tone: "good" },
  DEGRADED_INPUT: { word: "Poor input", tone: "poor" },
  DEGRADED_INFERENCE: { word: "Poor output", tone: "poor" },
  ERROR: { word: "Error", tone: "bad" },
};

/**
 * The members that the page shows. Rates are pictures a second, latencies milliseconds, null where unknown. `inForce` is the revision
 * whose first picture, `effectiveFrame`, has been made.
 */
export function readStatus(data) {
  const lane = data.lane ?? null;
  const loads = lane?.phase === "loading" || lane?.phase === "waiting"; // a lane that runs has remarks there
  const total = data.latency_ms?.total ?? null;
  const drops = data.drops ?? {};
  return {
    state: data.state,
    reason: data.reason || data.inference_status?.last_error || "",
    detail: loads ? lane.detail : "",
    percent: loads ? lane.percent : null,
    left: loads ? (lane.seconds_left ?? null) : null,
    inputFps: data.input_status?.fps ?? null,
    outputFps: data.inference_status?.fps ?? null,
    p50: total?.p50 ?? null,
    p95: total?.p95 ?? null,
    hops: data.latency_ms ?? {},
    drops,
    dropped: Object.values(drops).reduce((sum, count) => sum + count, 0),
    acceleration: lane?.acceleration_in_force ?? "",
    inForce: lane?.effective_frame === null || lane?.effective_frame === undefined ? null : lane.revision,
    effectiveFrame: lane?.effective_frame ?? null,
    warnings: data.media?.warnings ?? [],
    processors: lane?.processors ?? [],
    missing: lane?.missing ?? [],
    remarks: lane?.remarks ?? [],
    fault: lane?.phase === "failed" ? (lane.error_message ?? "") : "",
    outputs: data.outputs ?? [],
    recording: data.recording ?? null,
  };
}

/** How long a load will still take, as coarse as such a guess is. */
export function wordsLeft(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 10) return "a few seconds left";
  if (seconds <= 60) return `about ${10 * Math.ceil(seconds / 10)} s left`;
  return seconds <= 3600 ? `about ${Math.ceil(seconds / 60)} min left` : `about ${Math.ceil(seconds / 3600)} h left`;
}

/** An event of the stream in one line for the activity list; empty where there is nothing to say. */
export function describeEvent(name, data) {
  switch (name) {
    case "state":
      return [STATES[data.state]?.word ?? data.state, data.reason].filter(Boolean).join(": ");
    case "publisher":
      return `Publisher ${data.state}`;
    case "viewers":
      return data.count === 1 ? "1 viewer" : `${data.count} viewers`;
    case "updated":
      return `Update ${data.revision}: ${(data.changed ?? []).join(", ") || "no change"} (${data.applied})`;
    case "effective":
      return `Update ${data.revision} in force${data.effective_frame === null || data.effective_frame === undefined ? "" : ` from picture ${data.effective_frame}`}`;
    case "acceleration":
      return [data.acceleration && `Networks run on ${data.acceleration}`, data.detail].filter(Boolean).join(": ");
    case "loading":
      return [data.detail, data.percent === null || data.percent === undefined ? "" : `${Math.round(data.percent)} %`].filter(Boolean).join(" ");
    case "error":
      return `Error: ${data.message}`;
    case "output":
      return [`Push to ${data.target} ${data.state}`, data.error].filter(Boolean).join(": ");
    case "recording":
      return [`Recording ${data.name} ${data.state}`, data.problem].filter(Boolean).join(": ");
    case "worker":
      return `Worker ${data.phase}`;
    case "deleted":
      return `Deleted: ${data.reason}`;
    default:
      return name;
  }
}

/** Drop reasons as words for a tooltip: "encoder_busy" with 3 becomes "encoder busy 3". */
export function describeDrops(drops) {
  const parts = Object.entries(drops).filter(([, count]) => count > 0).map(([reason, count]) => `${reason.replaceAll("_", " ")} ${count}`);
  return parts.join(", ") || "none";
}
