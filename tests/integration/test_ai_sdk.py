"""What the real AI SDK makes of our streams, with the transport of packages/ai-sdk and the component of docs/frontend.md."""

import asyncio
import base64
import io
import json
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support import ai_sdk, npm
from tests.support.agents import CommandedAgent, Gate
from tests.support.ai_sdk import ChatOf, Driver, State, text_of, tools_of
from tests.support.files import png
from tests.support.proxy import proxy
from tests.support.serving import Client, serve, settings_for, token_for
from tests.support.sse import answering
from website import api_types

pytestmark = pytest.mark.slow

if why := ai_sdk.missing():
    pytest.skip(why, allow_module_level=True)

ADD = 'call add_task {"title": "milk"}'
AGAIN: dict[str, Any] = {"metadata": {"again": True}}


@pytest.fixture(scope="module")
async def driver(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Driver]:
    async with ai_sdk.driver(tmp_path_factory.mktemp("ai_sdk")) as driven:
        yield driven


@pytest.fixture
async def chat(driver: Driver, alice: Client) -> ChatOf:
    """Alice's chat, no message sent yet."""
    return await driver.open(alice.user_id, str(alice.base_url).rstrip("/"))


@pytest.fixture
def gate(alice: Client) -> Gate:
    return CommandedAgent.gates[alice.user_id]


TYPED = """
import { answersAreReady, ChatapiTransport, type components, problemOf, textOf } from "@chatapi/ai-sdk";
import { Chat } from "@ai-sdk/react";

const transport = new ChatapiTransport({ url: "", userId: "alice", token: async () => "…", conversationId: "7" });
const chat = new Chat({ transport, sendAutomaticallyWhen: answersAreReady });
const turn: number | undefined = chat.messages.at(-1)?.metadata?.turn_id;
const wait: number | undefined = problemOf(chat.error)?.retry_after;
const title: components["schemas"]["Conversation"]["title"] = null;
// @ts-expect-error - there is no such member
const wrong = chat.messages.at(-1)?.metadata?.turn;
export { textOf, title, turn, wait, wrong };
"""


def kind(error: dict[str, Any]) -> str:
    return str(error["problem"]["type"]).removeprefix("urn:chatapi:problem:")


async def followed(
    chat: ChatOf, driver: Driver, alice: Client, conversation_id: int, text: str, shown: str
) -> State:
    """Another page of the user's sends a text that waits at the user's gate; this page reads its turn from there to its end."""
    other = await driver.open(alice.user_id, str(alice.base_url).rstrip("/"), conversation_id)
    await other("history")
    await other("send", text=text)
    await other("shows", text=shown)
    await chat("history")
    await chat("resume")
    await chat("shows", text=shown)
    CommandedAgent.gates[alice.user_id].opened.set()
    return await chat("settled")


async def ended(client: Client, conversation_id: int) -> None:
    """Wait until the conversation's turn has; a stream of it ends when it does."""
    assert (await client.get(client.mine(f"/chat/{conversation_id}/stream"))).status_code in {200, 204}


class TestPackage:
    def test_has_the_types_of_the_api_as_it_is(self, tmp_path: Path) -> None:
        npm.install(ai_sdk.PACKAGE)
        assert api_types.TYPES.read_text() == api_types.types(tmp_path / "openapi.json"), (
            "run .venv/bin/python -m website.api_types"
        )

    def test_needs_the_sdk_alone_and_brings_no_sources(self) -> None:
        with tarfile.open(ai_sdk.packed()) as archive:
            names = {name.removeprefix("package/") for name in archive.getnames()}
            manifest = json.load(archive.extractfile("package/package.json") or io.BytesIO())
        assert {name for name in names if not name.startswith("dist/")} == {
            *("LICENSE", "README.md", "package.json")
        }
        assert {Path(name).suffixes[-1] for name in names if name.startswith("dist/")} == {".js", ".ts"}
        assert list(manifest["peerDependencies"]) == ["ai"]
        assert "dependencies" not in manifest

    def test_is_typed(self, tmp_path: Path) -> None:
        ai_sdk.files_of_page(tmp_path)
        (tmp_path / "page.ts").write_text(TYPED)
        compiler = ai_sdk.PACKAGE / "node_modules/.bin/tsc"
        options = "--noEmit --strict --module nodenext --target es2023 --skipLibCheck"
        npm.run([str(compiler), *options.split(), "page.ts"], tmp_path)


class TestConversation:
    async def test_of_two_turns_with_reasoning_and_tools(self, chat: ChatOf, alice: Client) -> None:
        first = await chat.done("send", text=f"think Milk, then.\n{ADD}\nsay Anything else?")
        assert (first["status"], first["errors"]) == ("ready", [])
        answer = first["messages"][1]
        assert [part["type"] for part in answer["parts"]] == [
            *("step-start", "reasoning", "dynamic-tool", "step-start", "text"),
        ]
        assert answer["parts"][1]["text"] == "Milk, then."
        (tool,) = tools_of(answer)
        assert (tool["toolName"], tool["state"], tool["input"]) == (
            *("add_task", "output-available"),
            {"title": "milk"},
        )
        assert tool["output"]["title"] == "milk"
        assert text_of(answer) == "add_task: done. Anything else?"

        second = await chat.done("send", text="history")
        assert [message["role"] for message in second["messages"]] == ["user", "assistant"] * 2
        assert json.loads(text_of(second["messages"][3])) == [
            ["user", f"think Milk, then.\n{ADD}\nsay Anything else?"],
            ["assistant", "add_task: done. Anything else?"],
        ]
        stored = await alice.messages(first["conversation_id"])
        for number, history in ((1, 0), (3, 2)):
            assert second["messages"][number]["id"] == f"turn_{stored[number]['turn_id']}"
            assert second["messages"][number]["metadata"] == {
                "conversation_id": first["conversation_id"],
                "turn_id": stored[number]["turn_id"],
                "message_id": stored[number]["id"],
                "usage": {"input_tokens": history, "output_tokens": 1},
            }

    async def test_takes_messages_for_later_and_back_and_interrupts(
        self, chat: ChatOf, gate: Gate, alice: Client
    ) -> None:
        await chat("send", text=f"say Well,\ngate {chat.name}")
        conversation_id = (await chat("shows", text="Well,"))["conversation_id"]
        one = (await chat("queue", text="say one"))["queued"]
        two = (await chat("queue", text="say two"))["queued"]
        assert one == {"conversation_id": conversation_id, "turn_id": one["turn_id"], "queued": True}
        await chat("unqueue", turn=two["turn_id"])
        asked = [each["content"] for each in await alice.messages(conversation_id) if each["role"] == "user"]
        assert asked[1:] == ["say one"]
        state = await chat.done("interrupt", text="say three")
        assert text_of(state["messages"][-1]) == "three"
        asked = [each["content"] for each in await alice.messages(conversation_id) if each["role"] == "user"]
        assert asked[1:] == ["say three"]

    async def test_is_shown_as_it_is_said(self, chat: ChatOf, gate: Gate) -> None:
        await chat("send", text=f"say Once upon a time\ngate {chat.name}\nsay  there was.")
        state = await chat("shows", text="Once upon a time")
        assert not gate.opened.is_set()
        assert (state["status"], text_of(state["messages"][1])) == ("streaming", "Once upon a time")
        gate.opened.set()
        state = await chat("settled")
        assert (state["status"], text_of(state["messages"][1])) == ("ready", "Once upon a time there was.")

    async def test_begins_with_a_history_that_shows_the_last_of_several_answers(
        self, chat: ChatOf, driver: Driver, alice: Client
    ) -> None:
        conversation_id = (await chat.done("send", text="say 0"))["conversation_id"]
        state = await chat.done("send", text="say 1")
        await chat.done("regenerate", messageId=state["messages"][3]["id"])
        reloaded = await driver.open(alice.user_id, str(alice.base_url).rstrip("/"), conversation_id)
        messages = (await reloaded("history"))["messages"]
        assert [(message["role"], text_of(message)) for message in messages] == [
            *(("user", "say 0"), ("assistant", "0"), ("user", "say 1"), ("assistant", "1")),
        ]
        assert messages[3]["metadata"]["turn_id"] > state["turn_id"]
        state = await reloaded.done("send", text="say 2")
        assert text_of(state["messages"][-1]) == "2"


