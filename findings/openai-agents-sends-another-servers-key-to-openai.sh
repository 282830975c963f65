#!/usr/bin/env bash
# openai-agents sends its traces to OpenAI, with the key that it was given for another server.
#
# Seen 2026-11-29: openai-agents 0.24.0, openai 3.57.0, Python 3.11.
# With OPENAI_BASE_URL and OPENAI_API_KEY set for a server of one's own, the model is asked there. Tracing is on by default
# and has an address of its own: after the run it posts what was said to api.openai.com, with that key as its
# `Authorization`. OPENAI_AGENTS_DISABLE_TRACING=1 turns it off. (No request leaves the machine here: the client that would
# send it only says where to.)
# One would think that a key goes where the base URL says.
# Here: whoever uses that SDK with a chatapi key should turn tracing off.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check openai-agents==0.24.0 openai==3.57.0
cat >seen.py <<'PY'
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

os.environ["OPENAI_API_KEY"] = "key-of-my-own-server"


class MyServer(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        text = {"type": "output_text", "text": "Hello.", "annotations": []}
        message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}
        body = {"id": "r", "object": "response", "created_at": 0, "model": "m", "output": [message], "status": "completed"}
        body |= {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
        answer = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), MyServer)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["OPENAI_BASE_URL"] = f"http://127.0.0.1:{server.server_port}/v1"

from agents import Agent, Runner
from agents.tracing import flush_traces
from agents.tracing.processors import default_exporter


def say(url, headers, **_):
    print(url, headers["Authorization"])
    raise SystemExit


default_exporter()._client.post = say
print(Runner.run_sync(Agent(name="a", model="m"), "Hello?").final_output)
flush_traces()
PY
diff - <(venv/bin/python seen.py 2>/dev/null) <<'SEEN'
Hello.
https://api.openai.com/v1/traces/ingest Bearer key-of-my-own-server
SEEN
