"""The servers that are compared, each one process with a database of its own on one PostgreSQL."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar
from urllib.parse import urlencode

import httpx
import msgspec

from benchmarks import wrk
from benchmarks.assistants import ANSWER, SLOW_SECONDS
from benchmarks.load import Job, Report, Sender
from chatapi.agent.llm import INSTRUCTIONS
from chatapi.agent.tools import TASK_TOOLS
from chatapi.auth.tokens import TokenVerifier
from chatapi.db.schema import upgrade
from chatapi.patience import Patience
from tests.support.databases import unread_metrics
from tests.support.postgres import ROLE, Postgres, free_port
from tests.support.serving import SECRET, clean_environ, settings_for

REPOSITORY = Path(__file__).parents[1]
# Both made by `make bench` where they can be.
OTHERS = REPOSITORY / "build" / "others" / "bin" / "python"
BEFORE = REPOSITORY / "build" / "before"
MESSAGE = "What is on my list this week? And please tell me what I should do first."
READY_SECONDS = 60
LONGEST_SHOWN = 120  # characters of a variable in a command
LOAD_SECONDS = 240  # a load that takes longer is ended, and so is the scenario


class Server:
    """A process that serves turns at `POST /api/{user_id}/chat`. `command` is how to start it by hand."""

    started: ClassVar[list["Server"]] = []

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        python: Path = Path(sys.executable),
        ready: str = "/health/ready",
        owns: TemporaryDirectory[str] | None = None,
    ) -> None:
        self.name = name
        self._owns = owns
        self.command = " ".join([*(shown(*each) for each in environ.items()), "python", "-m", *command])
        self._ready = ready
        self.port = free_port()
        # The logs go to a file, so that writing them is part of the work.
        self._directory = TemporaryDirectory()
        log = (Path(self._directory.name) / "log").open("wb")
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [str(python), "-m", *command],
            cwd=self._directory.name,
            env={**clean_environ(), "PYTHONPATH": str(REPOSITORY), **environ, "PORT": str(self.port)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self.pid = self._process.pid
        self.started.append(self)
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
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._directory.cleanup()
        if self._owns is not None:
            self._owns.cleanup()

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return self._status("VmRSS")

    @property
    def peak_memory(self) -> int:
        """The most resident bytes since the start, or since the peak was set back."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # proc(5)

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"no {name}")

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
    postgres: Postgres | None,
    *,
    role: str = "postgres",
    assistant: str = "instant",
    name: str = "chatapi",
    database: str = "",
    model: Server | None = None,
    port: int | None = None,
    before: bool = False,
    timeout: int = 60,
    settings: Mapping[str, str] | None = None,
) -> Server:
    """Without `postgres` on SQLite. `model` is asked in the place of an assistant; `port` leads to PostgreSQL, too.

    With `before` the version before. `settings` are further variables.
    """
    variables = {
        "BETTER_AUTH_SECRET": SECRET,
        "CHAT_MODEL": assistant if assistant == "offline" else f"benchmarks.assistants:{assistant}",
        "CHAT_TIMEOUT": str(timeout),
        "MIGRATE": "off" if database else "auto",
        # On, and never reached.
        "RATE_LIMIT": "1000000/minute",
        "RATE_LIMIT_CHAT": "1000000/minute",
    }
    if postgres is not None:
        variables["DATABASE_URL"] = postgres.url(database or postgres.new_database(), role=role, port=port)
    if model is not None:
        variables |= {
            "CHAT_MODEL": "openai:benchmark",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{model.port}/v1",
            "OPENAI_API_KEY": "none",
        }
    variables |= settings or {}
    python = Path(sys.executable)
    if before:
        name = "the version before"
        variables["PYTHONPATH"] = str(BEFORE / "source")
        python = BEFORE / "environment" / "bin" / "python"
    return Server(name, ["chatapi", "run"], variables, python=python)


def guarded(postgres: Postgres) -> Server:
    """chatapi as a role that is subject to row-level security."""
    return chatapi(postgres, role=ROLE, name="chatapi, row-level security")


