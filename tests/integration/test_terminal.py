"""`chatapi chat`: in a script, in a terminal, with a service of its own and with another's."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import pytest

from chatapi.terminal.client import Shown
from chatapi.terminal.embedded import embedded_service
from chatapi.terminal.printing import blocks_of, call_line, cleaned
from tests.support.agents import CommandedAgent, Gate
from tests.support.proxy import proxy
from tests.support.serving import Client, serve, settings_for, token_for
from tests.support.terminal import piped, terminal

# Many machines name a proxy and leave NO_PROXY out. Nothing listens here.
PROXY = {"HTTP_PROXY": "http://127.0.0.1:9"}
ADD = 'call add_task {"title": "milk"}'


@pytest.fixture(scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """One database is enough here: the terminal knows the service by HTTP alone."""
    path = tmp_path_factory.mktemp("terminal") / "chatapi.db"
    async with serve(settings_for(f"sqlite:///{path}")) as url:
        yield url


@pytest.fixture
async def alice(url: str) -> AsyncIterator[Client]:
    async with Client(url, f"alice-{uuid4().hex}") as client:
        yield client


@pytest.fixture
def there(alice: Client) -> dict[str, str]:
    """The options and the environment of a user who is signed in."""
    return {"url": str(alice.base_url).rstrip("/"), "CHATAPI_TOKEN": token_for(alice.user_id), **PROXY}


@pytest.fixture
def gate(alice: Client) -> Gate:
    return CommandedAgent.gates[alice.user_id]


class TestPieces:
    def test_a_turn_that_is_told_again_is_shown_once(self) -> None:
        shown = Shown()
        first: list[dict[str, Any]] = [
            {"type": "text-delta", "delta": "Once "},
            {"type": "tool-input-available", "toolCallId": "1"},
            {"type": "text-delta", "delta": "upon"},
        ]
        assert [shown.new(chunk) for chunk in first] == first
        shown.replay()
        again: list[dict[str, Any]] = [
            {"type": "text-delta", "delta": "Once up"},
            {"type": "tool-input-available", "toolCallId": "1"},
            {"type": "text-delta", "delta": "on a time"},
        ]
        assert [shown.new(chunk) for chunk in again] == [
            None,
            None,
            {"type": "text-delta", "delta": " a time"},
        ]

    def test_a_paragraph_is_whole_when_the_next_begins(self) -> None:
        assert blocks_of("One\nline\n\nTwo\n\n- a\n\n- b") == ["One\nline", "Two\n\n- a\n\n- b"]
        assert blocks_of("```\nOne\n\nTwo") == ["```\nOne\n\nTwo"]
        assert blocks_of("```\nOne\n```\n\nTwo\n\n") == ["```\nOne\n```", "Two\n\n"]

    def test_what_a_model_says_cannot_steer_the_terminal(self) -> None:
        assert cleaned("a\x1b]0;title\x07b\tc\n\x9b2J") == "a]0;titleb\tc\n2J"

    def test_a_call_is_a_line(self) -> None:
        assert call_line("add_task", {"title": "milk\nand", "description": None}, "done") == (
            "· add task (milk and): done"
        )

    def test_a_log_that_cannot_be_written_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path(".chatapi").touch()
        with pytest.raises(click.FileError) as raised, embedded_service(settings_for("sqlite:///unused")):
            pass
        assert raised.value.format_message() == "Could not open file '.chatapi/chat.log': File exists"


class TestScript:
    async def test_prints_the_answer_alone(self, directory: Path, there: dict[str, str]) -> None:
        url = there.pop("url")
        add = ADD.replace("milk", r"milk\u001b]0;title\u0007")
        done = await piped(directory, "--url", url, stdin=f"{add}\nsay **Hello.**\n", **there)
        assert (done.returncode, done.stdout) == (0, "add_task: done. **Hello.**\n")
        assert done.stderr.startswith("· add task (milk]0;title): ")
        whole = await piped(directory, "--url", url, "--json", "--message", "say Hi.\x9b2J", **there)
        assert json.loads(whole.stdout)["response"] == "Hi.\x9b2J"
        assert whole.stdout.removesuffix("\n").isprintable()

    @pytest.mark.slow
    async def test_says_by_its_exit_code_what_became_of_it(
        self, directory: Path, there: dict[str, str]
    ) -> None:
        url = there.pop("url")
        for arguments, code, told in (
            (["--url", url, "--message", "say So far\nfail"], 1, "The model is having a bad day."),
            (["--url", url, "--json", "--message", "fail"], 1, ""),
            (["--url", "http://127.0.0.1:9", "--message", "hi"], 3, "The service is not reached"),
            (["--url", url], 2, "There is no message"),
            (
                ["--url", url, "--message", "hi", "--token", "é"],
                2,
                "The token has characters that no token has.",
            ),
            (["--url", url, "--message", "\udcff"], 2, "The message is not valid UTF-8."),
        ):
            done = await piped(directory, *arguments, **there)
            assert (done.returncode, told in done.stderr) == (code, True), done.stderr

    @pytest.mark.slow
    async def test_needs_no_service_and_no_sign_in(self, directory: Path) -> None:
        """The service runs in the process, with the embedded default, and keeps what was said."""
        first = await piped(directory, "--message", "Add milk and bread to my list", **PROXY)
        assert (first.returncode, first.stdout) == (0, 'Added "milk" and "bread".\n')
        second = await piped(directory, "--conversation", "1", stdin="I finished the second one")
        assert second.stdout == 'Completed "bread".\n'
        log = directory / ".chatapi/chat.log"
        assert '"task.added"' in log.read_text()
        assert log.stat().st_mode & 0o077 == 0

    async def test_reads_on_after_a_lost_connection(
        self, directory: Path, there: dict[str, str], alice: Client, gate: Gate
    ) -> None:
        async with proxy(int(there.pop("url").rsplit(":", 1)[1])) as between:
            message = f"{ADD}\nsay Once upon a time\ngate {alice.user_id}\nsay  there was."
            address = f"http://127.0.0.1:{between.port}"
            async with terminal(directory, "--url", address, "--message", message, **there) as shown:
                await shown.shows("Once upon a time")
                between.cut()
                between.heal()
                gate.opened.set()
                assert await shown.process.wait() == 0
                await shown.shows("Once upon a time there was.")
                assert shown.screen.count("· add task") == 1


class TestTerminal:
    async def test_asks_before_a_call_that_needs_approval(self, directory: Path) -> None:
        settings = settings_for(f"sqlite:///{directory}/chatapi.db", tool_approval="all")
        async with serve(settings) as url:
            signed_in = {"CHATAPI_TOKEN": token_for("carol")}
            async with terminal(directory, "--url", url, **signed_in) as shown:
                await shown.shows("> ")
                for key, outcome in (("n", "denied"), ("y", "add_task: done.")):
                    shown.type('ask add_task {"title": "milk"}\u2028wait\u2028say Well.\n')
                    await shown.shows("Approve?", after="say Well.")
                    shown.type(f"{key}\n")
                    await shown.shows(outcome, after="Approve?")
                    await shown.shows("Well.", after="Approve?")
                shown.type('ask add_task {"title": "eggs"}\u2028wait\u2028say Late.\n')
                await shown.shows("Approve?", after="say Late.")
                shown.interrupt()
                await shown.shows("again, or /quit", after="say Late.")
                shown.type("/open 1\n")
                await shown.shows("Approve?", after="/open 1")
                shown.type("y\n")
                await shown.shows("· add task (eggs)", after="/open 1")
                await shown.shows("> ", after="· add task (eggs)")
            message = 'ask add_task {"title": "milk"}\nwait'
            done = await piped(directory, "--url", url, "--message", message, **signed_in)
            assert "Nobody was there to be asked." in done.stdout

    async def test_is_talked_to(
        self, directory: Path, there: dict[str, str], alice: Client, gate: Gate
    ) -> None:
        async with terminal(directory, "--url", there.pop("url"), **there) as shown:
            await shown.shows("> ")
            for typed, told in (
                ("/list\n", "No conversations yet."),
                ("/undo\n", "There is no message yet."),
                ("/search milk\n", "Nothing found."),
                ("/files ~nobody-here/a\n", "~nobody-here/a: Could not determine home directory."),
            ):
                shown.type(typed)
                await shown.shows(told)
            shown.type(f"say Once upon a time\u2028gate {alice.user_id}\u2028say  there was.\n")
            await shown.shows("Once upon a time")
            assert not gate.opened.is_set()
            gate.opened.set()
            await shown.shows("Once upon a time there was.")
            await shown.shows("> ", after="there was.")

            shown.type(f"say Half\u2028gate {alice.user_id}-again\n")
            await shown.shows("Half", after="-again")
            shown.interrupt()
            await shown.shows("Stopped.")
            (conversation,) = await conversations_of(alice)
            assert (await alice.messages(conversation))[-1]["status"] == "cancelled"
            asked = await asked_in(alice, conversation)

            shown.type("say | a | b |\u2028say \u2028once say First.\u2028say Last.\n")
            await shown.shows("Last.", after="Stopped.")
            shown.type("/retry\n")
            await shown.shows("Last.", after="/retry")
            for typed, told, after in (
                ("/undo\n", "/undo\n> say", ""),
                ("\x15say Instead.\n", "Instead.", "/undo"),
                ("/undo\n", "/undo\n> say Instead.", ""),
                ("\x15/new\nsay Elsewhere.\n", "Elsewhere.", "> say Elsewhere."),
                ("/undo\n", "/undo\n> say Elsewhere.", ""),
                ("\x15\nsay Further.\n", "Further.", "> say Further."),
            ):
                shown.type(typed)
                await shown.shows(told, after)
            assert await asked_in(alice, conversation) == [*asked, "say Instead."]
            (other,) = await conversations_of(alice) - {conversation}
            assert await asked_in(alice, other) == ["say Elsewhere.", "say Further."]
            shown.type("/list\n")
            await shown.shows("say Once upon a time", after="/list")
            shown.type("/search instead\n")
            await shown.shows("Instead.", after="/search")
            shown.type("/usage\n")
            await shown.shows(" turns, ", after="/usage")
            (directory / "my list.txt").write_text("butter")
            shown.type("/files 'my list.txt' missing.txt\n")
            await shown.shows("list.txt goes with the next message.")
            await shown.shows("missing.txt: No such file")
            shown.type("files\n")
            await shown.shows("butter", after="missing.txt")
            shown.type("/nothing\n")
            await shown.shows("There is no /nothing")
            shown.resize(20, 30)
            shown.type("say wide wide wide wide wide wide wide wide wide\n")
            await shown.shows("wide \nwide", after="There is no /nothing")
            await shown.interrupt_line()
            await shown.shows("again, or /quit")
            shown.type("/quit\n")
            assert await shown.process.wait() == 0

    async def test_keeps_what_was_refused_and_is_left_by_a_second_ctrl_c(
        self, directory: Path, there: dict[str, str], alice: Client, gate: Gate
    ) -> None:
        (directory / "list.txt").write_text("butter")
        busy = asyncio.create_task(alice.said(f"gate {alice.user_id}\u2028say Done."))
        await gate.reached.wait()
        (conversation,) = await conversations_of(alice)
        options = ("--url", there.pop("url"), "--conversation", str(conversation))
        async with terminal(directory, *options, **there) as shown:
            await shown.shows("> ")
            for typed, told in (
                ("/files list.txt\n", "list.txt goes with the next message."),
                ("files\n", "The files go with the next message"),
                ("/undo\n", "/undo\n> gate"),
                ("\x15say Anew.\n", "not finished.\n> say Anew."),
            ):
                shown.type(typed)
                await shown.shows(told)
            gate.opened.set()
            await busy
            for typed, told in (
                ("\nfiles\n", '[["list.txt", "butter"]]'),
                ("/files list.txt\n/files\n", "No file goes with the next message."),
            ):
                shown.type(typed)
                await shown.shows(told)
            shown.type("files\n")
            await shown.shows('[["list.txt", "butter"]]', after="No file")
            assert await asked_in(alice, conversation) == ["say Anew.", "files", "files"]
            for typed, told in (
                ("/new\n/files list.txt\nsay Elsewhere.\n", "Elsewhere."),
                ("/undo\n", "/undo\n> say Elsewhere."),
                ("\x15say Edited.\u2028files\n", 'Edited.[["list.txt", "butter"]]'),
            ):
                shown.type(typed)
                await shown.shows(told)
            await shown.interrupt_line()
            await shown.shows("again, or /quit")
            await shown.interrupt_line()
            assert await shown.process.wait() == 130


async def conversations_of(client: Client) -> set[int]:
    return {each["id"] for each in (await client.get(client.mine("/conversations"))).json()["items"]}


async def asked_in(client: Client, conversation_id: int) -> list[str]:
    return [each["content"] for each in await client.messages(conversation_id) if each["role"] == "user"]