class TestFiles:
    async def test_are_uploaded_first_and_are_there_after_a_reload(
        self, chat: ChatOf, driver: Driver, alice: Client
    ) -> None:
        url = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
        picture = {"type": "file", "mediaType": "image/png", "filename": "a.png", "url": url}
        sent = await chat.done("send", text="files", files=[picture])
        assert (sent["status"], sent["errors"]) == ("ready", [])
        assert json.loads(text_of(sent["messages"][1])) == [["a.png", len(png())]]
        question = sent["messages"][0]["parts"]
        assert question[0]["url"].startswith(alice.mine("/files/"))
        reloaded = await driver.open(alice.user_id, str(alice.base_url).rstrip("/"), sent["conversation_id"])
        messages = (await reloaded("history"))["messages"]
        assert messages[0]["parts"] == question
        assert messages[1]["parts"] == sent["messages"][1]["parts"]
        edited = await reloaded.done("send", text="files", files=question[:1], messageId=messages[0]["id"])
        assert json.loads(text_of(edited["messages"][1])) == [["a.png", len(png())]]

    async def test_that_are_refused_are_an_error_and_nothing_is_sent(
        self, chat: ChatOf, alice: Client
    ) -> None:
        content = base64.b64encode(b"<svg/>").decode()
        picture = {"type": "file", "mediaType": "image/png", "url": f"data:image/png;base64,{content}"}
        refused = await chat.done("send", text="say Hello.", files=[picture])
        assert kind(refused["errors"][0]) == "file-kind-refused"
        assert (await chat("refused"))["refused"] is True
        assert (await alice.get(alice.mine("/conversations"))).json()["items"] == []
        after = await chat.done("send", text="say Hello.")
        assert text_of(after["messages"][-1]) == "Hello."


class TestResuming:
    async def test_after_a_drop_from_another_process(self, driver: Driver, empty_database_url: str) -> None:
        settings, name = settings_for(empty_database_url), f"alice-{uuid4().hex}"
        gate = CommandedAgent.gates[name]
        async with (
            serve(settings) as one,
            serve(settings) as other,
            proxy(int(one.rsplit(":", 1)[1])) as between,
            Client(other, name) as alice,
        ):
            chat = await driver.open(name, f"http://127.0.0.1:{between.port}")
            await chat("send", text=f"{ADD}\nsay Once upon a time\ngate {name}\nsay  there was.")
            await chat("shows", text="Once upon a time")
            between.cut()
            dropped = await chat("settled")
            assert dropped["status"] == "error"
            assert (await chat("lost"))["lost"] is True
            await chat("move", url=other, user=name)
            await chat("resume")
            state = await chat("shows", text="Once upon a time")
            assert not gate.opened.is_set()
            gate.opened.set()
            state = await chat("settled")
            assert (state["status"], len(state["messages"])) == ("ready", 2)
            answer = state["messages"][1]
            assert text_of(answer) == "add_task: done. Once upon a time there was."
            assert [tool["output"]["title"] for tool in tools_of(answer)] == ["milk"]
            stored = await alice.messages(state["conversation_id"])
            assert (stored[1]["content"], stored[1]["id"]) == (
                text_of(answer),
                answer["metadata"]["message_id"],
            )

    async def test_of_a_turn_that_has_ended_meanwhile(self, chat: ChatOf, gate: Gate, alice: Client) -> None:
        await chat("send", text=f"say Once\ngate {chat.name}\nsay  and for all.")
        state = await chat("shows", text="Once")
        await chat("stop")
        gate.opened.set()
        await ended(alice, state["conversation_id"])
        state = await chat.done("resume")
        assert text_of(state["messages"][1]) == "Once and for all."
        assert len(state["messages"]) == 2

    async def test_where_nothing_is_active_changes_nothing(self, driver: Driver, alice: Client) -> None:
        conversation_id = (await alice.said("say Hello."))["conversation_id"]
        chat = await driver.open(alice.user_id, str(alice.base_url).rstrip("/"), conversation_id)
        state = await chat.done("resume")
        assert (state["status"], state["messages"], state["errors"]) == ("ready", [], [])

    async def test_a_stream_that_ends_early_is_an_error(self, driver: Driver) -> None:
        """By itself the SDK takes a stream for whole that was cut where HTTP allows it."""
        async with answering() as url:
            chat = await driver.open(f"alice-{uuid4().hex}", url)
            state = await chat.done("send", text="say Hello.")
        assert (state["status"], [error["problem"] for error in state["errors"]]) == ("error", [None])
        assert (await chat("lost"))["lost"] is True


