"""Files in buckets: an S3 server in this process, and one that checks signatures."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, update

from chatapi.db.models import File, now
from chatapi.errors.files import FilesUnavailable
from chatapi.files.service import FileService
from chatapi.files.storage import NoObject, Storage
from chatapi.settings import Settings, SettingsError
from tests.support.databases import open_database
from tests.support.files import uploaded
from tests.support.postgres import free_port
from tests.support.serving import REPOSITORY, SECRET, Client, clean_environ, serve, settings_for

ACCESS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-bucket",
    "AWS_REGION": "us-east-1",
}
MEBIBYTE = 1024 * 1024


@pytest.fixture
def boto() -> Any:
    """The SDK that looks into the server beside us."""
    return pytest.importorskip("boto3")


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(moto: str, boto: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A new bucket, as the SDK sees it; our own environment names its server."""
    for name, value in {**ACCESS, "AWS_ENDPOINT_URL": moto}.items():
        monkeypatch.setenv(name, value)
    return boto.resource("s3").create_bucket(Bucket=f"bucket-{uuid4().hex}")


def pieces(mebibytes: int) -> Iterator[bytes]:
    for number in range(mebibytes * 4):
        yield bytes([number % 256]) * (MEBIBYTE // 4)


async def read(storage: Storage, key: str, start: int, end: int) -> bytes:
    return b"".join([piece async for piece in await storage.read(key, start, end)])


class TestBucket:
    async def test_holds_the_files_of_a_service(self, bucket: Any, database_url: str) -> None:
        settings = settings_for(database_url, files_url=f"s3://{bucket.name}/some/prefix")
        async with serve(settings) as url, Client(url, f"alice-{uuid4().hex}") as alice:
            file = await uploaded(alice, b"0123456789")
            (stored,) = bucket.objects.all()
            assert stored.key.startswith("some/prefix/")
            path = alice.mine(f"/files/{file['id']}")
            part = await alice.get(path, headers={"Range": "bytes=2-4"})
            assert (part.status_code, part.content) == (206, b"234")
            assert (await alice.delete(path)).status_code == 204
            assert list(bucket.objects.all()) == []

    async def test_takes_large_ones_in_parts(self, bucket: Any) -> None:
        storage = Storage(f"s3://{bucket.name}")
        await storage.write("large", pieces(11))
        assert bucket.Object("large").content_length == 11 * MEBIBYTE
        assert await read(storage, "large", 10 * MEBIBYTE, 10 * MEBIBYTE + 2) == bytes([40, 40])
        await storage.check()

    async def test_keeps_no_part_of_a_write_that_was_cancelled_or_failed(self, bucket: Any) -> None:
        storage = Storage(f"s3://{bucket.name}")
        reached = asyncio.Event()

        def some(error: Exception | None) -> Iterator[bytes]:
            yield from pieces(11)
            reached.set()
            if error is not None:
                raise error
            yield from pieces(2_000)

        with pytest.raises(KeyError):
            await storage.write("failed", some(KeyError()))
        reached.clear()
        writing = asyncio.create_task(storage.write("cancelled", some(None)))
        await reached.wait()
        assert list(bucket.multipart_uploads.all()) != []
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        for _ in range(200):
            if not list(bucket.multipart_uploads.all()):
                break
            await asyncio.sleep(0.02)
        assert list(bucket.multipart_uploads.all()) == []
        assert list(bucket.objects.all()) == []

    async def test_that_is_not_there_is_unavailable(
        self, bucket: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        storage = Storage("s3://no-such-bucket")
        with pytest.raises(FilesUnavailable):
            await storage.write("x", [b"x"])
        assert "NoSuchBucket" in caplog.text
        with pytest.raises(NoObject):
            await Storage(f"s3://{bucket.name}").read("x", 0, 1)
        await Storage(f"s3://{bucket.name}").delete("x")


@pytest.mark.slow
async def test_a_server_that_checks_signatures_takes_ours_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bucket").mkdir()
    program, port = Path(sys.executable).with_name("rclone"), free_port()
    if not program.exists():
        pytest.skip("rclone is not installed here")
    keys = f"{ACCESS['AWS_ACCESS_KEY_ID']},{ACCESS['AWS_SECRET_ACCESS_KEY']}"
    server = await asyncio.create_subprocess_exec(
        *(program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", keys, tmp_path),
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(500):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            await asyncio.sleep(0.02)
        for name, value in {**ACCESS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
            monkeypatch.setenv(name, value)
        await Storage("s3://bucket").write("small", [b"0123456789"])
        await Storage("s3://bucket").write("large", pieces(11))
        assert (tmp_path / "bucket/small").read_bytes() == b"0123456789"
        assert (tmp_path / "bucket/large").stat().st_size == 11 * MEBIBYTE
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another secret")
        with pytest.raises(FilesUnavailable):
            await Storage("s3://bucket").write("x", [b"x"])
    finally:
        server.kill()
        await server.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "has_object"),
    [
        ("before the write", False),
        ("after the write", True),
        ("before the deletion", True),
        ("after the deletion", False),
    ],
)
async def test_a_process_killed_between_row_and_object_leaves_nothing_for_long(
    database_url: str, tmp_path: Path, moment: str, *, has_object: bool
) -> None:
    user_id = f"alice-{uuid4().hex}"
    killed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.killed", database_url, str(tmp_path), user_id, moment),
        cwd=REPOSITORY,
        env=clean_environ() | {"BETTER_AUTH_SECRET": SECRET},
    )
    assert await killed.wait() == -9
    assert len(objects_in(tmp_path)) == int(has_object)
    settings = settings_for(database_url, files_url=str(tmp_path))
    database = open_database(settings)
    mine = File.user_id == user_id
    async with database.transaction(user_id) as session:
        (row,) = (await session.scalars(select(File).where(mine))).all()
        await session.execute(update(File).where(mine).values(created_at=now() - timedelta(minutes=61)))
    async with serve(settings) as url, Client(url, user_id) as alice:
        assert (await alice.get(alice.mine(f"/files/{row.id}"))).status_code == 404
    await FileService(database, Storage(str(tmp_path)), settings).sweep()
    async with database.transaction(user_id) as session:
        assert await session.scalar(select(File.id).where(mine)) is None
    assert objects_in(tmp_path) == []
    await database.close()


def objects_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


FOLDER = "/srv/files"


class TestSetting:
    @pytest.mark.parametrize(
        "value",
        ["files", FOLDER, f"file://{FOLDER}", "s3://bucket", "s3://bucket/a/b", "gs://b", "az://c/x"],
    )
    def test_names_a_folder_or_a_bucket(self, value: str) -> None:
        Settings.from_env({"BETTER_AUTH_SECRET": SECRET, "FILES_URL": value})

    @pytest.mark.parametrize(
        "value",
        [
            "s3://",
            "s3:///",
            "ftp://host/x",
            "https://host/x",
            "file://relative",
            "s3://key:secret@bucket",
            "s3://b?x=1",
        ],
    )
    def test_of_anything_else_stops_the_start(self, value: str) -> None:
        with pytest.raises(SettingsError, match="FILES_URL: is neither a folder nor") as error:
            Settings.from_env({"BETTER_AUTH_SECRET": SECRET, "FILES_URL": value})
        assert "secret" not in str(error.value)
