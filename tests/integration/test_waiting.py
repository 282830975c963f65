"""A turn that waits: for its user's approval of a call, or for a call that the caller carries out itself."""

import asyncio
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from sqlalchemy import update

from chatapi.db.models import Wait
from chatapi.db.owner import EVERYONE
from chatapi.offline import OfflineAgent
from chatapi.turns import retention
from chatapi.turns.store import waits
from tests.support.agents import CommandedAgent
from tests.support.databases import open_database
from tests.support.serving import SLOW_MACHINE, Client, serve, settings_for
from tests.support.sse import STREAM, chunks_of, resumed, streamed, text_of, types_of
from tests.support.statements import sent_for_requests

DELETE = 'ask delete_task {"task_id": %d}\nwait\nsay So it is.'
CLOCK = {"name": "time_zone", "description": "The user's time zone", "parameters": {"type": "object"}}
ASK_TASK = 'ask add_task {"title": "milk"}\nwait\nsay Done.'
ASK_CLOCK = "ask time_zone {}\nwait\nsay Thanks."


@pytest.fixture(scope="module")
async def asking(new_database: Callable[[], str]) -> AsyncIterator[str]:
    """A service whose deletions need approval; yields its base URL."""
    url = await asyncio.to_thread(new_database)
    async with serve(settings_for(url, tool_approval="destructive")) as base_url:
        yield base_url