class TestStopping:
    async def test_by_a_cancel_ends_the_turn(self, chat: ChatOf, gate: Gate, alice: Client) -> None:
        await chat("send", text=f"say Once upon a time\n{ADD}\ngate {chat.name}\nsay there was.")
        await chat("shows", text="add_task: done")
        await chat("cancel")
        state = await chat("settled")
        assert (state["status"], state["errors"]) == ("ready", [])
        assert text_of(state["messages"][1]) == "Once upon a timeadd_task: done. "
        stored = await alice.messages(state["conversation_id"])
        assert [message["status"] for message in stored] == ["cancelled"] * 2
        assert stored[1]["content"] == text_of(state["messages"][1])
        assert not gate.opened.is_set()
        state = await chat.done("send", text="say Something else.")
        assert text_of(state["messages"][3]) == "Something else."

    async def test_before_the_turn_is_known_ends_it_when_it_is(self, chat: ChatOf, alice: Client) -> None:
        await chat("send", text=f"say Once\ngate {chat.name}")
        await chat("cancel")
        state = await chat("settled")
        assert (state["status"], state["errors"]) == ("ready", [])
        stored = await alice.messages(state["conversation_id"])
        assert {message["status"] for message in stored} == {"cancelled"}

    async def test_ends_no_turn_that_another_page_begins_later(
        self, chat: ChatOf, driver: Driver, alice: Client
    ) -> None:
        await chat("send", text=f"say Once\ngate {chat.name}-never")
        await chat("shows", text="Once")
        await chat("cancel")
        state = await chat("settled")
        text = f"say Next\ngate {chat.name}\nsay , and last."
        after = await followed(chat, driver, alice, state["conversation_id"], text, "Next")
        assert (text_of(after["messages"][-1]), after["cancels"]) == ("Next, and last.", [state["turn_id"]])

    async def test_by_a_hang_up_does_not(self, chat: ChatOf, gate: Gate, alice: Client) -> None:
        await chat("send", text=f"say Once\ngate {chat.name}\nsay  and for all.")
        state = await chat("shows", text="Once")
        await chat("stop")
        (running,) = await alice.messages(state["conversation_id"])
        assert running["status"] == "running"
        gate.opened.set()
        await ended(alice, state["conversation_id"])
        answered = await chat.done("send", text="say Next.")
        assert text_of(answered["messages"][-1]) == "Next."
        contents = [message["content"] for message in await alice.messages(state["conversation_id"])]
        assert contents[1:] == ["Once and for all.", "say Next.", "Next."]

    async def test_by_a_hang_up_and_a_message_at_once_ends_the_turn_before_it(
        self, chat: ChatOf, alice: Client
    ) -> None:
        await chat("send", text=f"say Once\ngate {chat.name}\nsay  and for all.")
        await chat("shows", text="Once")
        state = await chat.done("stopAndSend", text="say Next.")
        assert (state["status"], state["errors"]) == ("ready", [])
        assert [text_of(message) for message in state["messages"]][1:] == ["Once", "say Next.", "Next."]
        stored = await alice.messages(state["conversation_id"])
        assert [message["status"] for message in stored] == ["cancelled"] * 2 + ["completed"] * 2

    async def test_before_the_turn_is_known_and_a_message_at_once_ends_it_too(
        self, chat: ChatOf, alice: Client
    ) -> None:
        await chat("send", text=f"say Once\ngate {chat.name}")
        state = await chat.done("stopAndSend", text="say Next.")
        assert (state["status"], state["errors"]) == ("ready", [])
        stored = await alice.messages(state["conversation_id"])
        assert {message["status"] for message in stored if message["turn_id"] != state["turn_id"]} == {
            "cancelled"
        }
        assert (stored[-1]["content"], stored[-1]["status"]) == ("Next.", "completed")


