"""Messages to a conversation that is busy: refused, queued, or in the place of what is under way."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from msgspec.structs import replace

from chatapi.errors.base import PROBLEM_TYPE_PREFIX
from tests.support.agents import CommandedAgent, Gate
from tests.support.citus import Citus
from tests.support.files import parts, uploaded
from tests.support.logs import heard
from tests.support.serving import DIES, SLOW_MACHINE, Client, execute, serve, settings_for, two_replicas
from tests.support.sse import STREAM, Chunk, chunks_of, resumed, text_of, types_of

QUEUED = {"queued": True}


def see(request: asyncio.Task[Any]) -> None:
    """Mark its error as seen: where a process is killed nobody awaits the request, and the loop would log it later."""
    if not request.cancelled():
        request.exception()


class Busy:
    """A conversation of Alice's in which a turn runs until `go_on`; `first` is the request that began it."""

    def __init__(self, client: Client, conversation_id: int, gate: Gate, first: asyncio.Task[Any]) -> None:
        self.client = client
        self.id = conversation_id
        self.gate = gate
        self.first = first
        self.sent = [first]
        first.add_done_callback(see)

    def send(
        self, message: str, when_busy: str | None = "queue", *, key: str | None = None, **options: Any
    ) -> asyncio.Task[httpx.Response]:
        self.sent.append(asyncio.create_task(self.post(message, when_busy, key=key, **options)))
        self.sent[-1].add_done_callback(see)
        return self.sent[-1]

    async def post(
        self,
        message: str,
        when_busy: str | None = "queue",
        *,
        key: str | None = None,
        client: Client | None = None,
    ) -> httpx.Response:
        client = client or self.client
        headers = {} if key is None else {"Idempotency-Key": key}
        return await client.post(client.mine("/chat"), json=self.body(message, when_busy), headers=headers)

    def body(self, message: str, when_busy: str | None) -> dict[str, Any]:
        how = {} if when_busy is None else {"when_busy": when_busy}
        return {"message": message, "conversation_id": self.id, **how}

    async def stream(self, message: str, when_busy: str = "queue", *, key: str | None = None) -> list[Chunk]:
        headers = STREAM if key is None else {**STREAM, "Idempotency-Key": key}
        async with self.client.stream(
            "POST", self.client.mine("/chat"), json=self.body(message, when_busy), headers=headers
        ) as response:
            return [chunk async for chunk in chunks_of(response)]

    async def queue(self, *messages: str, **options: Any) -> list[asyncio.Task[httpx.Response]]:
        """Queue these messages one after the other; returns their requests, which go on."""
        sent = []
        for message in messages:
            before = len(await self.queued())
            sent.append(self.send(message, **options))
            await self.queued(before + 1)
        return sent

    async def queued(self, count: int | None = None) -> list[dict[str, Any]]:
        """What is queued, once it is so many."""
        while True:
            found = [each for each in await self.client.messages(self.id) if each["status"] == "queued"]
            if count is None or len(found) == count:
                return found
            await asyncio.sleep(0.02)

    def go_on(self) -> None:
        self.gate.opened.set()


async def make_busy(client: Client, message: str = "say Yes.", before: str = "say Well,") -> Busy:
    """Begin a turn that says `before`, waits, and then carries out `message`, as the second of a conversation."""
    name = uuid4().hex
    conversation_id = (await client.said("say 0"))["conversation_id"]
    first = asyncio.create_task(client.chat(f"{before}\ngate {name}\n{message}", conversation_id))
    gate = CommandedAgent.gates[name]
    await gate.reached.wait()
    return Busy(client, conversation_id, gate, first)


async def settled(client: Client, conversation_id: int) -> list[dict[str, Any]]:
    """The conversation's messages, once nothing is queued in it or under way."""
    while True:
        shown = await client.messages(conversation_id)
        if not {each["status"] for each in shown} & {"queued", "running"}:
            return shown
        await asyncio.sleep(0.02)


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].removeprefix(PROBLEM_TYPE_PREFIX)


@pytest.fixture(scope="module")
async def asking(new_database: Callable[[], str]) -> AsyncIterator[str]:
    """A service in which adding a task needs approval; yields its base URL."""
    url = await asyncio.to_thread(new_database)
    async with serve(settings_for(url, tool_approval="add_task")) as base_url:
        yield base_url


