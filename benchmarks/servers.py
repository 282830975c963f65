"""The servers that are compared, each one process with a database of its own on one PostgreSQL."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode

import httpx
import msgspec

from benchmarks import wrk
from benchmarks.assistants import ANSWER, SLOW_SECONDS
from benchmarks.load import Job, Report, Sender
from chatapi.auth.tokens import TokenVerifier
from chatapi.db.schema import upgrade
from chatapi.patience import Patience
from tests.support.databases import unread_metrics
from tests.support.postgres import ROLE, Postgres, free_port
from tests.support.serving import SECRET, clean_environ, settings_for

REPOSITORY = Path(__file__).parents[1]
OTHERS = REPOSITORY / "build" / "others" / "bin" / "python"  # made by `make bench` where it can be
MESSAGE = "What is on my list this week? And please tell me what I should do first."
READY_SECONDS = 30


class Server:
    """A process that serves turns at `POST /api/{user_id}/chat`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        python: str = sys.executable,
        ready: str = "/health/ready",
    ) -> None:
        self.name = name
        self._ready = ready
        self.port = free_port()
        # The logs go to a file, so that writing them is part of the work.
        self._directory = TemporaryDirectory()
        log = (Path(self._directory.name) / "log").open("wb")
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [python, "-m", *command],
            cwd=self._directory.name,
            env={**clean_environ(), "PYTHONPATH": str(REPOSITORY), **environ, "PORT": str(self.port)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self.pid = self._process.pid
        while not self._is_ready():
            if self._process.poll() is not None or time.perf_counter() - began > READY_SECONDS:
                raise RuntimeError((Path(self._directory.name) / "log").read_text())
            time.sleep(0.01)
        self.start_seconds = time.perf_counter() - began
        self.start_cpu = self.cpu_seconds

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{self._ready}").status_code == 200
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._directory.cleanup()

    @property
    def memory(self) -> int:
        """Resident bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")

    @property
    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def migrated(postgres: Postgres) -> str:
    """A database with chatapi's tables."""
    database = postgres.new_database()
    upgrade(settings_for(postgres.url(database, role="postgres")), Patience())
    return database


def chatapi(
    postgres: Postgres,
    *,
    role: str = "postgres",
    assistant: str = "instant",
    name: str = "chatapi",
    database: str = "",
) -> Server:
    return Server(
        name,
        ["chatapi", "run"],
        {
            "DATABASE_URL": postgres.url(database or postgres.new_database(), role=role),
            "BETTER_AUTH_SECRET": SECRET,
            "CHAT_MODEL": f"benchmarks.assistants:{assistant}",
            "MIGRATE": "off" if database else "auto",
            # On, and never reached.
            "RATE_LIMIT": "1000000/minute",
            "RATE_LIMIT_CHAT": "1000000/minute",
        },
    )


def guarded(postgres: Postgres, **options: str) -> Server:
    """chatapi as a role that is subject to row-level security."""
    return chatapi(postgres, role=ROLE, name="chatapi, row-level security", **options)


def peer(postgres: Postgres, *, assistant: str = "instant") -> Server:
    url = postgres.url(postgres.new_database(), role="postgres")
    return Server(
        "FastAPI + SQLModel",
        ["benchmarks.peer"],
        {
            "PEER_DATABASE_URL": url.replace("postgresql://", "postgresql+asyncpg://"),
            "BETTER_AUTH_SECRET": SECRET,
            "PEER_SECONDS": str(SLOW_SECONDS if assistant == "slow" else 0),
        },
    )


def limit(postgres: Postgres, *, assistant: str = "instant") -> Server:
    database = migrated(postgres)
    return Server(
        "asyncpg by hand",
        ["benchmarks.limit"],
        {
            "LIMIT_DATABASE_URL": postgres.url(database, role="postgres"),
            "LIMIT_SECONDS": str(SLOW_SECONDS if assistant == "slow" else 0),
        },
    )


def other(postgres: Postgres, name: str, module: str) -> Server:
    """One of `benchmarks.others`."""
    url = postgres.url(postgres.new_database(), role="postgres")
    return Server(
        name,
        [f"benchmarks.others.{module}"],
        {"DATABASE_URL": url, "ANSWER": ANSWER},
        python=str(OTHERS),
        ready="/health",
    )


@contextmanager
def running(*servers: Server) -> Iterator[tuple[Server, ...]]:
    try:
        yield servers
    finally:
        for server in servers:
            server.close()


@contextmanager
def cores_apart(postgres: Postgres, servers: Sequence[Server]) -> Iterator[None]:
    """One core for the servers, which take turns, and the rest for PostgreSQL and the load; needs two, and Linux.

    Left alone, the kernel wakes PostgreSQL's processes on the core of whoever has sent them something: a server that
    keeps them busy waits for its core while another one idles.
    """
    cores = os.sched_getaffinity(0)
    ours = {min(cores)}
    for server in servers:
        keep_to(ours, server.pid)
    keep_to(cores - ours, os.getpid(), *postgres.pids)
    try:
        yield
    finally:
        keep_to(cores, os.getpid(), *postgres.pids)


def keep_to(cores: set[int], *pids: int) -> None:
    """These processes with all of their threads, and what they start from now on."""
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)