class TestAnsweringAnew:
    async def test_replaces_the_answer(self, chat: ChatOf, alice: Client) -> None:
        await chat.done("send", text="say 0")
        before = await chat.done("send", text="history")
        after = await chat.done("regenerate", messageId=before["messages"][3]["id"])
        assert (after["status"], len(after["messages"])) == ("ready", 4)
        assert after["turn_id"] > before["turn_id"]
        assert text_of(after["messages"][3]) == text_of(before["messages"][3])
        stored = await alice.messages(after["conversation_id"])
        assert stored[-1]["alternative_of"] == before["turn_id"]

    @pytest.mark.parametrize("named", [None, 0, 1], ids=["no message", "the question", "the answer"])
    @pytest.mark.parametrize("reload", [False, True], ids=["at once", "after a reload"])
    async def test_asks_for_another_answer_whatever_message_is_named(
        self, chat: ChatOf, driver: Driver, alice: Client, named: int | None, *, reload: bool
    ) -> None:
        before = await chat.done("send", text="say Hello.")
        conversation_id = before["conversation_id"]
        if reload:
            chat = await driver.open(alice.user_id, str(alice.base_url).rstrip("/"), conversation_id)
            before |= {"messages": (await chat("history"))["messages"]}
        options = {} if named is None else {"messageId": before["messages"][named]["id"]}
        after = await chat.done("regenerate", **options)
        assert (after["status"], [text_of(message) for message in after["messages"]]) == (
            *("ready",),
            ["say Hello.", "Hello."],
        )
        stored = await alice.messages(conversation_id)
        assert len(stored) == 2
        assert stored[-1]["alternative_of"] == before["turn_id"]

    async def test_of_a_message_that_was_refused_sends_it(self, chat: ChatOf, alice: Client) -> None:
        """It has no turn; the one before it is not meant."""
        first = await chat.done("send", text="say 0")
        await alice.delete(alice.mine(f"/conversations/{first['conversation_id']}"))
        assert [kind(error) for error in (await chat.done("send", text="say 1"))["errors"]] == [
            "conversation-not-found"
        ]
        state = await chat.done("regenerate")
        assert [kind(error) for error in state["errors"]] == ["conversation-not-found"] * 2

    async def test_of_an_edited_message_replaces_both(self, chat: ChatOf) -> None:
        await chat.done("send", text="say 0")
        before = await chat.done("send", text="say Helo.")
        after = await chat.done("send", text="say Hello.", messageId=before["messages"][2]["id"])
        assert [text_of(message) for message in after["messages"]] == ["say 0", "0", "say Hello.", "Hello."]
        state = await chat.done("send", text="history")
        assert json.loads(text_of(state["messages"][-1]))[2:] == [
            ["user", "say Hello."],
            ["assistant", "Hello."],
        ]

    @pytest.mark.parametrize("reload", [False, True], ids=["at once", "after a reload"])
    async def test_is_found_from_the_messages_by_a_page_that_names_none(
        self, chat: ChatOf, driver: Driver, alice: Client, *, reload: bool
    ) -> None:
        """As assistant-ui does: it cuts the list itself, and an edited question has a new id."""
        before = await chat.done("send", text="say 0")
        before = await chat.done("send", text="say Helo.")
        if reload:
            chat = await driver.open(
                alice.user_id, str(alice.base_url).rstrip("/"), before["conversation_id"]
            )
            before |= {"messages": (await chat("history"))["messages"]}
        await chat("show", messages=before["messages"][:2])
        edited = await chat.done("send", text="once say Hello.\nsay Hi.")
        assert edited["errors"] == []
        await chat("show", messages=edited["messages"][:3])
        again = await chat.done("regenerate")
        assert again["errors"] == []
        assert [text_of(message) for message in again["messages"]][1:] == [
            *("0", "once say Hello.\nsay Hi.", "Hi."),
        ]
        stored = await alice.messages(before["conversation_id"])
        assert [message["content"] for message in stored][2:] == ["once say Hello.\nsay Hi.", "Hi."]
        assert stored[-1]["alternative_of"] == before["turn_id"]

    @pytest.mark.parametrize("reload", [False, True], ids=["at once", "after a reload"])
    @pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
    @pytest.mark.parametrize("edit", [False, True], ids=["another answer", "edited"])
    async def test_to_a_turn_that_is_not_the_last_is_refused_and_changes_nothing(
        self, chat: ChatOf, driver: Driver, alice: Client, *, edit: bool, named: bool, reload: bool
    ) -> None:
        await chat.done("send", text="say 0")
        before = await chat.done("send", text="say 1")
        conversation_id = before["conversation_id"]
        if reload:
            chat = await driver.open(alice.user_id, str(alice.base_url).rstrip("/"), conversation_id)
            before |= {"messages": (await chat("history"))["messages"]}
        question, answer = (message["id"] for message in before["messages"][:2])
        if not named:
            await chat("show", messages=before["messages"][: 0 if edit else 1])
        if edit:
            state = await chat.done("send", text="say 2", **({"messageId": question} if named else {}))
        else:
            state = await chat.done("regenerate", **({"messageId": answer} if named else {}))
        assert [kind(error) for error in state["errors"]] == ["turn-superseded"]
        assert (await chat("refused"))["refused"] is True
        stored = await alice.messages(conversation_id, alternatives=True)
        assert [message["content"] for message in stored] == ["say 0", "0", "say 1", "1"]
        assert len((await chat("history"))["messages"]) == 4
        state = await chat.done("send", text="say 2")
        assert len(await alice.messages(conversation_id)) == 6

    async def test_whose_old_answer_is_shown_takes_no_message_after_it(
        self, chat: ChatOf, alice: Client
    ) -> None:
        """A page that keeps branches can show it; the model is told the last answer all the same."""
        old = await chat.done("send", text="say 0")
        await chat.done("regenerate")
        await chat("show", messages=old["messages"])
        state = await chat.done("send", text="say 1")
        assert [kind(error) for error in state["errors"]] == ["turn-superseded"]
        assert (await chat("refused"))["refused"] is True
        assert len(await alice.messages(state["conversation_id"])) == 2
        state = await chat.done("regenerate", **AGAIN)
        assert [kind(error) for error in state["errors"]] == ["turn-superseded"] * 2
        assert len(await alice.messages(state["conversation_id"], alternatives=True)) == 4
        await chat("history")
        state = await chat.done("send", text="say 1")
        assert text_of(state["messages"][-1]) == "1"


@pytest.fixture(scope="module")
async def asking(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """A service whose deletions need approval."""
    path = tmp_path_factory.mktemp("asking") / "chatapi.db"
    async with serve(settings_for(f"sqlite:///{path}", tool_approval="destructive")) as url:
        yield url


@pytest.fixture
async def bob(asking: str) -> AsyncIterator[Client]:
    async with Client(asking, f"bob-{uuid4().hex}") as client:
        yield client


async def deletion(client: Client) -> str:
    """A message whose turn adds a task and asks whether it may delete another."""
    task = (await client.post(client.mine("/tasks"), json={"title": "bread"})).json()
    return f'{ADD}\nask delete_task {{"task_id": {task["id"]}}}\nwait\nsay So it is.'


def waiting_in(state: State) -> list[str]:
    """What is queued, as the page knows it."""
    assert {message["metadata"]["status"] for message in state["waiting"]} <= {"queued"}
    return [text_of(message) for message in state["waiting"]]


class TestQueue:
    async def test_is_read_in_order_when_the_page_is_free_whatever_ended_the_turn_before(
        self, chat: ChatOf, gate: Gate
    ) -> None:
        last = CommandedAgent.gates[f"{chat.name}-last"]
        await chat("send", text=f"say Once\ngate {chat.name}-never")
        await chat("queue", text="once fail\nsay Better.")  # the conversation's id is not known yet
        await chat("queue", text=f"say Last\ngate {chat.name}-last")
        state = await chat("shows", text="Once")
        assert waiting_in(state) == ["once fail\nsay Better.", f"say Last\ngate {chat.name}-last"]
        await chat("cancel")
        await chat("settled")
        state = await chat.done("next")
        assert [kind(error) for error in state["errors"]] == ["model-failed"]
        await chat("next")
        state = await chat("shows", text="Last")  # the stop was not meant for it
        assert waiting_in(state) == []
        last.opened.set()
        state = await chat("settled")
        assert [(message["role"], text_of(message)) for message in state["messages"]] == [
            *(("user", f"say Once\ngate {chat.name}-never"), ("assistant", "Once")),
            *(("user", "once fail\nsay Better."), ("assistant", "")),
            *(("user", f"say Last\ngate {chat.name}-last"), ("assistant", "Last")),
        ]
        assert state["status"] == "ready"

    async def test_whose_answer_failed_is_tried_again_as_itself(self, chat: ChatOf, gate: Gate) -> None:
        await chat("send", text=f"say Once\ngate {chat.name}")
        await chat("queue", text="once fail\nsay Better.")
        gate.opened.set()
        await chat("settled")
        await chat.done("next")
        state = await chat.done("regenerate", **AGAIN)
        assert [text_of(message) for message in state["messages"]][1:] == [
            "Once",
            "once fail\nsay Better.",
            "Better.",
        ]

    async def test_comes_after_the_history_and_is_news_when_it_changes_elsewhere(
        self, chat: ChatOf, driver: Driver, gate: Gate, alice: Client
    ) -> None:
        await chat("send", text=f"say Once\ngate {chat.name}")
        one = (await chat("queue", text="say one"))["queued"]
        state = await chat("queue", text="say two")
        other = await driver.open(alice.user_id, str(alice.base_url).rstrip("/"), state["conversation_id"])
        state = await other("history")
        assert text_of(state["messages"][0]) == f"say Once\ngate {chat.name}"
        assert waiting_in(state) == ["say one", "say two"]
        assert (await other("news"))["news"] is None
        await chat("unqueue", turn=one["turn_id"])
        assert (await other("news"))["news"] is not None
        assert waiting_in(await other("unqueue", turn=one["turn_id"])) == ["say two"]  # it is gone already
        await other("queue", text="say three")
        assert waiting_in(await chat("lookAtQueue")) == ["say two", "say three"]
        gate.opened.set()
        await chat("settled")
        while "two" not in [each["content"] for each in await alice.messages(state["conversation_id"])]:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)
        assert waiting_in(await other("unqueue", turn=state["waiting"][1]["metadata"]["turn_id"])) == [
            *("say two", "say three"),  # it has begun, and is read
        ]
        await other("next")
        state = await other("settled")
        assert text_of(state["messages"][-1]) == "two"

    async def test_takes_a_message_once_though_its_first_request_was_lost(
        self, driver: Driver, alice: Client, gate: Gate
    ) -> None:
        url = str(alice.base_url).rstrip("/")
        async with proxy(int(url.rsplit(":", 1)[1])) as between:
            chat = await driver.open(alice.user_id, f"http://127.0.0.1:{between.port}")
            await chat("send", text=f"say Once\ngate {chat.name}")
            await chat("shows", text="Once")
            between.cut_at(b'"when_busy":"queue"')
            with pytest.raises(AssertionError, match="fetch failed"):
                await chat("queue", text="say one")
            state = await chat("queue", text="say one")
        assert waiting_in(state) == ["say one"]
        asked = [each["content"] for each in await alice.messages(state["conversation_id"])]
        assert asked.count("say one") == 1
        gate.opened.set()

    async def test_may_be_passed_by_a_message_that_ends_what_runs_elsewhere(
        self, chat: ChatOf, driver: Driver, alice: Client
    ) -> None:
        await chat("send", text=f"say Once\ngate {chat.name}")
        state = await chat("shows", text="Once")
        other = await driver.open(alice.user_id, str(alice.base_url).rstrip("/"), state["conversation_id"])
        await other("history")
        refused = await other.done("send", text="say Now.")
        assert [kind(error) for error in refused["errors"]] == ["turn-in-progress"]
        state = await other.done("send", text="say Now.", metadata={"whenBusy": "interrupt"})
        assert text_of(state["messages"][-1]) == "Now."
        assert (await chat("settled"))["status"] == "ready"