@pytest.fixture
async def busy(alice: Client) -> AsyncIterator[Busy]:
    made = await make_busy(alice)
    yield made
    made.go_on()
    await asyncio.gather(*made.sent)


class TestQueue:
    async def test_goes_on_behind_a_message_whose_file_was_deleted(self, busy: Busy) -> None:
        file = await uploaded(busy.client, b"milk")
        body = {"parts": parts("say A", file["id"]), "conversation_id": busy.id, "when_busy": "queue"}
        first = asyncio.create_task(busy.client.post(busy.client.mine("/chat"), json=body))
        busy.sent.append(first)
        await busy.queued(1)
        second, third = await busy.queue("say B", "say C")
        await busy.client.delete(busy.client.mine(f"/files/{file['id']}"))
        busy.go_on()
        lost, *rest = await asyncio.gather(first, second, third)
        assert problem(lost) == (404, "file-not-found")
        assert [each.json()["response"] for each in rest] == ["B", "C"]

    async def test_begins_in_the_order_of_arrival_with_what_was_said_before(self, busy: Busy) -> None:
        sent = await busy.queue("say one", "fail", "history")
        assert [each["content"] for each in await busy.queued()] == ["say one", "fail", "history"]
        busy.go_on()
        one, failed, last = await asyncio.gather(*sent)
        assert (one.status_code, one.json()["response"]) == (200, "one")
        assert problem(failed) == (502, "model-failed")
        said = [content for _, content in json.loads(last.json()["response"])]
        assert said[1::2] == ["0", "Well,Yes.", "one"]
        turns = [one.json()["turn_id"], failed.json()["turn_id"], last.json()["turn_id"]]
        assert turns == sorted(turns)
        shown = await busy.client.messages(busy.id)
        assert [(each["role"], each["turn_id"]) for each in shown[4:]] == [
            (role, turn)
            for turn in turns
            for role in ("user", "assistant")
            if (turn, role) != (turns[1], "assistant")
        ]
        assert [each["id"] for each in shown] == sorted(each["id"] for each in shown)

    async def test_is_shown_in_messages_of_both_forms_in_both_orders_and_exported(self, busy: Busy) -> None:
        await busy.queue("say one", "say two")
        client = busy.client
        (*_, one, two) = await client.messages(busy.id)
        assert (one["id"], one["role"], one["content"], one["tool_calls"]) == (None, "user", "say one", [])
        assert one["turn_id"] < two["turn_id"]
        newest, *_ = await client.messages(busy.id, order="desc", limit=1)
        assert newest == two
        assert (await client.messages(busy.id, limit=1))[0]["status"] == "completed"
        *_, shown = await client.messages(busy.id, format="ui")
        assert shown["id"] == f"question_{two['turn_id']}"
        assert shown["metadata"] == {
            "conversation_id": busy.id,
            "turn_id": two["turn_id"],
            "status": "queued",
        }
        records = [json.loads(line) for line in (await client.get(client.mine("/export"))).text.splitlines()]
        assert [each["request"]["message"] for each in records if each["record"] == "queued_turn"] == [
            "say one",
            "say two",
        ]

    async def test_stream_begins_at_once_and_says_when_the_turn_has_begun(self, busy: Busy) -> None:
        thinks = CommandedAgent.gates[name := uuid4().hex]
        body = busy.body(f"gate {name}\nsay one", "queue")
        async with busy.client.stream(
            "POST", busy.client.mine("/chat"), json=body, headers=STREAM
        ) as response:
            chunks = chunks_of(response)
            start = await anext(chunks)
            turn_id = start["messageMetadata"]["turn_id"]
            assert start["messageMetadata"] == {"conversation_id": busy.id, "turn_id": turn_id, **QUEUED}
            # Another reader, by the turn's id; and one of whatever the conversation does.
            opened = [asyncio.Event(), asyncio.Event()]
            others = [
                asyncio.create_task(resumed(busy.client, busy.id, whose, opened=each))
                for whose, each in zip((turn_id, None), opened, strict=True)
            ]
            for each in opened:
                await each.wait()
            busy.go_on()
            begun = await anext(chunks)
            assert not thinks.opened.is_set()
            thinks.opened.set()
            rest = [chunk async for chunk in chunks]
        assert (begun["type"], begun["messageMetadata"]) == ("message-metadata", {"queued": False})
        assert (text_of(rest), rest[-1]["type"]) == ("one", "finish")
        assert [text_of(each) for each in await asyncio.gather(*others)] == ["one", "Well,Yes."]

    async def test_begins_though_its_client_has_hung_up(self, busy: Busy) -> None:
        for number in range(2):
            async with busy.client.stream(
                "POST", busy.client.mine("/chat"), json=busy.body(f"say {number}", "queue"), headers=STREAM
            ) as response:
                assert response.status_code == 200
        busy.go_on()
        assert [each["content"] for each in (await settled(busy.client, busy.id))[-3::2]] == ["0", "1"]

    async def test_is_not_needed_where_the_conversation_is_free(self, alice: Client) -> None:
        first = await alice.said("say 0")
        body = {"message": "say 1", "conversation_id": first["conversation_id"], "when_busy": "queue"}
        for how in ("queue", "interrupt", "reject"):
            response = await alice.post("/api/chat", json={**body, "when_busy": how})
            assert (response.status_code, response.json()["response"]) == (200, "1")
        assert len(await alice.messages(first["conversation_id"])) == 8

    async def test_refuses_a_ninth_message_and_other_words(self, busy: Busy) -> None:
        await busy.queue(*(f"say {number}" for number in range(8)))
        assert problem(await busy.post("say 9")) == (429, "queue-full")
        assert problem(await busy.post("say 9", None)) == (409, "turn-in-progress")
        for wrong in ("later", "Queue", 1, None):
            response = await busy.client.post("/api/chat", json={"message": "x", "when_busy": wrong})
            assert problem(response) == (422, "validation-failed")
            assert response.json()["errors"][0]["path"] == "when_busy"
        assert len(await busy.queued()) == 8
        await busy.client.delete(busy.client.mine(f"/conversations/{busy.id}"))

    async def test_lets_nothing_slip_in_before_what_is_queued(self, busy: Busy) -> None:
        turn_id = (await busy.client.messages(busy.id))[-1]["turn_id"]
        await busy.queue("say one")
        busy.go_on()
        for _ in range(20):
            response = await busy.post("say two", None)
            if response.status_code == 200:
                break
            assert problem(response) == (409, "turn-in-progress")
        shown = [each for each in await busy.client.messages(busy.id) if each["role"] == "user"]
        assert [each["content"] for each in shown[2:]] == ["say one", "say two"]
        anew = await busy.client.post(busy.client.mine(f"/turns/{turn_id}/regenerate"))
        assert problem(anew) == (409, "turn-superseded")

    async def test_ends_with_its_conversation(self, alice: Client) -> None:
        busy = await make_busy(alice)
        (one,) = await busy.queue("say one")
        await alice.delete(alice.mine(f"/conversations/{busy.id}"))
        assert problem(await one) == (409, "turn-cancelled")
        busy.go_on()
        assert problem(await busy.first) == (409, "turn-cancelled")