@pytest.fixture
async def bob(asking: str, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with Client(asking, f"bob-{request.node.name}".replace("/", " ")[:120]) as client:
        yield client


async def task_of(client: Client, title: str = "milk") -> int:
    return int((await client.post(client.mine("/tasks"), json={"title": title})).json()["id"])


async def titles_of(client: Client) -> list[str]:
    return [task["title"] for task in (await client.get(client.mine("/tasks"))).json()["items"]]


async def answer(client: Client, turn_id: int, *answers: dict[str, Any], **options: Any) -> httpx.Response:
    return await client.post(
        client.mine(f"/turns/{turn_id}/answers"), json={"answers": list(answers)}, **options
    )


async def answered_stream(client: Client, turn_id: int, *answers: dict[str, Any]) -> list[dict[str, Any]]:
    async with client.stream(
        "POST", client.mine(f"/turns/{turn_id}/answers"), json={"answers": list(answers)}, headers=STREAM
    ) as response:
        return [chunk async for chunk in chunks_of(response, goes_on=True)]


class TestApproval:
    async def test_is_asked_for_and_the_call_is_made_once_it_is_given(self, bob: Client) -> None:
        task_id = await task_of(bob)
        asked = await bob.chat(DELETE % task_id)
        waiting = asked.json()
        (pending,) = waiting["pending"]
        assert (asked.status_code, waiting["status"], waiting["tool_calls"]) == (202, "waiting", [])
        assert (pending["kind"], pending["name"]) == ("approval", "delete_task")
        assert pending["arguments"] == {"task_id": task_id}
        assert pending["expires_at"]
        assert await titles_of(bob) == ["milk"]
        done = await answer(bob, waiting["turn_id"], {"id": pending["id"], "approved": True})
        assert (done.status_code, done.json()["response"]) == (200, "delete_task: done. So it is.")
        assert done.json()["turn_id"] == waiting["turn_id"]
        assert await titles_of(bob) == []
        assert done.json()["tool_calls"][0]["result"]["title"] == "milk"

    async def test_is_journaled_with_its_effect_and_shown_with_its_answer(self, bob: Client) -> None:
        waiting = (await bob.chat(DELETE % await task_of(bob))).json()
        (pending,) = waiting["pending"]
        yes = {"id": pending["id"], "approved": True, "reason": "tidy"}
        await answer(bob, waiting["turn_id"], yes)
        _, shown = await bob.messages(waiting["conversation_id"], format="ui")
        step, tool, *_ = shown["parts"]
        assert step == {"type": "step-start"}
        assert (tool["state"], tool["approval"]) == (
            "output-available",
            {"id": pending["id"], "approved": True, "reason": "tidy"},
        )
        assert shown["metadata"]["waiting"] is False

    async def test_that_is_denied_is_told_to_the_model_with_the_reason(self, bob: Client) -> None:
        waiting = (await bob.chat(DELETE % await task_of(bob))).json()
        (pending,) = waiting["pending"]
        no = {"id": pending["id"], "approved": False, "reason": "I need it."}
        done = (await answer(bob, waiting["turn_id"], no)).json()
        assert done["response"] == "delete_task: The user did not allow this call: I need it.. So it is."
        assert await titles_of(bob) == ["milk"]
        _, shown = await bob.messages(waiting["conversation_id"], format="ui")
        assert shown["parts"][1]["state"] == "output-denied"
        assert shown["parts"][1]["approval"] == {
            "id": pending["id"],
            "approved": False,
            "reason": "I need it.",
        }

    async def test_is_not_asked_for_where_the_call_cannot_be_made_anyway(self, bob: Client) -> None:
        done = await bob.said('ask delete_task {"task_id": "x"}\nwait\nsay Well.')
        assert done["response"].startswith("delete_task: task_id: Expected `int`")

    async def test_is_refused_for_an_assistant_that_cannot_wait(self, bob: Client) -> None:
        task_id = await task_of(bob)
        done = await bob.said(f'call delete_task {{"task_id": {task_id}}}')
        assert "for which this assistant cannot wait" in done["response"]
        assert await titles_of(bob) == ["milk"]

    async def test_of_several_calls_goes_on_when_all_are_answered(self, bob: Client) -> None:
        first, second = await task_of(bob, "milk"), await task_of(bob, "bread")
        message = (
            f'ask delete_task {{"task_id": {first}}}\nask add_task {{"title": "tea"}}\n'
            f'ask delete_task {{"task_id": {second}}}\nwait\nsay All done.'
        )
        waiting = (await bob.chat(message)).json()
        assert [call["name"] for call in waiting["tool_calls"]] == ["add_task"]
        assert await titles_of(bob) == ["milk", "bread", "tea"]
        one, other = (pending["id"] for pending in waiting["pending"])
        some = await answer(bob, waiting["turn_id"], {"id": one, "approved": True})
        assert (some.status_code, [each["id"] for each in some.json()["pending"]]) == (200, [other])
        assert await titles_of(bob) == ["milk", "bread", "tea"]
        chunks = await answered_stream(bob, waiting["turn_id"], {"id": other, "approved": False})
        assert [chunk["type"] for chunk in chunks if "output" in chunk["type"]] == [
            "tool-output-available",
            "tool-output-denied",
        ]
        assert await titles_of(bob) == ["bread", "tea"]

    async def test_is_shown_with_the_answers_that_are_there(self, bob: Client) -> None:
        """In the message and in the stream, while others are missing, and while the turn goes on."""
        gate = CommandedAgent.gates[bob.user_id]
        message = (
            f'ask delete_task {{"task_id": {await task_of(bob)}}}\nask time_zone {{}}\nask time_zone {{}}\n'
            f"wait\ngate {bob.user_id}\nsay Done."
        )
        body = {"message": message, "client_tools": [CLOCK]}
        waiting = (await bob.post(bob.mine("/chat"), json=body)).json()
        approval, clock, last = waiting["pending"]
        no = {"id": approval["id"], "approved": False, "reason": "No."}
        some = await answer(bob, waiting["turn_id"], no, {"id": clock["id"], "output": [1]})
        assert [call["result"] for call in some.json()["tool_calls"]] == [[1]]

        async def states() -> list[str]:
            _, shown = await bob.messages(waiting["conversation_id"], format="ui")
            return [part["state"] for part in shown["parts"] if part["type"] == "dynamic-tool"]

        assert await states() == ["approval-responded", "output-available", "input-available"]
        stream = await resumed(bob, waiting["conversation_id"])
        assert [
            chunk["type"] for chunk in stream if "response" in chunk["type"] or "output" in chunk["type"]
        ] == [
            *("tool-approval-response", "tool-output-available"),
        ]
        rest = asyncio.create_task(answer(bob, waiting["turn_id"], {"id": last["id"], "error": "No clock."}))
        await gate.reached.wait()
        assert await states() == ["approval-responded", "output-available", "output-error"]
        gate.opened.set()
        assert (await rest).json()["response"].endswith("Done.")
        assert await states() == ["output-denied", "output-available", "output-error"]

    async def test_may_be_asked_for_again_in_the_same_turn(self, bob: Client) -> None:
        first, second = await task_of(bob, "milk"), await task_of(bob, "bread")
        asks = [f'ask delete_task {{"task_id": {task_id}}}\nwait' for task_id in (first, second)]
        waiting = (await bob.chat("\n".join([*asks, "say Done."]))).json()
        again = await answer(bob, waiting["turn_id"], {"id": waiting["pending"][0]["id"], "approved": True})
        assert (again.status_code, again.json()["turn_id"]) == (202, waiting["turn_id"])
        assert await titles_of(bob) == ["bread"]
        last = {"id": again.json()["pending"][0]["id"], "approved": True}
        done = await answer(bob, waiting["turn_id"], last)
        assert done.json()["response"] == "delete_task: done. delete_task: done. Done."
        assert len(done.json()["tool_calls"]) == 2
        assert len(await bob.messages(waiting["conversation_id"])) == 2


class TestOffline:
    async def test_asks_in_words_and_by_the_request_in_one_step(self, database_url: str) -> None:
        settings = settings_for(database_url, tool_approval="destructive")
        user = f"dora-{uuid.uuid4().hex}"
        async with serve(settings, OfflineAgent()) as url, Client(url, user) as dora:
            await task_of(dora, "milk")
            await task_of(dora, "bread")
            chunks = await streamed(dora, "Delete milk and bread")
        ids = chunks[0]["messageMetadata"]
        assert text_of(chunks) == 'May I delete "milk" and "bread"?'
        assert types_of(chunks)[types_of(chunks).index("finish-step") :] == [
            *("finish-step", "start-step", "text-start", "text-delta", "text-end"),
            *("tool-input-start", "tool-input-available") * 2,
            *("tool-approval-request", "tool-approval-request", "finish-step", "finish"),
        ]
        milk, bread = (chunk["approvalId"] for chunk in chunks if chunk["type"] == "tool-approval-request")
        async with serve(settings, OfflineAgent()) as url, Client(url, user) as dora:
            given = [{"id": milk, "approved": True}, {"id": bread, "approved": False}]
            done = (await answer(dora, ids["turn_id"], *given)).json()
            said = ['May I delete "milk" and "bread"?', 'Deleted "milk".', 'OK, I didn\'t delete "bread".']
            assert done["response"].splitlines() == said
            assert await titles_of(dora) == ["bread"]
            after = await dora.said("what did you delete?", ids["conversation_id"])
            assert after["response"] == 'Last deleted: "milk".'


class TestClientTool:
    async def test_is_carried_out_by_the_caller(self, alice: Client) -> None:
        body = {"message": ASK_CLOCK, "client_tools": [CLOCK]}
        waiting = (await alice.post(alice.mine("/chat"), json=body)).json()
        (pending,) = waiting["pending"]
        assert (pending["kind"], pending["id"]) == ("client-tool", pending["tool_call_id"])
        output = {"zone": "Europe/Berlin", "offsets": [1, 2]}
        done = (await answer(alice, waiting["turn_id"], {"id": pending["id"], "output": output})).json()
        assert done["response"] == "time_zone: done. Thanks."
        assert done["tool_calls"][0]["result"] == output
        _, shown = await alice.messages(done["conversation_id"], format="ui")
        assert "providerExecuted" not in shown["parts"][1]

    async def test_that_fails_is_told_as_an_error(self, alice: Client) -> None:
        body = {"message": ASK_CLOCK, "client_tools": [CLOCK]}
        waiting = (await alice.post(alice.mine("/chat"), json=body)).json()
        given = {"id": waiting["pending"][0]["id"], "error": "No clock."}
        done = (await answer(alice, waiting["turn_id"], given)).json()
        assert done["response"] == "time_zone: No clock.. Thanks."

    async def test_is_not_asked_with_arguments_that_its_schema_refuses(self, alice: Client) -> None:
        schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        body = {
            "message": 'ask time_zone {"city": 1}\nwait\nsay Well.',
            "client_tools": [{**CLOCK, "parameters": schema}],
        }
        done = (await alice.post(alice.mine("/chat"), json=body)).json()
        assert done["response"] == "time_zone: city: 1 is not of type 'string'. Well."

    @pytest.mark.parametrize(
        ("tool", "path"),
        [
            ({"name": "add_task"}, "client_tools[0].name"),
            ({"parameters": {"type": "nonsense"}}, "client_tools[0].parameters"),
            ({"parameters": {"type": "object", "required": "x"}}, "client_tools[0].parameters"),
            ({"name": "a b"}, "client_tools[0].name"),
            ({"more": 1}, "client_tools[0]"),
        ],
    )
    async def test_that_is_none_is_422_before_the_turn_begins(
        self, alice: Client, tool: dict[str, Any], path: str
    ) -> None:
        body = {"message": "say Hello.", "client_tools": [{**CLOCK, **tool}]}
        refused = await alice.post(alice.mine("/chat"), json=body)
        assert refused.status_code == 422
        assert [error["path"] for error in refused.json()["errors"]] == [path]
        assert (await alice.get(alice.mine("/conversations"))).json()["items"] == []

    async def test_two_of_one_name_are_422(self, alice: Client) -> None:
        refused = await alice.post(
            alice.mine("/chat"), json={"message": "say Hi.", "client_tools": [CLOCK, CLOCK]}
        )
        assert refused.json()["errors"][0]["path"] == "client_tools[1].name"


class TestStream:
    async def test_ends_with_the_request_and_goes_on_with_what_follows(self, bob: Client) -> None:
        chunks = await streamed(bob, f"think Hm.\nsay Let me.\n{DELETE % await task_of(bob)}")
        assert types_of(chunks)[-6:] == [
            *("text-end", "tool-input-start", "tool-input-available", "tool-approval-request"),
            *("finish-step", "finish"),
        ]
        assert chunks[-1] == {
            "type": "finish",
            "finishReason": "tool-calls",
            "messageMetadata": {"waiting": True},
        }
        ids = chunks[0]["messageMetadata"]
        request = next(chunk for chunk in chunks if chunk["type"] == "tool-approval-request")
        rest = await answered_stream(bob, ids["turn_id"], {"id": request["approvalId"], "approved": True})
        assert types_of(rest) == [
            *("start", "tool-output-available", "start-step", "text-start", "text-delta", "text-end"),
            *("finish-step", "finish"),
        ]
        assert rest[0]["messageMetadata"] == {**ids, "waiting": False}
        assert text_of(rest) == "delete_task: done. So it is."
        again = await answered_stream(bob, ids["turn_id"], {"id": request["approvalId"], "approved": True})
        assert (types_of(again), text_of(again), again[0]) == (types_of(rest), text_of(rest), rest[0])

    async def test_has_all_that_waits_in_its_last_step(self, bob: Client) -> None:
        """Clients answer the calls of the last step alone, and text after a call that was made begins another."""
        delete = f'ask delete_task {{"task_id": {await task_of(bob)}}}'
        chunks = await streamed(bob, f"{delete}\nask list_tasks {{}}\n{delete}\nwait\nsay Done.")
        assert [kind for kind in types_of(chunks) if "step" in kind or "request" in kind] == [
            *("start-step", "finish-step"),
            *("start-step", "tool-approval-request", "tool-approval-request", "finish-step"),
        ]

    async def test_goes_on_with_one_step_for_one_answer_of_the_model(self, alice: Client) -> None:
        body = {"message": f"{ASK_CLOCK}\nthink Hm.\nsay Well.", "client_tools": [CLOCK]}
        waiting = (await alice.post(alice.mine("/chat"), json=body)).json()
        given = {"id": waiting["pending"][0]["id"], "output": "UTC"}
        chunks = await answered_stream(alice, waiting["turn_id"], given)
        assert types_of(chunks).count("start-step") == 1

    async def test_from_its_beginning_shows_the_answer_too(self, bob: Client) -> None:
        chunks = await streamed(bob, DELETE % await task_of(bob))
        ids = chunks[0]["messageMetadata"]
        assert await resumed(bob, ids["conversation_id"]) == chunks  # still waiting
        request = next(chunk for chunk in chunks if chunk["type"] == "tool-approval-request")
        no = {"id": request["approvalId"], "approved": False, "reason": "No."}
        await answered_stream(bob, ids["turn_id"], no)
        whole = await resumed(bob, ids["conversation_id"], ids["turn_id"])
        assert types_of(whole)[:8] == [
            *("start", "start-step", "tool-input-start", "tool-input-available", "tool-approval-request"),
            *("tool-approval-response", "finish-step", "tool-output-denied"),
        ]
        assert whole[5] == {
            "type": "tool-approval-response",
            "approvalId": request["approvalId"],
            "approved": False,
            "reason": "No.",
        }

    async def test_of_some_answers_says_that_the_turn_still_waits(self, alice: Client) -> None:
        body = {"message": "ask time_zone {}\nask time_zone {}\nwait\nsay Thanks.", "client_tools": [CLOCK]}
        waiting = (await alice.post(alice.mine("/chat"), json=body)).json()
        given = {"id": waiting["pending"][0]["id"], "output": "UTC"}
        chunks = await answered_stream(alice, waiting["turn_id"], given)
        assert [chunk["type"] for chunk in chunks] == ["start", "finish"]
        assert chunks[-1]["messageMetadata"] == {"waiting": True}


class TestAnswers:
    """What is wrong with an answer, and answers that come twice."""

    @pytest.fixture
    async def waiting(self, bob: Client) -> dict[str, Any]:
        message = f"ask time_zone {{}}\n{DELETE % await task_of(bob)}"
        body = {"message": message, "client_tools": [CLOCK]}
        return dict((await bob.post(bob.mine("/chat"), json=body)).json())

    @pytest.mark.parametrize(
        "given",
        [
            {"approved": True, "output": 1},
            {},
            {"output": "x"},
            {"error": "x"},
            {"approved": "yes"},
            {"approved": True, "arguments": {"task_id": 2}},
        ],
    )
    async def test_of_the_wrong_kind_are_422_with_the_path(
        self, bob: Client, waiting: dict[str, Any], given: dict[str, Any]
    ) -> None:
        approval = next(each for each in waiting["pending"] if each["kind"] == "approval")
        refused = await answer(bob, waiting["turn_id"], {"id": approval["id"], **given})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["path"].startswith("answers[0]")

    async def test_to_a_client_tool_that_are_approvals_are_422(
        self, bob: Client, waiting: dict[str, Any]
    ) -> None:
        call = next(each for each in waiting["pending"] if each["kind"] == "client-tool")
        for given in ({"approved": True}, {"output": 1, "reason": "x"}, {"output": "x" * 300_000}):
            refused = await answer(bob, waiting["turn_id"], {"id": call["id"], **given})
            assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "answers[0]")

    async def test_of_unknown_ids_and_to_one_call_twice_are_422(
        self, bob: Client, waiting: dict[str, Any]
    ) -> None:
        assert (await answer(bob, waiting["turn_id"], {"id": "x", "approved": True})).status_code == 422
        twice = [{"id": waiting["pending"][0]["id"], "output": 1}] * 2
        assert (await answer(bob, waiting["turn_id"], *twice)).status_code == 422

    async def test_to_somebody_elses_turn_or_none_are_404(self, bob: Client, waiting: dict[str, Any]) -> None:
        given = {"id": waiting["pending"][0]["id"], "approved": True}
        async with Client(str(bob.base_url), "mallory") as mallory:
            assert (await answer(mallory, waiting["turn_id"], given)).status_code == 404
        assert (await answer(bob, 2**40, given)).status_code == 404

    async def test_to_a_turn_that_does_not_wait_are_409(self, bob: Client) -> None:
        done = await bob.said("say Hello.")
        refused = await answer(bob, done["turn_id"], {"id": "x", "approved": True})
        assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (409, "not-waiting")

    async def test_that_are_the_same_again_get_the_same_and_others_409(
        self, bob: Client, waiting: dict[str, Any]
    ) -> None:
        clock, approval = waiting["pending"]
        given = [{"id": clock["id"], "output": "UTC"}, {"id": approval["id"], "approved": True}]
        first = await answer(bob, waiting["turn_id"], *given, headers={"Idempotency-Key": "k"})
        again = await answer(bob, waiting["turn_id"], *given, headers={"Idempotency-Key": "k"})
        assert (first.status_code, again.content) == (200, first.content)
        other = {"id": approval["id"], "approved": False}
        refused = await answer(bob, waiting["turn_id"], other)
        assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (409, "not-waiting")
        reused = await answer(bob, waiting["turn_id"], given[0], headers={"Idempotency-Key": "k"})
        assert reused.json()["type"].rpartition(":")[2] == "idempotency-key-reused"

    async def test_of_many_at_once_make_the_call_once(self, bob: Client, waiting: dict[str, Any]) -> None:
        clock, approval = waiting["pending"]
        given = [{"id": clock["id"], "output": "UTC"}, {"id": approval["id"], "approved": True}]
        answers = await asyncio.gather(*(answer(bob, waiting["turn_id"], *given) for _ in range(5)))
        assert {each.status_code for each in answers} == {200}
        assert len({each.content for each in answers}) == 1
        assert len(answers[0].json()["tool_calls"]) == 2