class TestAnswers:
    """A turn that waits, answered from the page: one request goes out, and no other."""

    @pytest.mark.parametrize("reload", [False, True], ids=["at once", "after a reload"])
    @pytest.mark.parametrize("approved", [True, False], ids=["yes", "no"])
    async def test_go_on_with_the_turn(
        self, driver: Driver, asking: str, bob: Client, *, approved: bool, reload: bool
    ) -> None:
        chat = await driver.open(bob.user_id, asking)
        asked = await chat.done("send", text=await deletion(bob))
        assert (asked["status"], asked["messages"][1]["metadata"]["waiting"]) == ("ready", True)
        if reload:
            chat = await driver.open(bob.user_id, asking, asked["conversation_id"])
            assert (await chat("history"))["messages"][1:] == asked["messages"][1:]
        _, call = tools_of(asked["messages"][1])
        reason = {} if approved else {"reason": "I need it."}
        state = await chat.done("approve", id=call["approval"]["id"], approved=approved, **reason)
        assert (state["status"], state["errors"]) == ("ready", [])
        answer = state["messages"][1]
        assert text_of(answer).endswith("So it is.")
        assert tools_of(answer)[1]["state"] == ("output-available" if approved else "output-denied")
        assert (answer["metadata"]["waiting"], state["turn_id"]) == (False, asked["turn_id"])
        stored = await bob.messages(asked["conversation_id"], format="ui")
        assert stored[1] == answer
        assert len((await bob.get(bob.mine("/tasks"))).json()["items"]) == (1 if approved else 2)

    async def test_of_the_pages_own_tools_are_what_it_made_of_them(
        self, driver: Driver, asking: str, bob: Client
    ) -> None:
        clock = {"name": "time_zone", "description": "", "parameters": {"type": "object"}}
        chat = await driver.open(bob.user_id, asking, client_tools=[clock])
        asked = await chat.done("send", text=f"{ADD}\nask time_zone {{}}\nwait\nsay Thanks.")
        call = tools_of(asked["messages"][1])[1]
        state = await chat.done(
            "output", tool="time_zone", toolCallId=call["toolCallId"], output={"zone": "UTC"}
        )
        assert (state["status"], state["errors"]) == ("ready", [])
        assert text_of(state["messages"][1]).endswith("Thanks.")
        (_, stored) = await bob.messages(asked["conversation_id"])
        assert [each["result"] for each in stored["tool_calls"]][1:] == [{"zone": "UTC"}]
        again = await chat.done("regenerate")
        assert again["messages"][1]["metadata"]["waiting"] is True

    async def test_that_come_too_late_are_an_error_and_are_not_sent_for_ever(
        self, driver: Driver, asking: str, bob: Client
    ) -> None:
        chat = await driver.open(bob.user_id, asking)
        asked = await chat.done("send", text=await deletion(bob))
        await bob.post(bob.mine(f"/turns/{asked['turn_id']}/cancel"))
        call = tools_of(asked["messages"][1])[1]
        state = await chat.done("approve", id=call["approval"]["id"], approved=True)
        assert [kind(error) for error in state["errors"]] == ["not-waiting"]
        assert (await chat("refused"))["refused"] is True
        messages = (await chat("history"))["messages"]
        assert tools_of(messages[1])[1]["state"] == "output-denied"
        state = await chat.done("send", text="say Next.")
        assert text_of(state["messages"][-1]) == "Next."