class TestTakingOut:
    @pytest.mark.parametrize(("method", "path"), [("DELETE", ""), ("POST", "/cancel")])
    async def test_ends_its_request_and_leaves_the_others(self, busy: Busy, method: str, path: str) -> None:
        client = busy.client
        one, two, three = await busy.queue("say one", "say two", "say three", key=None)
        turn_id = (await busy.queued())[1]["turn_id"]
        done = await client.request(method, client.mine(f"/turns/{turn_id}{path}"))
        assert done.status_code == (202 if path else 204)
        answer = await two
        assert (problem(answer), answer.json()["turn_id"]) == ((409, "turn-cancelled"), turn_id)
        again = await client.request(method, client.mine(f"/turns/{turn_id}{path}"))
        assert problem(again) == (404, "turn-not-found")
        busy.go_on()
        assert [(await each).json()["response"] for each in (one, three)] == ["one", "three"]
        assert "say two" not in [each["content"] for each in await client.messages(busy.id)]

    async def test_is_for_what_is_queued_and_ones_own_alone(self, busy: Busy, bob: Client) -> None:
        (one,) = await busy.queue("say one")
        (queued,) = await busy.queued()
        client, turn_id = busy.client, queued["turn_id"]
        for path in (f"/turns/{turn_id}", f"/turns/{2**63 - 1}"):
            assert problem(await bob.delete(bob.mine(path))) == (404, "turn-not-found")
        running = (await client.messages(busy.id))[2]["turn_id"]
        assert problem(await client.delete(client.mine(f"/turns/{running}"))) == (409, "not-queued")
        busy.go_on()
        await one
        assert problem(await client.delete(client.mine(f"/turns/{turn_id}"))) == (409, "not-queued")

    async def test_of_a_stream_ends_it_with_abort(self, busy: Busy) -> None:
        streaming = asyncio.create_task(busy.stream("say one"))
        (queued,) = await busy.queued(1)
        await busy.client.delete(busy.client.mine(f"/turns/{queued['turn_id']}"))
        assert types_of(await streaming) == ["start", "message-metadata", "abort"]

    async def test_holds_for_the_same_request_sent_again(self, busy: Busy) -> None:
        key = uuid4().hex
        (one,) = await busy.queue("say one", key=key)
        (queued,) = await busy.queued()
        await busy.client.delete(busy.client.mine(f"/turns/{queued['turn_id']}"))
        assert problem(await one) == (409, "turn-cancelled")
        again = await busy.post("say one", key=key)
        assert (problem(again), again.json()["turn_id"]) == ((409, "turn-cancelled"), queued["turn_id"])
        assert problem(await busy.post("say two", key=key)) == (422, "idempotency-key-reused")
        records = (await busy.client.get(busy.client.mine("/export"))).text
        assert "say one" not in records


