// Drives one installed copy of @daydreamlive/sdk: a JSON request a line on stdin, a JSON answer a line on stdout.
//
//   node runner.mjs sdk-with-zod-4.3
//   {"number": 1, "serverURL": "...", "bearer": "...", "space": "streams", "method": "getById", "request": {"id": "..."}}
//   {"number": 1, "value": {...}}  or  {"number": 1, "error": {"name": "NotFoundError", "statusCode": 404, ...}}
//   {"number": 2, "method": "zod"}  answers with the version of the zod that this copy of the SDK resolves

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";

const copy = process.argv[2];
const require = createRequire(import.meta.url);
const { Daydream } = await import(copy);

function zodOfTheSdk() {
  const inside = createRequire(require.resolve(copy));
  let folder = dirname(inside.resolve("zod/v4-mini"));
  for (;;) {
    try {
      const description = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
      if (description.name === "zod") return description.version;
    } catch (error) {
      if (error.code !== "ENOENT") throw error;
    }
    folder = dirname(folder);
  }
}

function describe(error) {
  return {
    name: error.name,
    message: error.message,
    statusCode: error.statusCode ?? null,
    code: error.code ?? error.data$?.code ?? null,
    details: error.details ?? error.data$?.details ?? null,
    cause: error.cause ? String(error.cause).slice(0, 2000) : null,
  };
}

async function answer({ serverURL, bearer, space, method, request }) {
  if (method === "zod") return zodOfTheSdk();
  const sdk = new Daydream({ serverURL, bearer: bearer ?? undefined });
  return (await sdk[space][method](request)) ?? null;
}

for await (const line of createInterface({ input: process.stdin })) {
  const { number, ...call } = JSON.parse(line);
  let outcome;
  try {
    outcome = { value: await answer(call) };
  } catch (error) {
    outcome = { error: describe(error) };
  }
  process.stdout.write(JSON.stringify({ number, ...outcome }) + "\n");
}
