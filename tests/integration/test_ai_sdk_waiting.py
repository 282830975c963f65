"""What the real AI SDK makes of turns that wait: its `Chat`, with the transport of packages/ai-sdk, in AI SDK 7 and 6."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import pytest

from tests.support import ai_sdk, run
from tests.support.agents import CommandedAgent
from tests.support.ai_sdk import ChatOf, Driver, State, text_of, tools_of
from tests.support.postgres import Postgres
from tests.support.serving import Client, serve, settings_for

pytestmark = pytest.mark.slow

if why := ai_sdk.missing():
    pytest.skip(why, allow_module_level=True)

CLOCK = {"name": "time_zone", "description": "The user's time zone", "parameters": {"type": "object"}}
DELETE = 'ask delete_task {"task_id": %d}'


class Replicas(NamedTuple):
    """Two on one database, and the user's client of the second."""

    one: str
    other: str
    alice: Client


class Side(NamedTuple):
    """A version of the SDK, and the database that its tests run on: between the two there is nothing that both know."""

    version: int
    database: Literal["sqlite", "postgresql"]

    @property
    def resumes(self) -> bool:
        """AI SDK 6 does not know `tool-approval-response`, so it can't read an answered turn from its beginning."""
        return self.version > 6


@pytest.fixture(
    scope="module",
    params=[Side(7, "postgresql"), Side(6, "sqlite")],
    ids=lambda side: f"AI SDK {side.version}",
)
def side(request: pytest.FixtureRequest) -> Side:
    chosen: Side = request.param
    return chosen


@pytest.fixture(scope="module")
async def driver(side: Side, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Driver]:
    async with ai_sdk.driver(tmp_path_factory.mktemp("ai_sdk"), six=side.version == 6) as driven:
        yield driven


@pytest.fixture
def resumes(side: Side) -> bool:
    return side.resumes


@pytest.fixture(scope="module")
async def urls(side: Side, postgres: Postgres, migrated_file: Path) -> AsyncIterator[tuple[str, str]]:
    if side.database == "sqlite":
        file = await asyncio.to_thread(shutil.copy, migrated_file, run.directory("sqlite") / "chatapi.db")
        url = f"sqlite+aiosqlite:///{file}"
    else:
        url = postgres.url(await asyncio.to_thread(postgres.new_database))
    settings = settings_for(url, tool_approval="destructive")
    async with serve(settings) as one, serve(settings) as other:
        yield one, other


@pytest.fixture
async def replicas(urls: tuple[str, str]) -> AsyncIterator[Replicas]:
    async with Client(urls[1], f"alice-{uuid4().hex}") as alice:
        yield Replicas(*urls, alice)


async def opened(driver: Driver, url: str, alice: Client, conversation_id: int | None = None) -> ChatOf:
    return await driver.open(alice.user_id, url, conversation_id, client_tools=[CLOCK])


async def task_of(alice: Client) -> int:
    return int((await alice.post(alice.mine("/tasks"), json={"title": "milk"})).json()["id"])


async def titles_of(alice: Client) -> list[str]:
    return [task["title"] for task in (await alice.get(alice.mine("/tasks"))).json()["items"]]


def asked_in(state: State) -> list[str]:
    """The states of the calls in the last message."""
    return [tool["state"] for tool in tools_of(state["messages"][-1])]


async def answered(chat: ChatOf, state: State, *, approved: bool = True, reason: str | None = None) -> State:
    """Answer all that the last message asks; what it sends by itself is over then."""
    for tool in tools_of(state["messages"][-1]):
        if tool["state"] == "approval-requested":
            said = {} if reason is None else {"reason": reason}
            await chat("approve", id=tool["approval"]["id"], approved=approved, **said)
        elif tool["state"] == "input-available":
            await chat("output", tool=tool["toolName"], toolCallId=tool["toolCallId"], output={"zone": "UTC"})
    return await chat("quiet")


async def shown(alice: Client, state: State) -> dict[str, Any]:
    """The last message as the service has it."""
    return (await alice.messages(state["conversation_id"], format="ui"))[-1]


# What is said; the states of its calls while it waits, and at the end; whether approvals are given; what is said at the end.
SCRIPTS: dict[str, tuple[str, list[str], list[str], bool, str]] = {
    "approve": (
        f"think Hm.\nsay Let me.\n{DELETE}\nwait\nsay  So it is.",
        ["approval-requested"],
        ["output-available"],
        True,
        "Let me.delete_task: done.  So it is.",
    ),
    "deny": (
        f"say Let me.\n{DELETE}\nwait\nsay  Well.",
        ["approval-requested"],
        ["output-denied"],
        False,
        "Let me.delete_task: The user did not allow this call: I need it..  Well.",
    ),
    "client tool": (
        "say Let me.\nask time_zone {}\nwait\nthink Ah.\nsay  Thanks.",
        ["input-available"],
        ["output-available"],
        True,
        "Let me.time_zone: done.  Thanks.",
    ),
    "parallel calls": (
        f"think Hm.\n{DELETE}\nask list_tasks {{}}\nask time_zone {{}}\n{DELETE}\nwait\nsay  Done.",
        ["output-available", "approval-requested", "input-available", "approval-requested"],
        ["output-available", "output-available", "output-available", "output-error"],
        True,
        "list_tasks: done. delete_task: done. time_zone: done. delete_task: There is no task {id} of yours..  Done.",
    ),
}


