"""Files: uploads, reading them in ranges, and how they go."""

import asyncio
import io
import json
import os
import shutil
import tarfile
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, settings, strategies
from sqlalchemy import select, update

from chatapi.db.database import Database
from chatapi.db.models import File, QueuedTurn, now
from chatapi.db.owner import EVERYONE
from chatapi.errors.files import FileTooLarge
from chatapi.files.service import FileService
from chatapi.files.storage import Storage
from tests.support import run
from tests.support.databases import open_database
from tests.support.files import jpeg, pdf, png, upload, uploaded
from tests.support.serving import Client, serve, settings_for

BOUNDARY = "a-boundary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = open_database(settings_for(database_url))
    yield database
    await database.close()


def folder() -> Path:
    return run.of_run() / "files"


@pytest.fixture
def files(database: Database) -> FileService:
    return FileService(database, Storage(str(folder())), settings_for("sqlite://"))


def part(name: str, content: bytes, filename: str | None = "a.txt") -> bytes:
    said = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{said}\r\n\r\n'
    return head.encode() + content + b"\r\n"


async def pieces_of(body: bytes) -> AsyncIterator[bytes]:
    yield body


END = f"--{BOUNDARY}--\r\n".encode()


async def row_of(database: Database, file_id: int) -> File | None:
    async with database.transaction(EVERYONE) as session:
        return await session.scalar(select(File).where(File.id == file_id))


async def objects_of(database: Database, user_id: str) -> list[Path]:
    async with database.transaction(EVERYONE) as session:
        return [
            folder() / key for key in await session.scalars(select(File.key).where(File.user_id == user_id))
        ]


