"""The load of a time, made by wrk where it is installed, so that it is not we who say how fast requests can be sent."""

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import msgspec
from msgspec import Struct

from benchmarks.load import KEY, Job, Report, bytes_of

PROGRAM = shutil.which("wrk")


class Told(Struct):
    """By wrk.lua. Of what was refused there is only the number."""

    requests: int
    refused: int
    lost: int
    seconds: float
    latencies: list[float]


def run(job: Job) -> Report:
    """A thread for each sender, with one connection; whole seconds."""
    assert PROGRAM is not None
    assert job.seconds is not None
    senders = str(len(job.senders))
    with TemporaryDirectory() as directory:
        requests = Path(directory) / "requests.lua"
        requests.write_text(f"return {{{', '.join(table(bytes_of(sender)) for sender in job.senders)}}}")
        options = ["-t", senders, "-c", senders, "-d", f"{job.seconds:.0f}", "--timeout", "60"]
        script = str(Path(__file__).with_suffix(".lua"))
        done = subprocess.run(
            [PROGRAM, *options, "-s", script, f"http://127.0.0.1:{job.port}"],
            env={**os.environ, "REQUESTS": str(requests)},
            capture_output=True,
            check=True,
            timeout=job.seconds + 90,
        )
    told = msgspec.json.decode(done.stderr, type=Told)
    statuses = {"200": told.requests - told.refused, "refused": told.refused, "lost": told.lost}
    return Report(
        requests=told.requests,
        statuses={name: count for name, count in statuses.items() if count},
        seconds=told.seconds,
        latencies=told.latencies,
    )


def table(request: bytes) -> str:
    """In Lua, whose strings are written as JSON's are; a key is what comes between the parts, and a number."""
    before, *after = request.decode("ascii").split(KEY.decode())
    parts = [before + uuid4().hex + "-", *after] if after else [before]
    return f"{{{', '.join(msgspec.json.encode(part).decode() for part in parts)}}}"