@pytest.mark.parametrize("reloads", [False, True], ids=["straight", "reloaded elsewhere"])
@pytest.mark.parametrize("script", SCRIPTS)
async def test_is_answered_and_goes_on_by_itself(
    driver: Driver, replicas: Replicas, script: str, reloads: bool, resumes: bool
) -> None:
    alice = replicas.alice
    said, waiting, at_end, approved, text = SCRIPTS[script]
    task_id = await task_of(alice)
    chat = await opened(driver, replicas.one, alice)
    asked = await chat.done("send", text=said.replace("%d", str(task_id)))
    assert (asked["status"], asked["errors"], asked_in(asked)) == ("ready", [], waiting)
    assert asked["messages"][-1] == await shown(alice, asked)
    assert asked["messages"][-1]["metadata"]["waiting"] is True
    if reloads:
        chat = await opened(driver, replicas.other, alice, asked["conversation_id"])
        assert (await chat("history"))["messages"][-1] == asked["messages"][-1]
        if resumes:
            assert (await chat.done("resume"))["messages"][-1] == asked["messages"][-1]
    state = await answered(chat, asked, approved=approved, reason=None if approved else "I need it.")
    assert (state["status"], state["errors"], asked_in(state)) == ("ready", [], at_end)
    message = state["messages"][-1]
    assert text_of(message) == text.replace("{id}", f"{task_id}")
    assert message == await shown(alice, state)
    assert (message["metadata"]["waiting"], len(state["answers"]), len(state["messages"])) == (False, 1, 2)
    assert await titles_of(alice) == ([] if "delete_task: done" in text else ["milk"])
    if resumes:
        assert (await chat.done("resume"))["messages"][-1] == message
    again = await opened(driver, replicas.one, alice, asked["conversation_id"])
    assert (await again("history"))["messages"][-1] == message
    after = await chat.done("send", text="say Anything else?")
    assert (text_of(after["messages"][-1]), len(after["answers"])) == ("Anything else?", 1)


async def test_may_ask_again_in_the_same_turn(driver: Driver, replicas: Replicas, resumes: bool) -> None:
    alice = replicas.alice
    task_id = await task_of(alice)
    chat = await opened(driver, replicas.one, alice)
    asks = f"{DELETE % task_id}\nwait\nask time_zone {{}}\nwait\nsay Done."
    asked = await chat.done("send", text=asks)
    between = await answered(chat, asked)
    assert (between["status"], asked_in(between)) == ("ready", ["output-available", "input-available"])
    assert between["messages"][-1] == await shown(alice, between)
    assert between["messages"][-1]["metadata"]["waiting"] is True
    chat = await opened(driver, replicas.other, alice, asked["conversation_id"])
    assert (await chat("history"))["messages"][-1] == between["messages"][-1]
    if resumes:
        assert (await chat.done("resume"))["messages"][-1] == between["messages"][-1]
    done = await answered(chat, between)
    assert (done["status"], asked_in(done), len(done["answers"])) == ("ready", ["output-available"] * 2, 2)
    assert text_of(done["messages"][-1]) == "delete_task: done. time_zone: done. Done."
    assert done["messages"][-1] == await shown(alice, done)
    if resumes:
        assert (await chat.done("resume"))["messages"][-1] == done["messages"][-1]


async def test_is_read_on_after_a_reload_while_it_goes_on(
    driver: Driver, replicas: Replicas, resumes: bool
) -> None:
    """The answer is there and the turn runs: the page shows the answer and asks for nothing."""
    alice = replicas.alice
    gate = CommandedAgent.gates[alice.user_id]
    chat = await opened(driver, replicas.one, alice)
    asked = await chat.done(
        "send", text=f"{DELETE % await task_of(alice)}\nwait\ngate {alice.user_id}\nsay Done."
    )
    (call,) = tools_of(asked["messages"][-1])
    await chat("approve", id=call["approval"]["id"], approved=True, reason="Tidy.")
    await gate.reached.wait()
    reloaded = await opened(driver, replicas.other, alice, asked["conversation_id"])
    state = await reloaded("history")
    assert asked_in(state) == ["approval-responded"]
    assert tools_of(state["messages"][-1])[0]["approval"] == {
        **call["approval"],
        "approved": True,
        "reason": "Tidy.",
    }
    assert state["messages"][-1]["metadata"]["status"] == "running"
    if resumes:
        await reloaded("resume")
        await reloaded("shows", text="delete_task: done.")
    gate.opened.set()
    done = await chat("quiet")
    assert done["messages"][-1] == await shown(alice, done)
    if resumes:
        assert (await reloaded("settled"))["messages"][-1] == done["messages"][-1]
    assert len((await reloaded("quiet"))["answers"]) == 1