class TestUpload:
    async def test_stores_the_bytes_and_says_what_they_are(self, alice: Client) -> None:
        response = await upload(alice, png(), "../Grüße.exe")
        assert response.status_code == 201
        file = response.json()
        assert response.headers["Location"] == alice.mine(f"/files/{file['id']}")
        assert {**file, "id": 0, "created_at": ""} == {
            "id": 0,
            "name": "Grüße.exe",
            "media_type": "image/png",
            "size": len(png()),
            "sha256": file["sha256"],
            "created_at": "",
        }
        found = await alice.get(response.headers["Location"])
        assert (found.status_code, found.content) == (200, png())

    async def test_takes_a_bom_off_text(self, alice: Client) -> None:
        file = await uploaded(alice, b"\xef\xbb\xbfmilk\r\nbread", "list.md")
        assert (file["media_type"], file["size"]) == ("text/markdown", 11)
        assert (await alice.get(alice.mine(f"/files/{file['id']}"))).content == b"milk\r\nbread"

    @pytest.mark.parametrize(
        ("body", "status", "words"),
        [
            (part("file", b"") + END, 422, "file: is empty"),
            (END, 422, "file: is missing"),
            (b"", 422, "not a whole multipart form"),
            (part("file", b"a") + part("file", b"b") + END, 422, "file: is there twice"),
            (part("other", b"a") + END, 422, "its name is `file`"),
            (part("file", b"a") + part("other", b"b", None) + END, 422, "its name is `file`"),
            (part("file", b"a"), 422, "not a whole multipart form"),
            (part("file", b"a")[:-1], 422, "not a whole multipart form"),
            (b"no form at all", 422, "not a whole multipart form"),
            (b"--" + BOUNDARY.encode() + b"\r\n" + b"A: b\r\n" * 20 + b"\r\n", 422, "short headers"),
            (part("file", b"a\0b") + END, 415, "control characters"),
            (part("file", b"<svg/>", "a.png") + END, 415, "HTML, SVG or XML"),
            (part("file", png(50_000, 50_000), "a.png") + END, 415, "50,000 x 50,000 pixels"),
        ],
    )
    async def test_bad_ones_are_refused_and_leave_nothing(
        self, alice: Client, database: Database, body: bytes, status: int, words: str
    ) -> None:
        response = await alice.post(alice.mine("/files"), content=body, headers=FORM)
        assert (response.status_code, words in response.json()["detail"]) == (status, True), response.text
        assert await objects_of(database, alice.user_id) == []

    @pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data", "", "text/plain"])
    async def test_what_is_no_form_is_415(self, alice: Client, content_type: str) -> None:
        response = await alice.post(
            alice.mine("/files"), content=part("file", b"a") + END, headers={"Content-Type": content_type}
        )
        assert response.status_code == 415
        assert "multipart/form-data" in response.json()["detail"]

    async def test_of_too_many_bytes_is_413_before_it_is_read_whole(
        self, database: Database, database_url: str
    ) -> None:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            yield part("file", b"")[:-2]
            while True:
                sent += 65_536
                yield b"x" * 65_536

        small = settings_for(database_url, file_max_bytes=100_000)
        with pytest.raises(FileTooLarge):
            await FileService(database, Storage("unused"), small).add(
                "alice", endless(), FORM["Content-Type"]
            )
        assert sent < 200_000
        async with serve(small) as url, Client(url, f"alice-{uuid4().hex}") as alice:
            body = part("file", b"x" * 300_000) + END
            for content in (body, pieces_of(body)):  # with the length said before, and without
                response = await alice.post(alice.mine("/files"), content=content, headers=FORM)
                assert response.status_code == 413
                assert response.json()["type"] == "urn:chatapi:problem:file-too-large"
                assert response.json()["detail"] == "A file has 100,000 bytes at the most."
            assert (await upload(alice, b"x" * 100_000)).status_code == 201
            assert (await upload(alice, b"x" * 100_001)).status_code == 413
            assert len(await objects_of(database, alice.user_id)) == 1

    async def test_of_the_largest_size_is_taken(self, alice: Client) -> None:
        assert (await uploaded(alice, jpeg() + bytes(10 * 1024 * 1024 - len(jpeg()))))[
            "size"
        ] == 10 * 1024 * 1024

    async def test_that_breaks_off_leaves_nothing(self, alice: Client, database: Database) -> None:
        """The client goes away in the middle."""

        async def half() -> AsyncIterator[bytes]:
            yield part("file", b"x" * 300_000)
            raise httpx.ReadError("gone")

        with pytest.raises(httpx.ReadError):
            await alice.post(alice.mine("/files"), content=half(), headers=FORM)
        assert (await upload(alice, b"x")).status_code == 201  # the service lives
        assert len(await objects_of(database, alice.user_id)) == 1

    async def test_whatever_the_form_is_like_is_answered(self, alice: Client) -> None:
        """Forms that are mutated at random are stored, or refused with a problem of the client's."""
        whole = part("file", b"hello\r\n--world", 'a;\\"b.txt') + END
        statuses: set[int] = set()

        async def send(body: bytes) -> None:
            response = await alice.post(alice.mine("/files"), content=body, headers=FORM)
            assert response.status_code in {201, 415, 422}, (body, response.text)
            statuses.add(response.status_code)

        loop = asyncio.get_running_loop()

        @settings(
            max_examples=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            derandomize=True,
        )
        @given(strategies.data())
        def mutate(data: strategies.DataObject) -> None:
            place = data.draw(strategies.integers(0, len(whole)))
            cut = data.draw(strategies.integers(0, 12))
            piece = data.draw(
                strategies.sampled_from(
                    [b"", b"\r\n", b"--", b"\r", b'"', b"\0", b"\xff", END, whole, b":", b"filename*="]
                )
                | strategies.binary(max_size=8)
            )
            asyncio.run_coroutine_threadsafe(send(whole[:place] + piece + whole[place + cut :]), loop).result(
                60
            )

        await asyncio.to_thread(mutate)
        assert {201, 422} <= statuses


