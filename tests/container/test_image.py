"""The image: what is in it, and conversations in it, as its own user and with a read-only root."""

import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.image import Image, image_is_built
from tests.support.postgres import Postgres, free_port
from tests.support.proxies import answers
from tests.support.serving import REPOSITORY, SECRET, token_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not image_is_built(), reason="no image: make container, with buildah, as root"),
]


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    made = Image()
    try:
        if not made.is_of(REPOSITORY / "src/chatapi"):
            pytest.skip("the image is of other sources than these: make container")
        yield made
    finally:
        made.close()


@contextmanager
def service(
    image: Image,
    environ: Mapping[str, str],
    data: Path | None = None,
    user: str | None = None,
    arguments: Sequence[str] = (),
) -> Iterator[str]:
    """The image's own command, until it is told to stop, which it does well."""
    port = free_port()
    command = [*image.config["Entrypoint"], *image.config["Cmd"], *arguments]
    process = image.start(command, {**environ, "PORT": str(port)}, data, user)
    assert process.stdout
    try:
        log = []
        for line in process.stdout:
            log.append(line)
            if "running on" in line:
                break
        else:
            raise AssertionError("".join(log))
        assert (
            f"Uid:\t{(user or image.config['User']).split(':')[0]}\t"
            in Path(f"/proc/{process.pid}/status").read_text()
        )
        yield f"http://127.0.0.1:{port}"
        process.terminate()  # to the service itself: there is no shell before it
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def converse(url: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        while not answers(url):  # several workers say that they run before they do
            time.sleep(0.1)
        first = client.post("/api/chat", json={"message": "Add milk to my list"}).json()
        assert first["response"] == 'Added "milk".'
        second = client.post(
            "/api/chat", json={"message": "What's left?", "conversation_id": first["conversation_id"]}
        ).json()
        assert "milk" in second["response"]


def test_runs_as_a_user_of_its_own_without_a_shell_between(image: Image) -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", image.config["User"])
    assert (image.config["Entrypoint"], image.config["Cmd"]) == (["chatapi"], ["run"])
    assert image.config["Healthcheck"]["Test"][0] == "CMD"


def test_has_neither_a_compiler_nor_what_built_it(image: Image) -> None:
    for name in ("cc", "gcc", "clang", "ld", "make"):
        assert (
            shutil.which(name, path=f"{image.root}/usr/bin:{image.root}/usr/local/bin:{image.root}/bin")
            is None
        )
    assert not (image.root / "src").exists()
    assert not list((image.root / "opt/chatapi/bin").glob("pip*"))
    assert not (image.root / "run/secrets").exists()


def test_adds_no_more_to_its_base_than_it_did(image: Image) -> None:
    """A number that has to grow is changed here, where it is seen."""
    added = sum(path.lstat().st_size for path in (image.root / "opt/chatapi").rglob("*") if not path.is_dir())
    assert added <= 140_000_000


def test_every_extension_module_can_be_loaded(image: Image) -> None:
    """`deploy/slim.py` has cut off what is not loaded."""
    load = "import ctypes, pathlib; [ctypes.CDLL(str(each)) for each in pathlib.Path('/opt/chatapi').rglob('*.so*')]"
    image.run("python", "-c", load)


def test_a_conversation_with_nothing_configured(image: Image) -> None:
    data = Path(tempfile.mkdtemp(prefix="chatapi-data-"))
    shutil.chown(data, *(int(number) for number in image.config["User"].split(":")))
    with service(image, {}, data) as url:
        converse(url, image.run("chatapi", "token", "alice", data=data).strip())
        image.run(*image.config["Healthcheck"]["Test"][1:], environ={"PORT": url.rsplit(":", 1)[1]})
        with pytest.raises(AssertionError, match="refused"):
            image.run(*image.config["Healthcheck"]["Test"][1:], environ={"PORT": str(free_port())})
    assert {path.name for path in (data / ".chatapi").iterdir()} >= {"chatapi.db", "secret"}
    shutil.rmtree(data)


@pytest.mark.parametrize("migrate", ["by a command", "at the start"])
def test_a_conversation_on_postgresql_writes_nothing(image: Image, postgres: Postgres, migrate: str) -> None:
    environ = {
        "DATABASE_URL": postgres.url(postgres.new_database(migrated=False)),
        "BETTER_AUTH_SECRET": SECRET,
    }
    if migrate == "by a command":
        image.run("chatapi", "database", "upgrade", "--no-prompt", environ=environ)
    else:
        environ["MIGRATE"] = "auto"
    with service(image, environ) as url:
        converse(url, token_for("alice"))
    with pytest.raises(AssertionError, match="Read-only file system"):
        image.run("python", "-c", "open('/data/x', 'w')")


def test_runs_as_any_user(image: Image, postgres: Postgres) -> None:
    """As on Hugging Face Spaces; also with nothing configured, if it may write."""
    environ = {
        "DATABASE_URL": postgres.url(postgres.new_database(migrated=False)),
        "BETTER_AUTH_SECRET": SECRET,
        "MIGRATE": "auto",
    }
    with service(image, environ, user="1000:1000") as url:
        converse(url, token_for("alice"))
    data = image.root / "data"
    assert (data.stat().st_mode & 0o7777, list(data.iterdir())) == (0o1777, [])


def test_workers_need_a_place_to_count_in_or_no_metrics(image: Image, postgres: Postgres) -> None:
    environ = {
        "DATABASE_URL": postgres.url(postgres.new_database(migrated=False)),
        "BETTER_AUTH_SECRET": SECRET,
        "MIGRATE": "auto",
    }
    with pytest.raises(AssertionError, match=r"^chatapi: METRICS: .*/tmp.*\n$"):
        image.run("chatapi", "run", "--workers", "2", environ=environ)
    with service(image, {**environ, "METRICS": "off"}, arguments=["--workers", "2"]) as url:
        converse(url, token_for("alice"))


def test_says_of_what_it_was_built(image: Image) -> None:
    assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?", image.environ["CHATAPI_BUILD"])


def test_every_provider_can_be_configured(image: Image) -> None:
    environ = {"OPENAI_API_KEY": "k", "GEMINI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
    environ["CHAT_MODEL"] = "openai:gpt-5,google:gemini-2.5-flash,anthropic:claude-sonnet-4-5"
    environ["BETTER_AUTH_SECRET"] = SECRET
    environ["DATABASE_URL"] = "postgresql://u@h/d"
    assert "CHAT_MODEL=openai:gpt-5" in image.run("chatapi", "check-config", environ=environ)