class TestHistory:
    @pytest.mark.parametrize(
        "said",
        [
            "say Hello.",
            f"{ADD}\nsay Anything else?",
            f"{ADD}\n{ADD}",
            'call complete_task {"task_id": 999}',
        ],
        ids=["text", "a tool", "two tools", "a tool that fails"],
    )
    async def test_gives_back_what_was_streamed(
        self, chat: ChatOf, driver: Driver, alice: Client, said: str
    ) -> None:
        """To the letter, the ids of the page's own questions apart."""
        live = await chat.done("send", text=said)
        conversation_id, turn_id = live["conversation_id"], live["turn_id"]
        reloaded = await driver.open(alice.user_id, str(alice.base_url).rstrip("/"), str(conversation_id))
        question, answer = (await reloaded("history"))["messages"]
        assert answer == live["messages"][1]
        assert (question["id"], text_of(question)) == (f"question_{turn_id}", said)
        state = await reloaded.done("send", text="history")
        assert len(state["messages"]) == 4

    async def test_says_what_became_of_a_turn(self, chat: ChatOf) -> None:
        await chat.done("send", text="fail")
        (question,) = (await chat("history"))["messages"]
        assert question["metadata"]["status"] == "failed"

    async def test_has_news_when_another_page_has_gone_on(
        self, chat: ChatOf, driver: Driver, gate: Gate, alice: Client
    ) -> None:
        conversation_id = (await chat.done("send", text="say 0"))["conversation_id"]
        other = await driver.open(alice.user_id, str(alice.base_url).rstrip("/"), conversation_id)
        await other("history")
        assert (await other("news"))["news"] is None
        await chat("send", text=f"say Once\ngate {chat.name}\nsay  more.")
        await chat("shows", text="Once")
        messages = (await other("news"))["news"]
        assert [text_of(message) for message in messages][:2] == ["say 0", "0"]
        await other("show", messages=messages)
        await other("resume")
        await other("shows", text="Once")
        gate.opened.set()
        state = await other("settled")
        assert text_of(state["messages"][3]) == "Once more."
        assert (await other("news"))["news"] is None

    async def test_has_news_of_a_turn_that_ended_while_its_stream_was_cut(
        self, driver: Driver, alice: Client, gate: Gate
    ) -> None:
        url = str(alice.base_url).rstrip("/")
        async with proxy(int(url.rsplit(":", 1)[1])) as between:
            chat = await driver.open(alice.user_id, f"http://127.0.0.1:{between.port}")
            await chat("send", text=f"say Once\ngate {chat.name}\nsay  and for all.")
            state = await chat("shows", text="Once")
            between.cut()
            await chat("settled")
            gate.opened.set()
            await ended(alice, state["conversation_id"])
            between.heal()
            messages = (await chat("news"))["news"]
            assert text_of(messages[-1]) == "Once and for all."
            assert (await chat("news"))["news"] is None
            state = await chat.done("resume")  # as the SDK does by itself when the page is shown again
        assert text_of(state["messages"][-1]) == "Once and for all."


class TestErrors:
    async def test_in_a_stream_keep_what_was_said(self, chat: ChatOf) -> None:
        state = await chat.done("send", text="say So far, so good\nfail")
        assert state["status"] == "error"
        (error,) = state["errors"]
        assert error["message"] == "The model is having a bad day."
        assert error["problem"] == {
            "type": "urn:chatapi:problem:model-failed",
            "title": "The model failed",
            "status": 502,
            "detail": "The model is having a bad day.",
            "turn_id": state["turn_id"],
            "conversation_id": state["conversation_id"],
        }
        assert text_of(state["messages"][1]) == "So far, so good"
        assert (await chat("lost"))["lost"] is False

    async def test_before_a_stream_are_problems_too(self, chat: ChatOf) -> None:
        state = await chat.done("send", text=" ")
        assert (state["status"], kind(state["errors"][0]), state["turn_id"]) == (
            *("error", "validation-failed"),
            None,
        )

    async def test_of_a_file_are_told_before_anything_is_sent(self, chat: ChatOf, alice: Client) -> None:
        picture = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,iVBORw0KGgo="}
        state = await chat.done("send", text="say Look.", files=[picture])
        assert [kind(error) for error in state["errors"]] == ["file-kind-refused"]  # half a picture
        assert (await alice.get(alice.mine("/conversations"))).json()["items"] == []

    @pytest.mark.parametrize(
        ("stub", "message"),
        [
            ({"body": "{}", "media_type": "application/json"}, "The answer is no event stream."),
            ({"body": "<h1>Bad</h1>", "status": "502 Bad Gateway", "media_type": "text/html"}, "HTTP 502"),
            ({"goes_silent": True}, "network: the stream is silent"),
        ],
        ids=["JSON, where Accept was lost", "a proxy's page", "silence"],
    )
    async def test_of_what_is_between_are_told(
        self, driver: Driver, stub: dict[str, Any], message: str
    ) -> None:
        async with answering(**stub) as url:
            chat = await driver.open("alice", url, silence=200)
            state = await chat.done("send", text="say Hello.")
        assert state["status"] == "error"
        (error,) = state["errors"]
        assert (error["message"].startswith(message), error["problem"]) == (True, None)

    async def test_go_away_when_the_same_is_sent_again(self, chat: ChatOf, alice: Client) -> None:
        """The first message of a conversation, which has its id by then, and must not say so."""
        failed = await chat.done("send", text=f"{ADD}\nonce fail\nsay Better.")
        state = await chat.done("regenerate", **AGAIN)
        assert (state["status"], state["turn_id"]) == ("ready", failed["turn_id"])
        assert text_of(state["messages"][1]) == "add_task: done. Better."
        assert len(await alice.messages(state["conversation_id"])) == 2
        assert len((await alice.get(alice.mine("/tasks"))).json()["items"]) == 1

    async def test_of_a_turn_that_was_resumed_after_a_reload_go_away_by_another_answer(
        self, chat: ChatOf, driver: Driver, gate: Gate, alice: Client
    ) -> None:
        """The key went with the page; to resume would tell the same error again and again."""
        failing = f"say So far.\nonce gate {chat.name}\nonce fail {chat.name}\nsay Better."
        await chat("send", text=failing)
        await gate.reached.wait()
        (conversation,) = (await alice.get(alice.mine("/conversations"))).json()["items"]
        reloaded = await driver.open(chat.name, str(alice.base_url).rstrip("/"), conversation["id"])
        await reloaded("history")
        await reloaded("resume")
        await reloaded("shows", text="So far.")
        gate.opened.set()
        failed = await reloaded("settled")
        assert [kind(error) for error in failed["errors"]] == ["model-failed"]
        assert (await reloaded("lost"))["lost"] is False
        state = await reloaded.done("regenerate", **AGAIN)
        assert (state["status"], text_of(state["messages"][-1])) == ("ready", "So far.Better.")
        stored = await alice.messages(conversation["id"])
        assert (len(stored), stored[-1]["alternative_of"]) == (2, failed["turn_id"])

    async def test_of_a_turn_that_another_page_has_begun_go_away_by_another_answer_to_it(
        self, chat: ChatOf, driver: Driver, alice: Client
    ) -> None:
        """This page has a key, but that of an older message."""
        conversation_id = (await chat.done("send", text="say One."))["conversation_id"]
        text = f"say So far.\nonce gate {chat.name}\nonce fail {chat.name}\nsay Better."
        failed = await followed(chat, driver, alice, conversation_id, text, "So far.")
        assert [kind(error) for error in failed["errors"]] == ["model-failed"]
        state = await chat.done("regenerate", **AGAIN)
        assert [text_of(message) for message in state["messages"]][1::2] == ["One.", "So far.Better."]
        stored = await alice.messages(conversation_id)
        assert (len(stored), stored[-1]["alternative_of"]) == (4, failed["turn_id"])

    async def test_of_the_network_go_away_when_the_same_is_sent_again_elsewhere(
        self, driver: Driver, empty_database_url: str
    ) -> None:
        settings, name = settings_for(empty_database_url), f"alice-{uuid4().hex}"
        async with (
            serve(settings) as one,
            serve(settings) as other,
            proxy(int(one.rsplit(":", 1)[1])) as between,
            Client(other, name) as alice,
        ):
            chat = await driver.open(name, f"http://127.0.0.1:{between.port}")
            await chat("send", text=f"say Once\ngate {name}\nsay  and for all.")
            running = await chat("shows", text="Once")
            between.cut()
            await chat("settled")
            await chat("move", url=other, user=name)
            await chat("regenerate", **AGAIN)
            CommandedAgent.gates[name].opened.set()
            state = await chat("settled")
            assert (state["status"], state["turn_id"]) == ("ready", running["turn_id"])
            assert text_of(state["messages"][1]) == "Once and for all."
            assert len(await alice.messages(state["conversation_id"])) == 2