class TestKey:
    async def test_of_a_queued_turn_finds_it_and_later_its_answer(self, busy: Busy) -> None:
        key = uuid4().hex
        (one,) = await busy.queue("say one", key=key)
        (queued,) = await busy.queued()
        again = await busy.post("say one", key=key)
        assert (problem(again), again.json()["turn_id"]) == ((409, "key-in-progress"), queued["turn_id"])
        other = await busy.post("say one", "interrupt", key=key)
        assert problem(other) == (422, "idempotency-key-reused")
        streaming = asyncio.create_task(busy.stream("say one", key=key))
        await asyncio.sleep(0)
        busy.go_on()
        answer = await one
        assert text_of(await streaming) == "one"
        replayed = await busy.post("say one", key=key)
        assert (replayed.content, replayed.headers["Idempotent-Replayed"]) == (answer.content, "true")
        assert len(await busy.queued()) == 0

    async def test_sent_many_times_at_once_queues_one_turn(self, busy: Busy) -> None:
        sent = [busy.send("say one", key="one") for _ in range(5)]
        refused = [await each for _, each in zip(range(4), asyncio.as_completed(sent), strict=False)]
        assert {problem(each) for each in refused} == {(409, "key-in-progress")}
        busy.go_on()
        answers = await asyncio.gather(*sent)
        assert sorted(each.status_code for each in answers) == [200, 409, 409, 409, 409]


class TestInterrupt:
    async def test_ends_the_running_turn_and_what_is_queued_and_then_begins(self, busy: Busy) -> None:
        sent = await busy.queue("say one", "say two")
        answer = await busy.post("history", "interrupt")
        assert answer.status_code == 200, answer.text
        for each in (busy.first, *sent):
            assert problem(await each) == (409, "turn-cancelled")
        # What the interrupted turn had said stays, and is history.
        assert [said for _, said in json.loads(answer.json()["response"])][-1] == "Well,"
        shown = await busy.client.messages(busy.id)
        assert [each["status"] for each in shown] == ["completed"] * 2 + ["cancelled"] * 2 + ["completed"] * 2

    async def test_twice_at_once_lets_the_last_one_win(self, alice: Client) -> None:
        for _ in range(3):
            busy = await make_busy(alice, before="say Half")
            answers = await asyncio.gather(
                *(busy.post(f"say {number}", "interrupt") for number in range(2)), busy.first
            )
            *both, first = answers
            assert problem(first) == (409, "turn-cancelled")
            assert sorted(each.status_code for each in both) in ([200, 200], [200, 409])
            assert await busy.queued() == []
            asked = [each for each in await alice.messages(busy.id) if each["role"] == "user"]
            assert asked[-1]["status"] == "completed"