class User:
    """A user of one server with a token and a conversation."""

    verifier = TokenVerifier(settings_for("sqlite:///unused"), Patience(), unread_metrics())

    def __init__(self, name: str) -> None:
        self.name = name
        self._token = self.verifier.mint(name, timedelta(hours=3))
        self.conversation_id: int | None = None

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"}

    def begin(self, server: Server) -> "User":
        """Have a conversation."""
        response = httpx.post(
            f"http://127.0.0.1:{server.port}/api/{self.name}/chat",
            json={"message": MESSAGE},
            headers=self.authorization,
            timeout=30,
        )
        response.raise_for_status()
        self.conversation_id = response.json()["conversation_id"]
        return self

    def turn(self, *, keyed: bool = False) -> Sender:
        body: dict[str, object] = {"message": MESSAGE}
        if self.conversation_id is not None:
            body["conversation_id"] = self.conversation_id
        head = f"POST /api/{self.name}/chat HTTP/1.1\r\nContent-Type: application/json"
        key = "\r\nIdempotency-Key: {key}" if keyed else ""
        return Sender(
            head=f"{head}\r\nAuthorization: Bearer {self._token}{key}",
            body=msgspec.json.encode(body).decode(),
        )

    def adk_turn(self) -> Sender:
        """For Google's ADK, in a session by the user's name."""
        said = {"role": "user", "parts": [{"text": MESSAGE}]}
        body = {"appName": "assistant", "userId": self.name, "sessionId": self.name, "newMessage": said}
        return Sender(
            head="POST /run HTTP/1.1\r\nContent-Type: application/json",
            body=msgspec.json.encode(body).decode(),
        )

    def agno_turn(self) -> Sender:
        """For Agno's AgentOS, in a session by the user's name."""
        fields = {"message": MESSAGE, "stream": "false", "session_id": self.name, "user_id": self.name}
        return Sender(
            head="POST /agents/assistant/runs HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded",
            body=urlencode(fields),
        )

    def get(self, path: str) -> Sender:
        return Sender(head=f"GET /api/{self.name}{path} HTTP/1.1\r\nAuthorization: Bearer {self._token}")


def load(
    server: Server, senders: list[Sender], *, seconds: float | None = None, each: int | None = None
) -> Report:
    """Have the load made by a process of its own: by wrk if it is there, which can send for a time and no number."""
    job = Job(port=server.port, senders=senders, seconds=seconds, each=each)
    before = server.cpu_seconds
    report = wrk.run(job) if wrk.PROGRAM and seconds is not None else bundled(job)
    report.server_cpu = server.cpu_seconds - before
    return report


def bundled(job: Job) -> Report:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=msgspec.json.encode(job),
        stdout=subprocess.PIPE,
        check=True,
        cwd=REPOSITORY,
    )
    return msgspec.json.decode(done.stdout, type=Report)