class TestEnds:
    """What else becomes of a turn that waits."""

    @pytest.fixture
    async def waiting(self, bob: Client) -> dict[str, Any]:
        return dict((await bob.chat(f"say Hm.\n{DELETE % await task_of(bob)}")).json())

    async def shown(self, bob: Client, waiting: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The status of the turn, and its call as the AI SDK has it."""
        plain = (await bob.messages(waiting["conversation_id"]))[1]
        ui = (await bob.messages(waiting["conversation_id"], format="ui"))[1]
        return plain["status"], next(part for part in ui["parts"] if part["type"] == "dynamic-tool")

    async def test_it_is_shown_and_listed_while_it_waits(self, bob: Client, waiting: dict[str, Any]) -> None:
        status, call = await self.shown(bob, waiting)
        assert (status, call["state"]) == ("waiting", "approval-requested")
        listed = (await bob.get(bob.mine("/turns"), params={"status": "waiting"})).json()
        assert [turn["turn_id"] for turn in listed["items"]] == [waiting["turn_id"]]
        assert listed["items"][0]["pending"] == waiting["pending"]
        records = [json.loads(line) for line in (await bob.get(bob.mine("/export"))).text.splitlines()]
        assert {each["status"] for each in records if each["record"] in {"turn", "message"}} == {"waiting"}
        (wait,) = [each for each in records if each["record"] == "wait"]
        assert wait["calls"][0]["arguments"] == waiting["pending"][0]["arguments"]

    async def test_a_new_message_denies_what_is_pending_and_goes_on(
        self, bob: Client, waiting: dict[str, Any]
    ) -> None:
        after = await bob.said("history", waiting["conversation_id"])
        assert json.loads(after["response"])[1] == ["assistant", "Hm."]
        status, call = await self.shown(bob, waiting)
        assert (status, call["state"], call["approval"]["reason"]) == (
            *("completed", "output-denied"),
            "superseded",
        )
        late = await answer(bob, waiting["turn_id"], {"id": waiting["pending"][0]["id"], "approved": True})
        assert late.json()["type"].rpartition(":")[2] == "not-waiting"
        assert await titles_of(bob) == ["milk"]
        assert (await bob.get(bob.mine("/turns"))).json()["items"] == []

    async def test_a_cancel_ends_it(self, bob: Client, waiting: dict[str, Any]) -> None:
        cancelled = await bob.post(bob.mine(f"/turns/{waiting['turn_id']}/cancel"))
        assert cancelled.status_code == 202
        status, call = await self.shown(bob, waiting)
        assert (status, call["state"], call["approval"]["reason"]) == (
            *("cancelled", "output-denied"),
            "cancelled",
        )
        late = await answer(bob, waiting["turn_id"], {"id": waiting["pending"][0]["id"], "approved": True})
        assert late.status_code == 409
        again = await bob.post(bob.mine(f"/turns/{waiting['turn_id']}/cancel"))
        assert again.status_code == 409

    async def test_its_conversation_can_be_deleted(self, bob: Client, waiting: dict[str, Any]) -> None:
        await bob.delete(bob.mine(f"/conversations/{waiting['conversation_id']}"))
        late = await answer(bob, waiting["turn_id"], {"id": waiting["pending"][0]["id"], "approved": True})
        assert late.status_code == 404

    async def test_its_user_can_be_erased(self, bob: Client, waiting: dict[str, Any]) -> None:
        erased = await bob.delete(bob.mine(""), params={"confirm": bob.user_id})
        assert erased.status_code == 204
        late = await answer(bob, waiting["turn_id"], {"id": waiting["pending"][0]["id"], "approved": True})
        assert late.status_code == 404
        assert (await bob.get(bob.mine("/turns"))).json()["items"] == []
        assert len((await bob.get(bob.mine("/export"))).text.splitlines()) == 2  # its beginning and its end

    async def test_its_key_gets_the_wait_again_and_then_the_answer(self, bob: Client) -> None:
        message, key = DELETE % await task_of(bob), {"Idempotency-Key": "first"}
        first = await bob.chat(message, headers=key)
        again = await bob.chat(message, headers=key)
        assert (again.status_code, again.json()) == (202, first.json())
        assert again.headers["Idempotent-Replayed"] == "true"
        given = {"id": first.json()["pending"][0]["id"], "approved": True}
        done = await answer(bob, first.json()["turn_id"], given)
        assert (await bob.chat(message, headers=key)).json() == done.json()

    async def test_another_answer_to_the_last_message_ends_it(
        self, bob: Client, waiting: dict[str, Any]
    ) -> None:
        anew = await bob.post(
            bob.mine(f"/turns/{waiting['turn_id']}/regenerate"), json={"message": "say Else."}
        )
        assert anew.json()["response"] == "Else."

    async def test_its_time_is_over_wherever_it_was_begun(self, empty_database_url: str) -> None:
        settings = settings_for(empty_database_url, tool_approval="all", wait_timeout=0.3)
        async with serve(settings) as one, Client(one, "carol") as carol:
            waiting = (await carol.chat('say Hm.\nask add_task {"title": "milk"}\nwait')).json()
        # It may look while the first process, which then ends, is about to end the wait, and looks again after this time.
        patience = replace(SLOW_MACHINE, expiry=0.2)
        async with serve(settings, patience=patience) as other, Client(other, "carol") as carol:
            async with asyncio.timeout(60):
                while (await self.shown(carol, waiting))[0] != "failed":  # noqa: ASYNC110 - seen from outside alone
                    await asyncio.sleep(0.05)
            _, call = await self.shown(carol, waiting)
            assert (call["state"], call["approval"]["reason"]) == ("output-denied", "expired")
            stream = await resumed(carol, waiting["conversation_id"], waiting["turn_id"])
            assert stream[-1]["problem"]["type"].rpartition(":")[2] == "wait-expired"
            late = await answer(
                carol, waiting["turn_id"], {"id": waiting["pending"][0]["id"], "approved": True}
            )
            assert late.status_code == 409


class TestLooks:
    """For waits whose time is over; nothing else asks the database where nothing runs."""

    async def test_are_made_when_a_turn_begins_to_wait_and_not_for_each_turn(
        self, empty_database_url: str
    ) -> None:
        patience = replace(SLOW_MACHINE, expiry=3_600)
        with sent_for_requests(and_beside_them=True) as sent:
            async with (
                serve(settings_for(empty_database_url, tool_approval="all"), patience=patience) as url,
                Client(url, "carol") as carol,
            ):
                for message in ("say One.", "say Two.", ASK_TASK, "say Three.", "say Four."):
                    await carol.chat(message)
                async with asyncio.timeout(10):
                    while looks(sent) < 2:  # noqa: ASYNC110 - the look comes after the response
                        await asyncio.sleep(0.01)
        assert looks(sent) == 2  # one at the start, and one for the wait

    async def test_end_what_is_over_and_then_retention_may_delete_it(self, empty_database_url: str) -> None:
        database = open_database(settings_for(empty_database_url))
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        settings = settings_for(empty_database_url, tool_approval="all")
        async with (
            serve(settings, patience=replace(SLOW_MACHINE, expiry=0)) as url,
            Client(url, "carol") as carol,
        ):
            conversation_id = (await carol.chat(ASK_TASK)).json()["conversation_id"]
            assert await retention.expire(database, tomorrow) == 0
            async with database.transaction(EVERYONE) as session:
                await session.execute(update(Wait).values(expires_at=datetime.now(UTC) - timedelta(days=1)))
            other = (await carol.said("say Hello."))["conversation_id"]  # a look follows each turn
            async with asyncio.timeout(10):
                while (await carol.messages(conversation_id))[1]["status"] != "failed":  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
            assert (await carol.messages(other))[1]["status"] == "completed"
            assert await retention.expire(database, tomorrow) == 2
        await database.close()

    async def test_miss_no_wait_whose_time_is_over_during_the_look(
        self, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        database = open_database(settings_for(empty_database_url))
        async with (
            serve(settings_for(empty_database_url, tool_approval="all")) as url,
            Client(url, "carol") as carol,
        ):
            await carol.chat(ASK_TASK)
            over = datetime.now(UTC) + timedelta(hours=1)
            async with database.transaction(EVERYONE) as session:
                await session.execute(update(Wait).values(expires_at=over))
            moments = (over + timedelta(seconds=number) for number in itertools.count(-1, 2))
            monkeypatch.setattr(waits, "now", lambda: next(moments))
            found = await database.read(EVERYONE, lambda session: waits.look(session, 1))
        assert found.due or found.next_at == over
        await database.close()


def looks(sent: list[str]) -> int:
    return sum("count" in statement and "FROM waits" in statement for statement in sent)


class TestAnotherProcess:
    async def test_goes_on_with_the_turn(self, empty_database_url: str) -> None:
        settings = settings_for(empty_database_url, tool_approval="all")
        async with serve(settings) as one, Client(one, "carol") as carol:
            waiting = (await carol.chat('say Hm. \nask add_task {"title": "milk"}\nwait\nsay Done.')).json()
        async with serve(settings) as other, Client(other, "carol") as carol:
            given = {"id": waiting["pending"][0]["id"], "approved": True}
            done = (await answer(carol, waiting["turn_id"], given)).json()
            assert done["response"] == "Hm. add_task: done. Done."
            assert await titles_of(carol) == ["milk"]