class TestBehindATurnThatWaits:
    ASK = 'ask add_task {"title": "tea"}\nwait\nsay Thanks.'

    async def waiting(self, client: Client) -> tuple[Busy, dict[str, Any]]:
        waiting = (await client.chat(self.ASK)).json()
        assert waiting["status"] == "waiting"
        nothing: asyncio.Task[Any] = asyncio.create_task(asyncio.sleep(0))
        return Busy(client, waiting["conversation_id"], Gate(), nothing), waiting

    async def test_a_queued_message_begins_when_that_has_ended(self, asking: str) -> None:
        for way in ("answer", "cancel", "interrupt"):
            async with Client(asking, f"alice-{uuid4().hex}") as client:
                busy, waiting = await self.waiting(client)
                (one,) = await busy.queue("say one")
                assert problem(await busy.post("say two", None)) == (409, "turn-in-progress")
                turn = client.mine(f"/turns/{waiting['turn_id']}")
                match way:
                    case "answer":
                        (pending,) = waiting["pending"]
                        body = {"answers": [{"id": pending["id"], "approved": True}]}
                        assert (await client.post(f"{turn}/answers", json=body)).status_code == 200
                    case "cancel":
                        assert (await client.post(f"{turn}/cancel")).status_code == 202
                    case "interrupt":
                        assert (await busy.post("say three", "interrupt")).json()["response"] == "three"
                        assert problem(await one) == (409, "turn-cancelled")
                        assert (await client.messages(busy.id))[0]["status"] == "completed"
                        continue
                assert (await one).json()["response"] == "one"


class TestWhereItRan:
    """Replicas that begin what another has left."""

    async def test_a_queued_turn_begins_elsewhere_when_its_process_has_died(
        self, empty_database_url: str
    ) -> None:
        async with two_replicas(empty_database_url) as (here, there):
            busy = await make_busy(here)
            one = busy.send("say one", client=there)
            two = busy.send("say two", client=here)
            await busy.queued(2)
            await execute(empty_database_url, DIES)
            answers = {(await each).json()["response"] for each in (one, two)}
            assert answers == {"one", "two"}
            assert problem(await busy.first)[0] == 409

    @pytest.mark.skipif(
        Citus.of_environment() is not None, reason="A version that knows no queue knows no Citus either."
    )
    async def test_a_queued_turn_begins_though_an_old_replica_ended_the_one_before(
        self, empty_database_url: str
    ) -> None:
        """It does not look for what is queued; and its clients can send a turn of the same key past the queue."""
        async with two_replicas(empty_database_url) as (here, _):
            busy = await make_busy(here)
            one = busy.send("pid", key="one")
            await busy.queued(1)
            await execute(
                empty_database_url,
                "INSERT INTO turns (user_id, conversation_id, status, worker_id, run_id, cancel_requested, model, "
                "idempotency_key, created_at) SELECT user_id, conversation_id, 'completed', 'old', 'old', false, 'm', "
                "'one', created_at FROM turns WHERE status = 'running'",
            )
            two = busy.send("say two")
            await busy.queued(2)
            await execute(
                empty_database_url,
                "INSERT INTO messages (user_id, conversation_id, turn_id, role, content, tool_calls, created_at) "
                "SELECT user_id, conversation_id, id, 'assistant', 'done', '[]', created_at FROM turns "
                "WHERE status = 'running'",
            )
            await execute(
                empty_database_url,
                "UPDATE turns SET status = 'completed', run_id = 'older' WHERE status = 'running'",
            )
            assert problem(await one) == (409, "turn-cancelled")
            assert (await two).json()["response"] == "two"
            busy.go_on()

    async def test_a_queued_turn_begins_after_everything_was_restarted(self, empty_database_url: str) -> None:
        settings = settings_for(empty_database_url)
        async with serve(settings) as url, Client(url, "alice") as alice:
            busy = await make_busy(alice)
            await busy.queue("say one", "say two")
            await execute(empty_database_url, DIES)
        async with serve(settings) as url, Client(url, "alice") as alice:
            answers = await settled(alice, busy.id)
            assert [each["content"] for each in answers[-4:]] == ["say one", "one", "say two", "two"]