def the_model() -> Server:
    """The server of a model that chatapi and its peers ask."""
    return Server("the model", ["benchmarks.provider"], {}, ready="/")


def before_is_there() -> bool:
    return (BEFORE / ".installed").exists()


def peer(
    postgres: Postgres, *, assistant: str = "instant", model: Server | None = None, port: int | None = None
) -> Server:
    url = postgres.url(postgres.new_database(), role="postgres", port=port)
    variables = {
        "PEER_DATABASE_URL": url.replace("postgresql://", "postgresql+asyncpg://"),
        "BETTER_AUTH_SECRET": SECRET,
        "PEER_SECONDS": str(SLOW_SECONDS if assistant == "slow" else 0),
    }
    name = "FastAPI + SQLModel"
    if model is not None:
        name += " + openai SDK"
        tools = [
            {"name": tool.name, "description": tool.description, "parameters": tool.spec.parameters}
            for tool in TASK_TOOLS
        ]
        variables |= {
            "PEER_BASE_URL": f"http://127.0.0.1:{model.port}/v1",
            "PEER_INSTRUCTIONS": INSTRUCTIONS,
            "PEER_TOOLS": msgspec.json.encode(tools).decode(),
        }
    return Server(name, ["benchmarks.peer"], variables)


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


def limit_sqlite() -> Server:
    """On a file of its own with chatapi's tables."""
    directory = TemporaryDirectory()
    path = Path(directory.name) / "limit.db"
    upgrade(settings_for(f"sqlite+aiosqlite:///{path}"), Patience())
    return Server(
        "sqlite3 in one thread", ["benchmarks.limit_sqlite"], {"LIMIT_DATABASE": str(path)}, owns=directory
    )


def other(postgres: Postgres, name: str, module: str) -> Server:
    """One of `benchmarks.others`."""
    url = postgres.url(postgres.new_database(), role="postgres")
    return Server(
        name,
        [f"benchmarks.others.{module}"],
        {"DATABASE_URL": url, "ANSWER": ANSWER},
        python=OTHERS,
        ready="/health",
    )


def shown(name: str, value: str) -> str:
    return f"{name}={shlex.quote(value) if len(value) < LONGEST_SHOWN else '…'}"


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

    def turn(
        self,
        *,
        keyed: bool = False,
        manner: str = "",
        streamed: bool = False,
        path: str = "/chat",
        expects: str = "",
    ) -> Sender:
        """`manner` is how the model answers (benchmarks/provider.py)."""
        body: dict[str, object] = {"message": f"{manner} {MESSAGE}".strip()}
        if self.conversation_id is not None:
            body["conversation_id"] = self.conversation_id
        head = f"POST /api/{self.name}{path} HTTP/1.1\r\nContent-Type: application/json"
        key = "\r\nIdempotency-Key: {key}" if keyed else ""
        accept = "\r\nAccept: text/event-stream" if streamed else ""
        return Sender(
            head=f"{head}\r\nAuthorization: Bearer {self._token}{key}{accept}",
            body=msgspec.json.encode(body).decode(),
            expects=expects,
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
    server: Server,
    senders: list[Sender],
    *,
    seconds: float | None = None,
    each: int | None = None,
    ramp: float = 0.0,
) -> Report:
    """Have the load made by a process of its own: by wrk if it is there, which can send for a time and looks at no body."""
    job = Job(port=server.port, senders=senders, seconds=seconds, each=each, ramp=ramp)
    is_for_wrk = seconds is not None and not any(sender.expects for sender in senders)
    before = server.cpu_seconds
    report = wrk.run(job) if wrk.PROGRAM and is_for_wrk else bundled(job)
    report.server_cpu = server.cpu_seconds - before
    return report


def bundled(job: Job) -> Report:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=msgspec.json.encode(job),
        stdout=subprocess.PIPE,
        check=True,
        cwd=REPOSITORY,
        timeout=LOAD_SECONDS,
    )
    return msgspec.json.decode(done.stdout, type=Report)