async def test_shows_what_was_answered_elsewhere(driver: Driver, replicas: Replicas, resumes: bool) -> None:
    """One of the two calls by another page; this one answers the rest."""
    alice = replicas.alice
    asks = f"{DELETE % await task_of(alice)}\nask time_zone {{}}\nask time_zone {{}}\nwait\nsay Done."
    first = await opened(driver, replicas.one, alice)
    asked = await first.done("send", text=asks)
    approval, clock, _ = tools_of(asked["messages"][-1])
    given = [
        {"id": approval["approval"]["id"], "approved": False, "reason": "No."},
        {"id": clock["toolCallId"], "output": {"zone": "CET"}},
    ]
    path = alice.mine(f"/turns/{asked['turn_id']}/answers")
    assert len((await alice.post(path, json={"answers": given})).json()["pending"]) == 1
    chat = await opened(driver, replicas.other, alice, asked["conversation_id"])
    state = await chat("history")
    assert asked_in(state) == ["approval-responded", "output-available", "input-available"]
    if resumes:
        assert (await chat.done("resume"))["messages"][-1] == state["messages"][-1]
    done = await answered(chat, state)
    assert (done["errors"], asked_in(done)) == ([], ["output-denied", "output-available", "output-available"])
    assert [tool.get("output") for tool in tools_of(done["messages"][-1])][1:] == [
        {"zone": "CET"},
        {"zone": "UTC"},
    ]
    assert done["messages"][-1] == await shown(alice, done)
    if resumes:
        assert (await chat.done("resume"))["messages"][-1] == done["messages"][-1]


class TestDoesNotSendWithoutEnd:
    async def test_after_a_cancel_while_it_waits(self, driver: Driver, replicas: Replicas) -> None:
        """The answer is refused once, and told."""
        alice = replicas.alice
        chat = await opened(driver, replicas.one, alice)
        asked = await chat.done("send", text=f"{DELETE % await task_of(alice)}\nwait")
        await chat("cancel")
        state = await answered(chat, asked)
        assert (state["status"], len(state["answers"])) == ("error", 1)
        assert [each["problem"]["type"].rpartition(":")[2] for each in state["errors"]] == ["not-waiting"]
        news = (await chat("news"))["news"]
        assert [tool["state"] for tool in tools_of(news[-1])] == ["output-denied"]
        assert news[-1]["metadata"]["status"] == "cancelled"
        assert await titles_of(alice) == ["milk"]

    async def test_after_a_cancel_while_it_goes_on(self, driver: Driver, replicas: Replicas) -> None:
        alice = replicas.alice
        gate = CommandedAgent.gates[alice.user_id]
        chat = await opened(driver, replicas.one, alice)
        asks = f"ask time_zone {{}}\nwait\ngate {alice.user_id}\nsay Never."
        asked = await chat.done("send", text=asks)
        (call,) = tools_of(asked["messages"][-1])
        await chat("output", tool="time_zone", toolCallId=call["toolCallId"], output="UTC")
        await gate.reached.wait()
        await chat("cancel")
        state = await chat("quiet")
        assert (state["status"], len(state["answers"])) == ("ready", 1)
        assert state["messages"][-1] == await shown(alice, state)

    async def test_after_another_page_has_answered_otherwise(
        self, driver: Driver, replicas: Replicas
    ) -> None:
        alice = replicas.alice
        one = await opened(driver, replicas.one, alice)
        asked = await one.done("send", text=f"{DELETE % await task_of(alice)}\nwait\nsay Well.")
        other = await opened(driver, replicas.other, alice, asked["conversation_id"])
        await other("history")
        await answered(other, asked, approved=False)
        late = await answered(one, asked, approved=True)
        assert (late["status"], len(late["answers"])) == ("error", 2)
        assert await titles_of(alice) == ["milk"]
        # The same answer as the other page's is no error: this page follows what that has begun.
        third = await opened(driver, replicas.one, alice, asked["conversation_id"])
        await third("show", messages=asked["messages"])
        same = await answered(third, asked, approved=False)
        assert (same["status"], same["errors"], asked_in(same)) == ("ready", [], ["output-denied"])
        assert same["messages"][-1] == await shown(alice, same)

    async def test_after_a_model_that_fails(self, driver: Driver, replicas: Replicas, resumes: bool) -> None:
        """Sent again with their key, the answers run the turn again, and the call is not made again."""
        alice = replicas.alice
        chat = await opened(driver, replicas.one, alice)
        asks = f"{DELETE % await task_of(alice)}\nwait\nsay So.\nonce fail {alice.user_id}\nsay Done."
        asked = await chat.done("send", text=asks)
        failed = await answered(chat, asked)
        assert (failed["status"], len(failed["answers"])) == ("error", 1)
        assert failed["messages"][-1]["parts"] == (await shown(alice, failed))["parts"]
        assert await titles_of(alice) == []
        assert (await chat("lost"))["lost"] is False
        if not resumes:
            return
        done = await chat.done("regenerate", metadata={"again": True})
        assert (done["status"], text_of(done["messages"][-1])) == ("ready", "delete_task: done. So.Done.")
        assert done["messages"][-1] == await shown(alice, done)
