#!/usr/bin/env bash
# LangChain's ChatOpenAI asks for the usage of a stream at api.openai.com, and nowhere else, so a stream from any other server has none.
#
# Seen 2026-11-29: langchain-openai 1.7.4 (langchain-core 1.8.3, Python 3.11).
# `stream_options: {"include_usage": true}` is sent by itself only if no base URL was given. With `base_url=…`, or the variable
# OPENAI_BASE_URL, it is left out, and `usage_metadata` of what was streamed is None, though the server has it. `stream_usage=True` asks for it.
# One would think that the address changes where a request goes, and not what is in it.
# Here: docs/openai.md names `stream_usage=True`.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check langchain-openai==1.7.4 langchain-core==1.8.3
cat >seen.py <<'PY'
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from langchain_openai import ChatOpenAI

CHUNK = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
asked = []


class Server(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked.append(body.get("stream_options"))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        choice = {"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
        chunks = [{**CHUNK, "choices": [choice]}]
        if asked[-1]:
            chunks.append({**CHUNK, "choices": [], "usage": USAGE})
        for chunk in chunks:
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1"


def ask(name: str, **options: object) -> None:
    whole = None
    for chunk in ChatOpenAI(model="m", api_key="none", **options).stream("Hello"):
        whole = chunk if whole is None else whole + chunk
    print(f"{name}: {asked[-1]}, {whole.usage_metadata and whole.usage_metadata['total_tokens']}")


ask("base_url", base_url=url)
os.environ["OPENAI_BASE_URL"] = url
ask("OPENAI_BASE_URL")
ask("stream_usage", stream_usage=True)
server.shutdown()
PY
diff - <(venv/bin/python seen.py) <<'SEEN'
base_url: None, None
OPENAI_BASE_URL: None, None
stream_usage: {'include_usage': True}, 4
SEEN
