"""What a process takes before it does anything: the time of its start, memory, and the room of its image."""

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import servers
from benchmarks.measuring import CLIENTS, MEGABYTE, MIB, ROUNDS, Row, judged
from benchmarks.servers import Server, User, load, running
from tests.support.image import Image, image_is_built
from tests.support.postgres import Postgres

GROWTH_TURNS = 20_000
IMAGE = "chatapi"
INSTALLED = "opt/chatapi"  # all that the image adds to its base


def start(postgres: Postgres) -> list[Row]:
    """From the command to the first 200 of /health/ready, the tables of chatapi being there: without a model and with one."""
    database = servers.migrated(postgres)
    rows = []
    with running(servers.the_model()) as (model,):
        for what, asked in (("without a model", None), ("with a model", model)):
            sides: list[Callable[[], Server]] = [
                partial(servers.chatapi, postgres, assistant="offline", database=database, model=asked),
                partial(servers.peer, postgres, model=asked),
            ]
            seconds: list[list[float]] = [[], []]
            cpu_seconds: list[list[float]] = [[], []]
            names = ["", ""]
            for _ in range(ROUNDS):
                for place, make in enumerate(sides):
                    with running(make()) as (server,):
                        names[place] = server.name
                        seconds[place].append(server.start_seconds)
                        cpu_seconds[place].append(server.start_cpu)
            rows += [
                Row(f"start to ready, {what}: {name}", f"{median(took):.2f} s (CPU {median(cpu):.2f} s)")
                for name, took, cpu in zip(names, seconds, cpu_seconds, strict=True)
            ]
            times = median(ours / theirs for ours, theirs in zip(*seconds, strict=True))
            rows.append(
                Row(
                    f"start to ready, {what}: chatapi, of {names[1]}", f"{times:.2f} x", "≤ 1.5", times <= 1.5
                )
            )
    return rows


def memory(postgres: Postgres) -> list[Row]:
    """Memory at rest, which is after a first turn, and after 20,000 turns more."""
    rows = []
    with running(servers.the_model()) as (model,):
        makes: list[tuple[str, int, Callable[[], Server]]] = [
            ("without a model", 95, partial(servers.chatapi, postgres, assistant="offline")),
            ("with a model", 105, partial(servers.chatapi, postgres, model=model)),
            ("without a model", 0, partial(servers.peer, postgres)),
            ("with a model", 0, partial(servers.peer, postgres, model=model)),
        ]
        if servers.before_is_there():
            before = partial(servers.chatapi, postgres, before=True)
            makes.append(("without a model", 0, partial(before, assistant="offline")))
            makes.append(("with a model", 0, partial(before, model=model)))
        for what, most, make in makes:
            with running(make()) as (server,):
                User("first").begin(server)
                at_rest = server.memory / MIB
                rows.append(
                    judged(
                        f"memory at rest, {what}: {server.name}",
                        f"{at_rest:.0f} MiB",
                        f"≤ {most} MiB",
                        met=at_rest <= most,
                        ours=bool(most),
                    )
                )
    return [*rows, growth(postgres)]


def growth(postgres: Postgres) -> Row:
    with running(servers.chatapi(postgres)) as (server,):
        senders = [User(f"user-{number}").begin(server).turn() for number in range(CLIENTS)]
        load(server, senders, each=5_000 // CLIENTS)  # caches and pools fill
        before = server.memory
        load(server, senders, each=GROWTH_TURNS // CLIENTS)
        grown = server.memory - before
    return Row(
        "growth over 20,000 turns, answered inside the process",
        f"{grown / MEGABYTE:+.1f} MB",
        "none (≤ 2 MB)",
        grown <= 2 * MEGABYTE,
    )


def image(_: Postgres) -> list[Row]:
    """What the image adds to its base, if it was built here (`make container`)."""
    size = size_of_image()
    if size is None:
        return [
            Row("what the image adds to its base", "left out: there is none here (`make container` makes it)")
        ]
    megabytes = size / MEGABYTE
    return [Row("what the image adds to its base", f"{megabytes:.0f} MB", "≤ 140 MB", megabytes <= 140)]


def size_of_image() -> int | None:
    """In bytes; None without an image."""
    if image_is_built():
        built = Image()
        try:
            return sum(
                path.lstat().st_size for path in Path(built.root, INSTALLED).rglob("*") if not path.is_dir()
            )
        finally:
            built.close()
    for engine in filter(shutil.which, ("docker", "podman")):
        command = [
            engine,
            "run",
            "--rm",
            "--pull=never",
            "--network=none",
            "--entrypoint=du",
            IMAGE,
            "-sb",
            f"/{INSTALLED}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            return int(done.stdout.split()[0])
    return None
