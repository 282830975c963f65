#!/usr/bin/env bash
# A cancelled `put_async` of obstore leaves its multipart upload on S3, with all parts; a writer that is left takes them away.
#
# Seen 2026-11-29: obstore 0.12.1, moto 5.2.5 as the S3 (Python 3.11); the same with rclone 1.75.2 and ministack 1.5.33.
# A task that puts an iterator is cancelled in the middle, as a web server does when its client hangs up. The upload stays
# open, and S3 keeps, and bills, its parts until somebody aborts it. If the iterator raises, obstore aborts the upload, and so
# does leaving the block of `open_writer_async` by the same cancellation.
# One would think that a cancelled call cleans up as a failed one does.
# Here: uploads go by `open_writer_async`.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check obstore==0.12.1 'moto[s3,server]==5.2.5'
cat >seen.py <<'PY'
import asyncio
import logging

import boto3
from moto.server import ThreadedMotoServer
from obstore import open_writer_async
from obstore.store import S3Store

logging.disable(logging.CRITICAL)
PART = bytes(5 * 1024 * 1024)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
_, port = server.get_host_and_port()
endpoint = f"http://127.0.0.1:{port}"
names = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
s3 = boto3.client("s3", endpoint_url=endpoint, **names)
s3.create_bucket(Bucket="bucket")
store = S3Store(
    "bucket",
    endpoint=endpoint,
    access_key_id="key",
    secret_access_key="secret",
    region="us-east-1",
    client_options={"allow_http": True},
)


async def pieces(sent: asyncio.Event):
    for _ in range(30):
        yield PART
    sent.set()
    await asyncio.Event().wait()


async def put(sent: asyncio.Event) -> None:
    await store.put_async("put", pieces(sent))


async def write(sent: asyncio.Event) -> None:
    async with open_writer_async(store, "written", buffer_size=len(PART)) as writer:
        async for piece in pieces(sent):
            await writer.write(piece)


async def cancelled(upload) -> int:
    sent = asyncio.Event()
    task = asyncio.create_task(upload(sent))
    await sent.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(1)
    uploads = s3.list_multipart_uploads(Bucket="bucket").get("Uploads", [])
    return sum(each["Key"] == task_key[upload] for each in uploads)


task_key = {put: "put", write: "written"}
print("uploads left by put_async:", asyncio.run(cancelled(put)))
print("uploads left by a writer:", asyncio.run(cancelled(write)))
server.stop()
PY
diff - <(venv/bin/python seen.py 2>/dev/null) <<'SEEN'
uploads left by put_async: 1
uploads left by a writer: 0
SEEN