class TestReading:
    @pytest.mark.parametrize(
        ("asked", "status", "content", "said"),
        [
            ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
            ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
            ("bytes=-2", 206, b"89", "bytes 8-9/10"),
            ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
            ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
            ("bytes=10-", 416, None, "bytes */10"),
            ("bytes=-0", 416, None, "bytes */10"),
            ("bytes=5-4", 200, b"0123456789", None),
            ("bytes=0-1,3-4", 200, b"0123456789", None),
            ("lines=0-1", 200, b"0123456789", None),
        ],
    )
    async def test_a_range(
        self, alice: Client, asked: str, status: int, content: bytes | None, said: str | None
    ) -> None:
        file = await uploaded(alice, b"0123456789")
        path = alice.mine(f"/files/{file['id']}")
        response = await alice.get(path, headers={"Range": asked})
        assert (response.status_code, response.headers.get("Content-Range")) == (status, said)
        if content is not None:
            assert (response.content, response.headers["Content-Length"]) == (content, str(len(content)))
        else:
            assert response.json()["type"] == "urn:chatapi:problem:range-not-satisfiable"

    async def test_says_what_a_browser_may_do_with_it(self, alice: Client) -> None:
        file = await uploaded(alice, pdf("x"), 'a "b" Grüße.pdf')
        path = alice.mine(f"/files/{file['id']}")
        response = await alice.get(path)
        assert {
            name: response.headers[name] for name in ("Content-Type", "X-Content-Type-Options", "ETag")
        } == {
            "Content-Type": "application/pdf",
            "X-Content-Type-Options": "nosniff",
            "ETag": f'"{file["sha256"]}"',
        }
        assert response.headers["Content-Disposition"] == (
            "attachment; filename=\"a _b_ Gr__e.pdf\"; filename*=UTF-8''a%20%22b%22%20Gr%C3%BC%C3%9Fe.pdf"
        )
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; sandbox")
        head = await alice.head(path)
        assert (head.headers["Content-Length"], head.content) == (str(file["size"]), b"")

    async def test_of_bytes_that_the_client_has_is_304(self, alice: Client) -> None:
        file = await uploaded(alice, b"0123456789")
        path, etag = alice.mine(f"/files/{file['id']}"), f'"{file["sha256"]}"'
        fresh = await alice.get(path, headers={"If-None-Match": f'"other", W/{etag}'})
        assert (fresh.status_code, fresh.content) == (304, b"")
        other = await alice.get(path, headers={"Range": "bytes=0-0", "If-Range": '"other"'})
        assert other.status_code == 200
        same = await alice.get(path, headers={"Range": "bytes=0-0", "If-Range": etag})
        assert same.status_code == 206

    async def test_of_an_object_that_somebody_took_away_is_404(
        self, alice: Client, database: Database
    ) -> None:
        file = await uploaded(alice, b"x")
        (path,) = await objects_of(database, alice.user_id)
        path.unlink()
        assert (await alice.get(alice.mine(f"/files/{file['id']}"))).status_code == 404

    async def test_while_the_storage_is_away_is_503(
        self, alice: Client, database: Database, database_url: str, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        away = settings_for(database_url, files_url=str(tmp_path / "file"))
        async with serve(away) as url, Client(url, alice.user_id) as here:
            response = await upload(here, b"x")
            assert (response.status_code, response.json()["type"]) == (
                503,
                "urn:chatapi:problem:files-unavailable",
            )
            assert str(tmp_path) not in response.text


class TestDeletion:
    async def test_takes_the_bytes_away(self, alice: Client, database: Database) -> None:
        file = await uploaded(alice, b"x")
        (path,) = await objects_of(database, alice.user_id)
        assert path.read_bytes() == b"x"
        assert (await alice.delete(alice.mine(f"/files/{file['id']}"))).status_code == 204
        assert not path.exists()
        assert await row_of(database, file["id"]) is None
        assert (await alice.get(alice.mine(f"/files/{file['id']}"))).status_code == 404
        assert (await alice.delete(alice.mine(f"/files/{file['id']}"))).status_code == 404

    async def test_of_what_was_never_sent_happens_after_a_day(
        self, alice: Client, database: Database, files: FileService
    ) -> None:
        young, old = [await uploaded(alice, b"x") for _ in range(2)]
        paths = await objects_of(database, alice.user_id)
        async with database.transaction(EVERYONE) as session:
            await session.execute(
                update(File).where(File.id == old["id"]).values(created_at=now() - timedelta(hours=25))
            )
        await files.sweep()
        assert [path.exists() for path in paths] == [True, False]
        assert (await alice.get(alice.mine(f"/files/{young['id']}"))).status_code == 200
        assert await row_of(database, old["id"]) is None

    async def test_waits_for_a_message_that_is_queued_with_it(
        self, alice: Client, database: Database, files: FileService
    ) -> None:
        kept, taken_out, other = [(await uploaded(alice, b"x"))["id"] for _ in range(3)]
        conversation_id = (await alice.said("say 0"))["conversation_id"]

        def queued(taken_out_at: datetime | None = None, **request: Any) -> QueuedTurn:
            return QueuedTurn(
                id=-(uuid4().int >> 65),  # the database gives others, from 1 on
                user_id=alice.user_id,
                conversation_id=conversation_id,
                run_id=uuid4().hex,
                request={"message": "say A\0", "conversation_id": conversation_id, **request},
                taken_out_at=taken_out_at,
            )

        async with database.transaction(EVERYONE) as session:
            session.add_all([queued(files=[1, kept]), queued(now(), files=[taken_out]), queued()])
            moment = now() - timedelta(hours=25)
            await session.execute(update(File).where(File.user_id == alice.user_id).values(created_at=moment))
        await files.sweep()
        left = [await row_of(database, file_id) is not None for file_id in (kept, taken_out, other)]
        assert left == [True, False, False]
        await alice.delete(alice.mine(f"/files/{kept}"))
        assert await row_of(database, kept) is None
        # The service that all tests share would try to begin these turns for as long as they are there.
        await alice.delete(alice.mine(f"/conversations/{conversation_id}"))

    @pytest.mark.parametrize(("is_stored", "has_object"), [(False, False), (False, True), (True, False)])
    async def test_of_what_a_crash_left_happens_within_an_hour(
        self, alice: Client, database: Database, files: FileService, *, is_stored: bool, has_object: bool
    ) -> None:
        """A row without its object, an object that nobody was told of, and a deletion that was cut off."""
        file = await uploaded(alice, b"x")
        (path,) = await objects_of(database, alice.user_id)
        values = {"sent_at": now()} if is_stored else {"stored_at": None}
        async with database.transaction(EVERYONE) as session:
            await session.execute(update(File).where(File.id == file["id"]).values(values))
        if not has_object:
            path.unlink()
        assert (await alice.get(alice.mine(f"/files/{file['id']}"))).status_code == 404
        await files.sweep()
        assert (await row_of(database, file["id"]) is None) == is_stored  # an upload may still be under way
        async with database.transaction(EVERYONE) as session:
            moment = now() - timedelta(minutes=61)
            await session.execute(update(File).where(File.id == file["id"]).values(created_at=moment))
        await files.sweep()
        assert await row_of(database, file["id"]) is None
        assert not path.exists()

    async def test_goes_on_behind_what_cannot_be_deleted(
        self, service: str, database: Database, files: FileService
    ) -> None:
        """In the place of some objects there are folders; others could be under a lock."""
        users = sorted(f"sweep-{uuid4().hex}" for _ in range(3))
        for user_id in users:
            async with Client(service, user_id) as client:
                for _ in range(3):
                    await uploaded(client, b"x")
        bad, *good = [path for user_id in users for path in await objects_of(database, user_id)]
        bad.unlink()
        (bad / "in the way").mkdir(parents=True)
        async with database.transaction(EVERYONE) as session:
            await session.execute(update(File).where(File.user_id.in_(users)).values(sent_at=now()))
        await files.sweep()
        assert not [path for path in good if path.exists()]
        assert [len(await objects_of(database, user_id)) for user_id in users] == [1, 0, 0]
        shutil.rmtree(bad)
        await files.sweep()
        assert await objects_of(database, users[0]) == []

    async def test_of_what_killed_writers_left_in_the_folder(self, tmp_path: Path) -> None:
        old, young, other = (tmp_path / name for name in ("ab/abcd#1", "ab/abce#2", "ab/abcf"))
        old.parent.mkdir()
        for path in (old, young, other):
            path.touch()
        hours_ago = now().timestamp() - 7_200
        for path in (old, other):
            os.utime(path, (hours_ago, hours_ago))
        Storage(str(tmp_path)).clear_leftovers()
        assert [path.exists() for path in (old, young, other)] == [False, True, True]


class TestAccount:
    async def test_an_export_describes_files_and_as_a_tar_has_their_bytes(self, alice: Client) -> None:
        file = await uploaded(alice, png(), "a/Bild 1.png")
        other = await uploaded(alice, b"x" * 1_000, "list.md")
        plain = await alice.get(alice.mine("/export"))
        (record, _) = (each for each in map(json.loads, plain.text.splitlines()) if each["record"] == "file")
        assert record == {"record": "file", **file, "turn_id": None, "sent_at": None}
        response = await alice.get(alice.mine("/export?format=tar"))
        assert response.headers["Content-Disposition"] == 'attachment; filename="chatapi-export.tar"'
        with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
            found = {member.name: archive.extractfile(member) for member in archive}
            bytes_of = {name: opened.read() for name, opened in found.items() if opened is not None}
        assert bytes_of == {
            "chatapi-export.ndjson": plain.content,
            f"files/{file['id']}/Bild 1.png": png(),
            f"files/{other['id']}/list.md": b"x" * 1_000,
        }
        assert (await alice.get(alice.mine("/export?format=zip"))).status_code == 422

    async def test_erasure_takes_them_away(self, alice: Client, bob: Client, database: Database) -> None:
        await uploaded(alice, b"x")
        await uploaded(bob, b"y")
        mine, theirs = [await objects_of(database, each.user_id) for each in (alice, bob)]
        response = await alice.delete(alice.mine("/"), params={"confirm": alice.user_id})
        assert response.status_code == 204, response.text
        assert [path.exists() for path in (*mine, *theirs)] == [False, True]
        assert await objects_of(database, alice.user_id) == []