SAID: dict[str, tuple[str, list[str], list[str]]] = {
    "text": ("say Hello\nsay , you.", ["step-start", "text"], []),
    "reasoning": ("think Hm.\nthink  Ah.\nsay Hello.", ["step-start", "reasoning", "text"], []),
    "a tool": (ADD, ["step-start", "dynamic-tool", "step-start", "text"], []),
    "a tool that fails": (
        'call complete_task {"task_id": 999}',
        ["step-start", "dynamic-tool", "step-start", "text"],
        [],
    ),
    "several steps": (
        f"think Hm.\nsay First.\n{ADD}\nthink Ah.\n{ADD}\ncall list_tasks {{}}\nsay Done.",
        [
            *("step-start", "reasoning", "text", "dynamic-tool"),
            *("step-start", "text", "reasoning", "dynamic-tool"),
            *("step-start", "text", "dynamic-tool", "step-start", "text"),
        ],
        [],
    ),
    "failure": ("say So far\nfail", ["step-start", "text"], ["The model is having a bad day."]),
    "failure at once": ("crash", [], ["The model failed to answer."]),
}


class TestParser:
    """The SDK's schema of chunks, and its reader of messages, over what a turn can be."""

    @pytest.mark.parametrize("name", SAID)
    async def test_takes(self, driver: Driver, alice: Client, name: str) -> None:
        said, parts, errors = SAID[name]
        sent: dict[str, Any] = {
            "json": {"message": said},
            "headers": {"Accept": "text/event-stream", "Idempotency-Key": uuid4().hex},
        }
        first = await alice.post("/api/chat", **sent)
        read = await driver("parse", text=first.text)
        assert read["errors"] == errors
        assert [part["type"] for part in read["message"]["parts"]] == parts
        assert {part.get("state") for part in read["message"]["parts"]} <= {
            *(None, "done", "output-available", "output-error"),
        }
        metadata = read["message"]["metadata"]
        url = alice.mine(f"/chat/{metadata['conversation_id']}/stream")
        resumed = await driver(
            "parse", text=(await alice.get(url, params={"turn_id": metadata["turn_id"]})).text
        )
        assert resumed["errors"] == errors
        if errors:
            assert (await alice.get(url)).status_code == 204
            return
        stored = (await alice.messages(metadata["conversation_id"]))[1]
        replay = await alice.post("/api/chat", **sent)
        assert replay.headers["Idempotent-Replayed"] == "true"
        replayed = await driver("parse", text=replay.text)
        for message in (read["message"], resumed["message"], replayed["message"]):
            assert text_of(message) == stored["content"]
            assert message["metadata"] == metadata
            assert [
                (
                    tool["toolCallId"],
                    tool["toolName"],
                    tool["input"],
                    tool.get("output"),
                    tool.get("errorText"),
                )
                for tool in tools_of(message)
            ] == [
                (call["id"], call["name"], call["arguments"], call.get("result"), call.get("error"))
                for call in stored["tool_calls"]
            ]
        assert first.text.rstrip().endswith("data: [DONE]")

    async def test_takes_a_turn_that_is_cancelled_in_the_middle_of_a_tool(
        self, driver: Driver, alice: Client
    ) -> None:
        """The call has no outcome, and the text before it is closed."""
        turn = asyncio.create_task(
            alice.post(
                "/api/chat",
                json={"message": f"say Once\ncall no_such_tool {{}}\ngate {alice.user_id}"},
                headers={"Accept": "text/event-stream"},
            )
        )
        await CommandedAgent.gates[alice.user_id].reached.wait()
        (conversation,) = (await alice.get(alice.mine("/conversations"))).json()["items"]
        (running,) = await alice.messages(conversation["id"])
        await alice.post(alice.mine(f"/turns/{running['turn_id']}/cancel"))
        read = await driver("parse", text=(await turn).text)
        assert read["errors"] == []
        assert read["chunks"][-1]["type"] == "abort"
        assert [tool["state"] for tool in tools_of(read["message"])] == ["output-error"]
        assert text_of(read["message"]).startswith("Once")