async def test_a_queued_turn_that_cannot_begin_is_logged(empty_database_url: str) -> None:
    async with serve(settings_for(empty_database_url)) as url, Client(url, "alice") as alice:
        busy = await make_busy(alice)
        (one,) = await busy.queue("say one")
        await execute(empty_database_url, "UPDATE queued_turns SET request = '{}'")
        with heard("chatapi.turns.launcher") as lines:
            busy.go_on()
            while not lines:  # noqa: ASYNC110 - until it is tried
                await asyncio.sleep(0.02)
        assert lines[0] == "A defect at the beginning of a turn"
        assert (await alice.delete(alice.mine(f"/conversations/{busy.id}"))).status_code == 204
        assert problem(await one) == (409, "turn-cancelled")


class TestLimits:
    async def test_count_a_queued_message_when_it_is_taken(self, new_database: Callable[[], str]) -> None:
        url = await asyncio.to_thread(new_database)
        async with (
            serve(settings_for(url, rate_limit_chat="3/minute")) as base_url,
            Client(base_url, "alice") as alice,
        ):
            busy = await make_busy(alice)
            (one,) = await busy.queue("say one", key="one")
            assert problem(await busy.post("say two")) == (429, "rate-limited")
            assert problem(await busy.post("say one", key="one")) == (409, "key-in-progress")
            busy.go_on()
            assert (await one).json()["response"] == "one"
            assert (await busy.post("say one", key="one")).status_code == 200

    async def test_hold_a_queued_message_against_a_budget_that_was_used_up_meanwhile(
        self, new_database: Callable[[], str]
    ) -> None:
        url = await asyncio.to_thread(new_database)
        async with (
            serve(settings_for(url, budget_tokens="40/day")) as base_url,
            Client(base_url, "alice") as alice,
        ):
            busy = await make_busy(
                alice, 'use {"model": "m", "input_tokens": 50, "output_tokens": 1}\nsay Yes.'
            )
            file = await uploaded(alice, b"milk")
            body = busy.body("", "queue") | {"parts": parts("say one", file["id"])}
            del body["message"]
            one = asyncio.create_task(alice.post(alice.mine("/chat"), json=body))
            await busy.queued(1)
            (two,) = await busy.queue("say two", key="two")
            busy.go_on()
            for refused in await asyncio.gather(one, two):
                assert problem(refused) == (429, "budget-exceeded")
                assert refused.json()["policy"] == "tokens-day"
                assert int(refused.headers["Retry-After"]) > 0
            shown = (await alice.messages(busy.id))[-2:]
            assert [(each["content"], each["status"]) for each in shown] == [
                ("say one", "failed"),
                ("say two", "failed"),
            ]
            assert [each["id"] for each in shown[0]["files"]] == [file["id"]]


@pytest.mark.slow
async def test_five_hundred_callers_queue_in_a_hundred_conversations_on_two_replicas(
    new_database: Callable[[], str],
) -> None:
    """Each caller gets the answer to its own message, and each conversation has them in order."""
    url = await asyncio.to_thread(new_database)
    settings = settings_for(url, rate_limit="off", rate_limit_chat="off")
    patience = replace(SLOW_MACHINE, database_statement=60, database_pool=120)
    async with (
        serve(settings, patience=patience) as one,
        serve(settings, patience=patience) as other,
        Client(one, "alice", timeout=300) as here,
        Client(other, "alice", timeout=300) as there,
    ):
        ids = [(await here.said("say 0"))["conversation_id"] for _ in range(100)]

        async def call(client: Client, conversation_id: int, number: int) -> tuple[int, int, str]:
            body = {"message": f"say {number}", "conversation_id": conversation_id, "when_busy": "queue"}
            response = await client.post(client.mine("/chat"), json=body)
            assert response.status_code == 200, response.text
            return conversation_id, number, response.json()["response"]

        calls = [call((here, there)[number % 2], id_, number) for number in range(5) for id_ in ids]
        answers = await asyncio.gather(*calls)
        assert all(str(number) == response for _, number, response in answers)
        for id_ in ids:
            shown = await here.messages(id_)
            assert sorted(each["content"] for each in shown[3::2]) == [str(number) for number in range(5)]
            assert [each["turn_id"] for each in shown] == sorted(each["turn_id"] for each in shown)
            assert {each["status"] for each in shown} == {"completed"}
