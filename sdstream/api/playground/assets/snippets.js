// The present settings as code that a person can paste into a terminal or a program.

/** Languages in the order of the tabs. */
export const LANGUAGES = [
  { key: "curl", name: "curl" },
  { key: "python", name: "Python" },
  { key: "typescript", name: "TypeScript" },
];

/** Code for `params` against the server at `base` (no trailing slash). The key is read from DAYDREAM_BEARER, never written out. */
export function snippet(language, { base, params, streamId }) {
  return { curl, python, typescript }[language]({ base, params, streamId });
}

function curl({ base, params }) {
  const body = JSON.stringify({ pipeline: "streamdiffusion", params }, null, 2).replaceAll("'", "'\\''");
  const update = JSON.stringify({ pipeline: "streamdiffusion", params: { model_id: params.model_id, prompt: params.prompt ?? "a paper city" } }).replaceAll("'", "'\\''");
  return `# export DAYDREAM_BEARER='<your key>'
curl -sS '${base}/v1/streams' \\
  -H "Authorization: Bearer $DAYDREAM_BEARER" \\
  -H 'Content-Type: application/json' \\
  -d '${body}'

# The answer has "id" and "whip_url". Send a camera to whip_url, then:
STREAM='<id>'
curl -sS "${base}/v1/streams/$STREAM/status"
curl -sS -X PATCH "${base}/v1/streams/$STREAM" \\
  -H "Authorization: Bearer $DAYDREAM_BEARER" \\
  -H 'Content-Type: application/json' \\
  -d '${update}'
curl -sS -X DELETE "${base}/v1/streams/$STREAM" \\
  -H "Authorization: Bearer $DAYDREAM_BEARER"`;
}

function python({ base, params }) {
  return `# pip install daydream-sdk
${lorasLost(params, "#")}import os

from daydream import Daydream

params = ${pythonLiteral(params)}

with Daydream(bearer=os.environ["DAYDREAM_BEARER"], server_url="${base}") as daydream:
    stream = daydream.streams.create_stream(
        request={"pipeline": "streamdiffusion", "params": params}
    )
    print("send a camera to", stream.whip_url)

    # Any time later; only what changes needs to be sent.
    daydream.streams.update_stream(
        id=stream.id,
        body={
            "pipeline": "streamdiffusion",
            "params": {"model_id": params["model_id"], "prompt": ${JSON.stringify(params.prompt ?? "a paper city")}},
        },
    )
    daydream.streams.delete_stream(id=stream.id)`;
}

function typescript({ base, params }) {
  const body = scriptLiteral(camelParams(params), 2);
  return `// npm install @daydreamlive/sdk @daydreamlive/browser
${lorasLost(params, "//")}// Create the stream on your server, where the key is kept:
import { Daydream } from "@daydreamlive/sdk";

const daydream = new Daydream({
  bearer: process.env["DAYDREAM_BEARER"] ?? "",
  serverURL: "${base}",
});
const { id, whipUrl } = await daydream.streams.create({
  pipeline: "streamdiffusion",
  params: ${body},
});

// Send the camera and show the result, in the page:
import { createBroadcast, createPlayer } from "@daydreamlive/browser";

const camera = await navigator.mediaDevices.getUserMedia({ video: true });
const broadcast = createBroadcast({ whipUrl, stream: camera });
await broadcast.connect();
const player = createPlayer(broadcast.whepUrl!);
await player.connect();
player.attachTo(document.querySelector("video")!);

// When done:
await broadcast.stop();
await daydream.streams.delete({ id });`;
}

/** Both SDKs send an empty lora_dict, whatever it has. */
function lorasLost({ lora_dict: loras }, sign) {
  return Object.keys(loras ?? {}).length ? `${sign} The SDK does not send what lora_dict has; plain HTTP does.\n` : "";
}

/** A JSON value as Python, indented by four. */
export function pythonLiteral(value, depth = 0) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  const inner = " ".repeat(4 * (depth + 1));
  const outer = " ".repeat(4 * depth);
  if (Array.isArray(value)) {
    const parts = value.map((each) => pythonLiteral(each, depth + 1));
    if (value.every((each) => typeof each !== "object" || each === null)) return `[${parts.join(", ")}]`;
    return `[\n${parts.map((part) => `${inner}${part},\n`).join("")}${outer}]`;
  }
  if (typeof value === "object") {
    const parts = Object.entries(value).map(([key, each]) => `${inner}${JSON.stringify(key)}: ${pythonLiteral(each, depth + 1)},\n`);
    return parts.length ? `{\n${parts.join("")}${outer}}` : "{}";
  }
  return JSON.stringify(value);
}

function scriptLiteral(value, indent) {
  const text = JSON.stringify(value, null, 2).replace(/^(\s*)"([A-Za-z_$][\w$]*)":/gm, "$1$2:");
  return text.replaceAll("\n", `\n${" ".repeat(indent)}`);
}

/** Members whose own keys belong to the user or to a processor, which the TypeScript SDK passes on as they are. */
const VERBATIM = new Set(["params", "preprocessor_params", "lora_dict"]);

/** The params with the names of the TypeScript SDK: guidance_scale becomes guidanceScale. */
export function camelParams(value) {
  if (Array.isArray(value)) return value.map(camelParams);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, each]) => [key.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase()), VERBATIM.has(key) ? each : camelParams(each)]),
  );
}