@pytest.mark.parametrize(
    ("node", "sdk"),
    [
        (ai_sdk.NEWEST, "locked"),
        (ai_sdk.NODE_22, "as documented"),
        (ai_sdk.NODE_20, "locked"),
        (ai_sdk.NODE_20, "six"),
    ],
    ids=["newest Node", "Node 22, installed by the page's command", "Node 20", "Node 20 and AI SDK 6"],
)
async def test_the_component_does_what_its_buttons_say(tmp_path: Path, node: str, sdk: str) -> None:
    settings = settings_for(
        f"sqlite:///{tmp_path}/chatapi.db", cors_origins="http://localhost", tool_approval="destructive"
    )
    page = await asyncio.to_thread(page_with, tmp_path, node, sdk)
    (page / "page.mjs").write_text((ai_sdk.PROJECT / "page.mjs").read_text())
    name = f"alice-{uuid4().hex}"
    async with serve(settings) as url, Client(url, name) as alice:
        process = await ai_sdk.node(
            page,
            "page.mjs",
            json.dumps({"url": url, "user": name, "token": token_for(name)}),
            which=node,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        printed, _ = await process.communicate()
        assert process.returncode == 0, printed.decode()
        steps = json.loads(printed.splitlines()[-1])
        first = [ADD, "add_task: output-availableadd_task: done. "]
        assert steps["sent"] == first
        assert steps["second"] == steps["anew"] == [*first, "say Hello.", "Hello."]
        edited = [*first, "say Goodbye.", "Goodbye."]
        assert steps["edited"] == edited
        assert steps["stopped"][:4] == edited
        assert steps["stopped"][5] == "OnceThe answer was stopped."
        assert steps["alert"] == ["The model is having a bad day."]
        assert steps["again"][7] == "Better."
        # Nothing else: a stream that is resumed beside the one that is read shows its answer twice.
        assert [path for path in steps["asked"] if "/stream" in path] == []
        assert steps["news"][8:] == ["say Elsewhere.", "Elsewhere."]
        assert steps["news"][:2] == first
        assert steps["news"][5] == "OnceThe answer was stopped."
        alert, *shown = steps["refused"]
        assert alert == "The conversation has gone on since; only its last turn can be answered anew."
        assert steps["followed"][:10] == steps["news"]
        assert steps["followed"][11] == "Far awayThe answer was stopped."
        assert shown[:10] == steps["news"]
        assert shown[11:] == ["Far awayThe answer was stopped.", "say Elsewhere again.", "Elsewhere again."]
        assert steps["unauthenticated"] == shown
        assert steps["draft"] == ["say Mine."]
        assert steps["reloaded"] == [*shown, "say And again.", "And again.", "say A dot.", "A dot."]
        assert steps["picture"] == ["dot.gif", 24]
        assert steps["denied"][1].startswith("delete_task: output-denied")
        assert steps["late"][1].startswith("delete_task: output-denied")
        assert len((await alice.get(alice.mine("/tasks"))).json()["items"]) == 1


async def test_assistant_ui_works_with_the_transport(tmp_path: Path) -> None:
    settings = settings_for(
        f"sqlite:///{tmp_path}/chatapi.db", cors_origins="http://localhost", tool_approval="destructive"
    )
    await asyncio.to_thread(ai_sdk.files_of_page, tmp_path)
    (tmp_path / "assistant.mjs").write_text((ai_sdk.PROJECT / "assistant.mjs").read_text())
    name = f"alice-{uuid4().hex}"
    async with serve(settings) as url, Client(url, name) as alice:
        page = json.dumps({"url": url, "user": name, "token": token_for(name)})
        process = await ai_sdk.node(
            tmp_path, "assistant.mjs", page, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        printed, _ = await process.communicate()
        assert process.returncode == 0, printed.decode()
        steps = json.loads(printed.splitlines()[-1])
        assert steps["sent"][0] == ADD
        assert '"title":"milk"' in steps["sent"][1]
        assert steps["second"][2:] == steps["anew"][2:] == ["say Hello.", "Hello."]
        assert steps["edited"][2:] == ["say Goodbye.", "Goodbye."]
        assert steps["stopped"][:4] == steps["edited"]
        (conversation,) = (await alice.get(alice.mine("/conversations"))).json()["items"]
        assert conversation["title"] == ADD
        stored = await alice.messages(conversation["id"], alternatives=True)
        asked = [message for message in stored if message["role"] == "user"]
        assert [message["content"] for message in asked[:5]] == [
            *(ADD, "say Hello.", "say Hello.", "say Goodbye.", f"say Once\ngate {name}"),
        ]
        assert asked[4]["status"] == "cancelled"
        assert steps["denied"].endswith("The user did not allow this call: No.. So it is.")
        assert steps["approved"].endswith("delete_task: done. So it is.")
        assert steps["later"].endswith("delete_task: done. So it is.")
        assert (await alice.get(alice.mine("/tasks"))).json()["items"] == []
        assert steps["files"] == ['[["dot.gif", 24]]']
        assert steps["pictures"] == [[["dot.gif", 24]]] * 2
        assert steps["seen"][-1] == 'Seen.[["dot.gif", 24]]'
        assert [[file["name"] for file in message["files"]] for message in asked[-2:]] == [["dot.gif"]] * 2


def page_with(directory: Path, node: str, sdk: str) -> Path:
    """A folder with the page's files, from which its packages are found."""
    ai_sdk.files_of_page(directory)
    match sdk:
        case "as documented":
            return ai_sdk.install_as_documented(directory, node)
        case "six":
            return ai_sdk.install_six(directory)
    return directory


async def test_the_reader_without_the_sdk_reads(tmp_path: Path, alice: Client) -> None:
    await asyncio.to_thread(ai_sdk.files_of_page, tmp_path)
    program = (
        'import { read } from "./read.js";\n'
        "const [url, token, message, silence] = process.argv.slice(2);\n"
        "const chunks = [];\n"
        "try { for await (const chunk of read(url, token, message, silence)) chunks.push(chunk); }\n"
        "catch (error) { chunks.push({ type: error.message }); }\n"
        "console.log(JSON.stringify(chunks));\n"
    )
    (tmp_path / "main.js").write_text(program)

    async def read(
        message: str, url: str = str(alice.base_url).rstrip("/"), *silence: str
    ) -> list[dict[str, Any]]:
        arguments = (url, token_for(alice.user_id), message, *silence)
        process = await ai_sdk.node(tmp_path, "main.js", *arguments, stdout=subprocess.PIPE)
        printed, _ = await process.communicate()
        chunks: list[dict[str, Any]] = json.loads(printed)
        return chunks

    chunks = await read(f"think Hm.\n{ADD}\nsay Größe 💡 {'ü' * 5_000}")
    assert [chunks[0]["type"], chunks[-1]["type"]] == ["start", "finish"]
    text = "".join(chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta")
    assert text == f"add_task: done. Größe 💡 {'ü' * 5_000}"
    async with answering() as url:
        _, cut = await read("say Hello.", url)
    assert cut["type"] == "The stream was cut; the turn goes on."
    async with answering(goes_silent=True) as url:
        *_, silent = await read("say Hello.", url, "200")
    assert silent["type"] == "The stream is silent; the turn goes on."
    (refused,) = await read("")
    assert refused["type"].startswith("message: ")
