"""Responses and conversations by OpenAI's own SDK: turns, in the API's words."""

import asyncio
import base64
import json
import uuid
from collections.abc import Awaitable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response
from pydantic import BaseModel

from tests.support.agents import CommandedAgent
from tests.support.openai_sdk import sdk
from tests.support.serving import Client, serve, settings_for

PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
        "0000000c49444154789c63f8ffff3f0005fe02fea735c4a40000000049454e44ae426082"
    )
).decode()
TIME_ZONE: Any = {
    "type": "function",
    "name": "time_zone",
    "parameters": {"type": "object", "properties": {}},
    "strict": False,
}


async def ask(client: AsyncOpenAI, input_: Any, **options: Any) -> Response:
    response: Response = await client.responses.create(input=input_, **{"model": "commanded", **options})
    return response


async def events_of(client: AsyncOpenAI, response_id: str, **options: Any) -> list[Any]:
    """The response's stream, from its beginning or after a number."""
    stream: Any = await client.responses.retrieve(response_id, stream=True, **options)
    return [event async for event in stream]


async def gather(stream: Any, into: list[Any]) -> None:
    async for event in stream:
        into.append(event)  # noqa: PERF401 - what came before an error is kept


# The members of a response that https://www.openresponses.org asks for, and which of them are numbers.
NUMBERS = {"created_at", "frequency_penalty", "presence_penalty", "temperature", "top_logprobs", "top_p"}
MEMBERS = NUMBERS | {
    *("background", "completed_at", "error", "id", "incomplete_details", "instructions", "max_output_tokens"),
    *(
        "max_tool_calls",
        "metadata",
        "model",
        "object",
        "output",
        "parallel_tool_calls",
        "previous_response_id",
    ),
    *("prompt_cache_key", "reasoning", "safety_identifier", "service_tier", "status", "store", "text"),
    *("tool_choice", "tools", "truncation", "usage"),
}


def types_of(response: Response) -> list[str]:
    return [item.type for item in response.output]


class TestResponse:
    async def test_is_a_turn(self, client: AsyncOpenAI, native: Client) -> None:
        response = await ask(
            client,
            'think Hm.\nsay One moment. \ncall add_task {"title": "milk"}',
            instructions="Be brief.",
            metadata={"page": "1"},
            temperature=0.5,
            user="u1",
            safety_identifier="s1",
            prompt_cache_key="k1",
        )
        assert (response.user, response.safety_identifier, response.prompt_cache_key) == ("u1", "s1", "k1")
        assert (response.status, types_of(response)) == (
            "completed",
            ["reasoning", "message", "mcp_call", "message"],
        )
        assert response.output_text == "One moment. add_task: done. "
        assert (response.instructions, response.metadata, response.temperature) == (
            "Be brief.",
            {"page": "1"},
            0.5,
        )
        assert response.usage is not None
        assert response.usage.output_tokens == 1
        call: Any = response.output[2]
        assert (call.server_label, call.status, json.loads(call.output)["title"]) == (
            "chatapi",
            "completed",
            "milk",
        )
        turn_id = int(response.id.removeprefix("resp_"))
        assert response.conversation is not None
        conversation_id = response.conversation.id.removeprefix("conv_")
        messages = (await native.get(native.mine(f"/conversations/{conversation_id}/messages"))).json()[
            "items"
        ]
        assert [message["turn_id"] for message in messages] == [turn_id, turn_id]
        assert CommandedAgent.seen[-1].options.instructions == "Be brief."
        assert await client.responses.retrieve(response.id) == response
        items = (await client.responses.input_items.list(response.id)).data
        assert [(item.type, item.id) for item in items] == [("message", f"msg_{turn_id}_0")]

    async def test_has_all_members_that_open_responses_asks_for(self, client: AsyncOpenAI) -> None:
        response = (await ask(client, "say Yes.")).to_dict()
        assert response.keys() >= MEMBERS
        assert all(isinstance(response[name], int | float) for name in NUMBERS)

    async def test_streams_what_the_helper_and_a_later_reader_get(self, client: AsyncOpenAI) -> None:
        message = 'think Hm, so.\nwords 20\ncall add_task {"title": "milk"}\nsay Done then.'
        async with client.responses.stream(model="commanded", input=message) as stream:
            live = [event async for event in stream]
            final = await stream.get_final_response()
        assert final.output_text.endswith("Done then.")
        plain = await events_of(client, final.id)
        assert [event.sequence_number for event in plain] == list(range(len(plain)))
        assert [event.type for event in live] == [event.type for event in plain]
        assert plain[-1].response == await client.responses.retrieve(final.id)
        rest = await events_of(client, final.id, starting_after=7)
        assert rest == plain[8:]
        assert await events_of(client, final.id, starting_after=len(plain)) == []

    async def test_goes_on_from_the_last_one_and_not_from_an_older_one(
        self, client: AsyncOpenAI, native: Client
    ) -> None:
        first = await ask(client, "say one")
        second = await ask(client, "history", previous_response_id=first.id)
        assert second.output_text == '[["user", "say one"], ["assistant", "one"]]'
        assert (second.conversation, second.previous_response_id) == (first.conversation, first.id)
        with pytest.raises(openai.ConflictError) as refused:
            await ask(client, "say three", previous_response_id=first.id)
        assert refused.value.code == "turn_superseded"
        assert refused.value.response.headers["x-should-retry"] == "false"
        # A failed turn is none to go on from, and none in the way.
        with pytest.raises(openai.APIStatusError):
            await ask(client, "fail", previous_response_id=second.id)
        third = await ask(client, "say three", previous_response_id=second.id)
        assert third.output_text == "three"
        assert third.conversation is not None
        assert await ask(client, "say four", conversation=third.conversation.id)

    async def test_takes_what_was_sent_before_the_message_for_its_context(self, client: AsyncOpenAI) -> None:
        first = await ask(
            client,
            [
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": "one"},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "two"}]},
                {"type": "function_call", "call_id": "call_x", "name": "time_zone", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "call_x", "output": "UTC"},
                {"role": "user", "content": [{"type": "input_text", "text": "history"}]},
            ],
        )
        before = [["user", "one"], ["assistant", "two"]]
        assert json.loads(first.output_text) == before
        assert CommandedAgent.seen[-1].options.instructions == "Be kind."
        assert CommandedAgent.seen[-1].history[-1].tool_calls[0].result == "UTC"
        second = await ask(client, "history", previous_response_id=first.id)
        assert json.loads(second.output_text) == [
            *before,
            ["user", "history"],
            ["assistant", first.output_text],
        ]
        items = (await client.responses.input_items.list(first.id, order="asc")).data
        assert [item.type for item in items] == [
            *("message", "function_call", "function_call_output", "message", "message")
        ]

    async def test_takes_files_by_data_url_and_by_id(self, client: AsyncOpenAI, native: Client) -> None:
        text = base64.b64encode(b"milk").decode()
        content = [
            {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
            {"type": "input_file", "file_data": f"data:text/plain;base64,{text}", "filename": "list.txt"},
            {"type": "input_text", "text": "files"},
        ]
        first = await ask(client, [{"role": "user", "content": content}])
        assert json.loads(first.output_text) == [["image.png", 69], ["list.txt", "milk"]]
        parts: Any = (await client.responses.input_items.list(first.id)).data[0]
        assert [part.type for part in parts.content] == ["input_image", "input_file", "input_text"]
        again = [{"type": "input_file", "file_id": parts.content[1].file_id}, content[2]]
        second = await ask(client, [{"role": "user", "content": again}], previous_response_id=first.id)
        assert json.loads(second.output_text)[-1] == ["list.txt", "milk"]

    async def test_may_be_cut_by_length_and_fail_and_be_cancelled(self, client: AsyncOpenAI) -> None:
        cut = await ask(client, "say half\nfinish length", max_output_tokens=5)
        assert (cut.status, cut.output_text) == ("incomplete", "half")
        assert cut.incomplete_details is not None
        assert cut.incomplete_details.reason == "max_output_tokens"
        assert (await events_of(client, cut.id))[-1].type == "response.incomplete"
        stream: Any = await ask(client, "say half a\nfail", stream=True)
        seen: list[Any] = []
        with pytest.raises(openai.APIError, match="bad day") as failed:
            await gather(stream, seen)
        assert (seen[-1].type, seen[-1].response.status, failed.value.code) == (
            "response.failed",
            "failed",
            "model_failed",
        )
        response = await client.responses.retrieve(seen[0].response.id)
        assert response.error is not None
        assert (response.status, response.output_text) == ("failed", "half a")

    async def test_in_the_background_is_followed_and_cancelled(
        self, client: AsyncOpenAI, user_id: str
    ) -> None:
        gate = CommandedAgent.gates[user_id]
        first = await ask(client, "say zero")
        begun = await ask(
            client, f"say one\ngate {user_id}\nsay two", previous_response_id=first.id, background=True
        )
        assert begun.status in {"queued", "in_progress"}
        await gate.reached.wait()
        assert begun.conversation is not None
        with pytest.raises(openai.ConflictError):
            await ask(client, "say no", conversation=begun.conversation.id)
        queued = await ask(client, "say three", conversation=begun.conversation.id, background=True)
        assert queued.status == "queued"
        for earlier in (begun, first):  # one is to follow it already, and the other is not the last
            with pytest.raises(openai.ConflictError) as passed:
                await ask(client, "say no", previous_response_id=earlier.id, background=True)
            assert passed.value.code == "turn_superseded"
        following = asyncio.ensure_future(events_of(client, begun.id))
        gate.opened.set()
        last = (await following)[-1]
        assert (last.type, last.response.output_text) == ("response.completed", "onetwo")
        assert (await events_of(client, queued.id))[-1].response.output_text == "three"
        stuck = await ask(client, f"say one\ngate {user_id}-never", background=True)
        await CommandedAgent.gates[f"{user_id}-never"].reached.wait()
        cancelled = await client.responses.cancel(stuck.id)
        assert (cancelled.status, cancelled.output_text) == ("cancelled", "one")
        assert (await client.responses.cancel(stuck.id)).status == "cancelled"
        assert (await client.responses.cancel(begun.id)).status == "completed"

    async def test_is_deleted_with_its_turn(self, client: AsyncOpenAI) -> None:
        first = await ask(client, "say one")
        second = await ask(client, "say two", previous_response_id=first.id)
        assert first.conversation is not None
        await client.responses.delete(first.id)
        for lost in (first.id, "resp_x", "resp_1_1", "resp_99999999999999999999"):
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(lost)
        assert (await ask(client, "history", previous_response_id=second.id)).output_text == (
            '[["user", "say two"], ["assistant", "two"]]'
        )
        for each in (await client.conversations.items.list(first.conversation.id)).data:
            if each.type == "message" and each.role == "assistant":
                await client.responses.delete(f"resp_{each.id.split('_')[1]}")
        with pytest.raises(openai.NotFoundError):
            await client.conversations.retrieve(first.conversation.id)

    async def test_with_a_key_is_given_once(self, client: AsyncOpenAI) -> None:
        content = [
            {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
            {"type": "input_text", "text": "say one"},
        ]
        headers = {"Idempotency-Key": "a-key"}
        first = await ask(client, [{"role": "user", "content": content}], extra_headers=headers)
        assert await ask(client, [{"role": "user", "content": content}], extra_headers=headers) == first
        with pytest.raises(openai.BadRequestError) as reused:
            await ask(client, "say two", extra_headers=headers)
        assert reused.value.code == "idempotency_key_reused"

    async def test_has_those_of_our_tools_that_it_names(self, client: AsyncOpenAI) -> None:
        message = 'call add_task {"title": "milk"}'
        ours: Any = {"type": "mcp", "server_label": "chatapi"}
        done, none = "add_task: done. ", "add_task: There is no tool add_task.. "
        options: list[tuple[dict[str, Any], str]] = [
            ({"tools": [ours]}, done),
            ({"tools": [TIME_ZONE]}, done),
            ({"tools": [{**ours, "allowed_tools": ["add_task"]}]}, done),
            ({"tools": [{**ours, "allowed_tools": {"tool_names": ["list_tasks"]}}]}, none),
            ({"model": "commanded:no-tools"}, none),
        ]
        for given, text in options:
            assert (await ask(client, message, **given)).output_text == text, given
        taken = await ask(client, "ask add_task {}\nwait", tools=[{**TIME_ZONE, "name": "add_task"}])
        assert types_of(taken) == ["function_call"]

    async def test_is_parsed_by_a_schema(self, client: AsyncOpenAI) -> None:
        class Dish(BaseModel):
            name: str

        parsed = await client.responses.parse(
            model="commanded", input='say {"name": "soup"}', text_format=Dish
        )
        assert parsed.output_parsed == Dish(name="soup")
        wanted = CommandedAgent.seen[-1].options.json
        assert wanted is not None
        assert wanted.name == "Dish"

    async def test_that_is_not_stored_is_no_turn(self, client: AsyncOpenAI, native: Client) -> None:
        response = await ask(
            client,
            [
                {"role": "user", "content": "say one"},
                {"role": "assistant", "content": "one"},
                {"role": "user", "content": "history"},
            ],
            store=False,
            include=["reasoning.encrypted_content"],
        )
        assert json.loads(response.output_text) == [["user", "say one"], ["assistant", "one"]]
        assert (response.to_dict()["store"], response.conversation) == (False, None)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)
        async with client.responses.stream(model="commanded", input="words 3", store=False) as stream:
            assert (await stream.get_final_response()).output_text == "word 0 word 1 word 2 "
        assert (await native.get(native.mine("/conversations"))).json()["items"] == []


class TestAnswers:
    async def test_of_the_callers_tools_go_on_with_the_turn(self, client: AsyncOpenAI) -> None:
        message = 'use {"input_tokens": 5}\nask time_zone {}\nask time_zone {}\nwait\nsay So.\nuse {"input_tokens": 3}'
        first = await ask(client, message, tools=[TIME_ZONE])
        assert types_of(first) == ["function_call", "function_call"]
        assert first.usage is not None
        assert (first.status, first.usage.input_tokens) == ("completed", 5)
        calls: list[Any] = list(first.output)
        outputs: list[Any] = [
            {"type": "function_call_output", "call_id": call.call_id, "output": "UTC"} for call in calls
        ]
        with pytest.raises(openai.BadRequestError, match=calls[1].call_id):
            await ask(client, outputs[:1], previous_response_id=first.id)
        second = await ask(client, outputs, previous_response_id=first.id, tools=[TIME_ZONE], temperature=0)
        assert second.id == f"{first.id}_1"
        assert (second.temperature, first.temperature) == (0, 1)
        assert second.output_text == "time_zone: done. time_zone: done. So."
        assert second.usage is not None
        assert second.usage.input_tokens == 3
        assert await client.responses.retrieve(first.id) == first
        assert await client.responses.retrieve(second.id) == second
        assert (await events_of(client, first.id))[-1].response == first
        assert (await events_of(client, second.id))[-1].response == second
        # The same again gets the same, and older ones are superseded.
        assert (
            await ask(client, outputs, previous_response_id=first.id, tools=[TIME_ZONE], temperature=0)
            == second
        )
        with pytest.raises(openai.ConflictError):
            await ask(client, "say three", previous_response_id=first.id)
        given = (await client.responses.input_items.list(second.id, order="asc")).data
        assert [item.type for item in given] == ["function_call_output", "function_call_output"]

    async def test_may_come_with_the_whole_history(self, client: AsyncOpenAI) -> None:
        """As the AI SDK and openai-agents send it, without `previous_response_id`."""
        history: list[Any] = [
            {"role": "user", "content": "ask time_zone {}\nwait\nask time_zone {}\nwait\nsay So."}
        ]
        for _ in range(2):
            response = await ask(client, history, tools=[TIME_ZONE])
            call: Any = response.output[-1]
            history += [item.to_dict() for item in response.output]
            history.append({"type": "function_call_output", "call_id": call.call_id, "output": "UTC"})
        last = await ask(client, history, tools=[TIME_ZONE])
        assert last.output_text == "time_zone: done. So."
        assert last.id.endswith("_2")
        reference = {"type": "item_reference", "id": last.output[0].id}
        seen = await ask(
            client, [{"role": "user", "content": "one"}, reference, {"role": "user", "content": "history"}]
        )
        assert json.loads(seen.output_text)[1] == ["assistant", "time_zone: done. So."]

    async def test_to_approvals_are_good_after_a_restart_and_elsewhere(self, empty_database_url: str) -> None:
        settings = settings_for(empty_database_url, tool_approval="destructive")
        async with serve(settings) as url, Client(url, "alice") as native, sdk(url, "alice") as client:
            task_id = (await native.chat('call add_task {"title": "milk"}')).json()["tool_calls"][0][
                "result"
            ]["id"]
            message = f'ask delete_task {{"task_id": {task_id}}}\nwait\nsay So.'
            first: Any = await ask(client, message, stream=True)
            waiting = [event async for event in first][-1].response
            assert types_of(waiting) == ["mcp_approval_request"]
        async with (
            serve(settings) as url,
            serve(settings) as other,
            sdk(url, "alice") as client,
            sdk(other, "alice") as far,
        ):
            request_id = waiting.output[0].id
            answer = {"type": "mcp_approval_response", "approval_request_id": request_id, "approve": True}
            gone_on: Any = await ask(client, [answer], previous_response_id=waiting.id, stream=True)
            live = [event async for event in gone_on]
            last = live[-1].response
            assert types_of(last) == ["mcp_call", "message"]
            assert (last.output[0].approval_request_id, last.output[0].error) == (request_id, None)
            assert await events_of(far, last.id) == live
            assert last.output_text == "delete_task: done. So."
            # One that goes on is followed elsewhere, too, from its beginning or from a number.
            gate = CommandedAgent.gates["elsewhere"]
            begun = await ask(client, "say one two\ngate elsewhere\nsay  three", background=True)
            await gate.reached.wait()
            readers = [asyncio.ensure_future(events_of(far, begun.id, starting_after=n)) for n in (-1, 3)]
            gate.opened.set()
            whole, rest = [await reader for reader in readers]
            assert whole == await events_of(client, begun.id)
            assert (rest, whole[-1].response.output_text) == (whole[4:], "one two three")
            items = (await far.conversations.items.list(last.conversation.id, order="asc")).data
            assert [item.type for item in items][-5:] == [
                *("message", "mcp_approval_request", "mcp_approval_response", "mcp_call", "message")
            ]


class TestConversation:
    async def test_is_made_read_changed_listed_and_deleted(self, client: AsyncOpenAI, native: Client) -> None:
        made = await client.conversations.create(metadata={"topic": "food"})
        assert await client.conversations.retrieve(made.id) == made
        changed = await client.conversations.update(made.id, metadata={"topic": "drinks"})
        assert changed.metadata == {"topic": "drinks"}
        empty = await client.conversations.items.list(made.id)
        assert (empty.data, empty.has_more) == ([], False)
        for number in range(3):
            await ask(client, f"say {number}", conversation=made.id)
        page = await client.conversations.items.list(made.id, limit=2)
        assert page.has_more
        pages: list[Any] = [item async for item in page]
        assert [item.content[0].text for item in pages] == ["2", "say 2", "1", "say 1", "0", "say 0"]
        up: list[Any] = [
            item async for item in await client.conversations.items.list(made.id, order="asc", limit=1)
        ]
        assert [item.id for item in up] == [item.id for item in reversed(pages)]
        await native.chat("say native")
        listed = (await native.get(native.mine("/conversations"))).json()["items"]
        assert [each["source"] for each in listed] == ["app", "v1"]
        for source in ("app", "v1"):
            only = (await native.get(native.mine(f"/conversations?source={source}"))).json()["items"]
            assert [each["source"] for each in only] == [source]
        assert (await client.conversations.delete(made.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.conversations.items.list(made.id)


class TestAddedItems:
    async def test_are_context_listed_found_and_deleted(self, client: AsyncOpenAI, native: Client) -> None:
        call = {"type": "function_call", "call_id": "c1", "name": "time_zone", "arguments": "{}"}
        output: Any = {"type": "function_call_output", "call_id": "c1", "output": "UTC"}
        first: list[Any] = [
            {"role": "assistant", "content": "Welcome."},
            {"role": "user", "content": [{"type": "input_text", "text": "say Zanzibar"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Zanzibar."}]},
            call,
        ]
        made = await client.conversations.create(items=first)
        picture = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
        second: Any = [output, {"role": "user", "content": [picture]}]
        added = await client.conversations.items.create(made.id, items=second)
        assert [item.type for item in added.data] == ["function_call_output", "message"]
        items: list[Any] = (await client.conversations.items.list(made.id, order="asc")).data
        assert [item.type for item in items] == [
            *["message"] * 3,
            "function_call",
            "function_call_output",
            "message",
        ]
        assert (items[3].call_id, items[4].call_id, items[4].output) == ("c1", "c1", "UTC")
        for item in items:
            assert await client.conversations.items.retrieve(item.id, conversation_id=made.id) == item
        response = await ask(client, "history\nfiles", conversation=made.id)
        history = [
            ["user", "(The assistant speaks first.)"],
            ["assistant", "Welcome."],
            ["user", "say Zanzibar"],
            ["assistant", "Zanzibar."],
        ]
        assert response.output_text == json.dumps(history) + '[["image.png", 69]]'
        seen = next(prompt for prompt in CommandedAgent.seen if prompt.message == "history\nfiles")
        assert [(call.id, call.result) for call in seen.history[-1].tool_calls] == [("c1", "UTC")]
        later = await ask(client, "history", previous_response_id=response.id)
        assert json.loads(later.output_text) == [
            *history,
            ["user", "history\nfiles"],
            ["assistant", response.output_text],
        ]

        mine = native.mine(f"/conversations/{made.id.removeprefix('conv_')}/messages")
        shown = (await native.get(mine)).json()["items"]
        assert [each["content"] for each in shown][:3] == ["Welcome.", "say Zanzibar", "Zanzibar."]
        pages = (await native.get(f"{mine}?format=ui")).json()["items"]
        assert [each["role"] for each in pages] == [each["role"] for each in shown]
        found = (await native.get(native.mine("/search?q=zanzi"))).json()["items"]
        assert len(found) >= 2
        exported = (await native.get(native.mine("/export"))).text
        assert '"content":"Welcome."' in exported

        answered: Any = response.output[0]
        for last in (answered.id, items[3].id):
            with pytest.raises(openai.ConflictError) as held:
                await client.conversations.items.delete(last, conversation_id=made.id)
            assert held.value.code == "item_in_use"
        for item in reversed(items):
            assert (await client.conversations.items.delete(item.id, conversation_id=made.id)).id == made.id
            with pytest.raises(openai.NotFoundError):
                await client.conversations.items.retrieve(item.id, conversation_id=made.id)
        third = await ask(client, "history", conversation=made.id)
        assert json.loads(third.output_text)[0] == ["user", "history\nfiles"]
        assert '"content":"Welcome."' not in (await native.get(native.mine("/export"))).text

    async def test_are_added_once_with_a_key_and_not_beside_a_turn(
        self, client: AsyncOpenAI, native: Client
    ) -> None:
        key = {"Idempotency-Key": uuid.uuid4().hex}
        other = {"Idempotency-Key": uuid.uuid4().hex}
        item: Any = {"role": "user", "content": "Hello"}
        made = [await client.conversations.create(items=[item], extra_headers=key) for _ in range(2)]
        assert made[0] == made[1]
        conversation = made[0].id
        create = client.conversations.items.create
        added = [await create(conversation, items=[item, item], extra_headers=other) for _ in range(2)]
        assert added[0] == added[1]
        assert len((await client.conversations.items.list(conversation)).data) == 3
        with pytest.raises(openai.BadRequestError):
            await create(conversation, items=[item], extra_headers=other)
        waiting = await ask(client, "ask time_zone {}\nwait", tools=[TIME_ZONE], conversation=conversation)
        with pytest.raises(openai.ConflictError) as busy:
            await client.with_options(max_retries=0).conversations.items.create(conversation, items=[item])
        assert busy.value.code == "turn_in_progress"
        await client.responses.cancel(waiting.id)
        last = (await create(conversation, items=[{"role": "assistant", "content": "Bye."}])).data[0]
        turn_id = str(last.id).split("_")[1]
        for refused in (
            client.responses.retrieve(f"resp_{turn_id}"),
            client.responses.delete(f"resp_{turn_id}"),
        ):
            with pytest.raises(openai.NotFoundError):
                await refused
        with pytest.raises(openai.BadRequestError):
            await ask(client, "say x", previous_response_id=f"resp_{turn_id}")
        asked: Any = {"role": "user", "content": "say Anew."}
        question = (await create(conversation, items=[asked])).data[0]
        answer = await native.post(
            native.mine(f"/turns/{str(question.id).split('_')[1]}/regenerate"), json={}
        )
        assert answer.json()["response"] == "Anew."
        await create(conversation, items=[{"role": "assistant", "content": "Bye."}])
        last = (await client.conversations.items.list(conversation)).data[0]
        turn_id = str(last.id).split("_")[1]
        anew = await native.post(native.mine(f"/turns/{turn_id}/regenerate"), json={})
        assert (anew.status_code, anew.json()["errors"][0]["path"]) == (422, "message")


async def test_nothing_of_somebody_elses_can_be_reached(service: str, client: AsyncOpenAI) -> None:
    first = await ask(client, "ask time_zone {}\nwait", tools=[TIME_ZONE])
    call: Any = first.output[0]
    assert first.conversation is not None
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "UTC"}
    async with sdk(service, f"eve-{uuid.uuid4().hex}") as eve:
        attempts: list[tuple[Awaitable[Any], int]] = [
            (eve.responses.retrieve(first.id), 404),
            (eve.responses.cancel(first.id), 404),
            (eve.responses.delete(first.id), 404),
            (eve.responses.input_items.list(first.id), 404),
            (eve.conversations.retrieve(first.conversation.id), 404),
            (eve.conversations.items.list(first.conversation.id), 404),
            (
                eve.conversations.items.create(
                    first.conversation.id, items=[{"role": "user", "content": "x"}]
                ),
                404,
            ),
            (eve.conversations.items.retrieve(call.id, conversation_id=first.conversation.id), 404),
            (eve.conversations.items.delete(call.id, conversation_id=first.conversation.id), 404),
            (eve.conversations.delete(first.conversation.id), 404),
            (ask(eve, "say x", conversation=first.conversation.id), 404),
            (ask(eve, "say x", previous_response_id=first.id), 400),
            (ask(eve, [{"role": "user", "content": "x"}, output]), 400),
            (ask(eve, [{"type": "item_reference", "id": call.id}, {"role": "user", "content": "x"}]), 404),
        ]
        for attempt, status in attempts:
            with pytest.raises(openai.APIStatusError) as refused:
                await attempt
            assert refused.value.status_code == status
    assert (await client.responses.retrieve(first.id)) == first


REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    ({}, "input", "invalid_value"),
    ({"input": []}, "input", "invalid_value"),
    ({"input": [{"role": "assistant", "content": "x"}]}, "input", "invalid_value"),
    ({"input": [{"role": "user", "content": " "}]}, "input[0].content", "invalid_value"),
    ({"input": [{"type": "computer_call"}]}, "input[0].type", "unsupported_parameter"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://x"}]}]}, "input[0].content[0].image_url", "invalid_value"),
    ({"input": [{"type": "function_call_output", "call_id": "x", "output": ""}]}, "input[0].call_id", "invalid_value"),
    ({"input": [{"role": "user", "content": "x"}, {"type": "function_call_output", "call_id": "call_1_1", "output": ""}]}, "input[1].call_id", "invalid_value"),
    ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
    ({"input": "x", "tools": [{"type": "function", "name": "a"}] * 2}, "tools[1].name", "invalid_value"),
    ({"input": "x", "max_tool_calls": 1}, "max_tool_calls", "unsupported_parameter"),
    ({"input": "x", "reasoning": {"mode": "pro"}}, "reasoning.mode", "unsupported_parameter"),
    ({"input": "x", "include": ["web_search_call.results"]}, "include", "invalid_value"),
    ({"input": "x", "model": "gpt-9"}, "model", "model_not_found"),
    ({"input": "x", "previous_response_id": "resp_x"}, "previous_response_id", "previous_response_not_found"),
    ({"input": "x", "previous_response_id": "resp_1", "conversation": "conv_1"}, "conversation", "invalid_value"),
    ({"input": "x", "conversation": "1"}, None, "conversation_not_found"),
    ({"input": "x", "store": False, "background": True}, "background", "invalid_value"),
    ({"input": [{"type": "item_reference", "id": "msg_x"}]}, "input[0].id", "item_not_found"),
    ({"input": "x", "store": True, "tool_choice": {"type": "file_search"}}, "tool_choice.type", "unsupported_parameter"),
    ({"input": "x", "instructions": 1}, "instructions", "invalid_value"),
]  # fmt: skip


async def test_what_is_refused_is_named(alice: Client) -> None:
    for body, param, code in REFUSED:
        answer = await alice.post("/v1/responses", json=body)
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == (param, code), (body, error)


MESSAGE = {"role": "user", "content": "x"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
REFUSED_ITEMS: list[tuple[dict[str, Any], str, str]] = [
    ({}, "items", "invalid_value"),
    ({"items": []}, "items", "invalid_value"),
    ({"items": [MESSAGE] * 21}, "items", "invalid_value"),
    ({"items": [MESSAGE, {"role": "user", "content": " "}]}, "items[1].content", "invalid_value"),
    ({"items": [{"role": "assistant", "content": ""}]}, "items[0].content", "invalid_value"),
    ({"items": [{"role": "developer", "content": "x"}]}, "items[0].role", "unsupported_parameter"),
    ({"items": [{"type": "web_search_call"}]}, "items[0].type", "unsupported_parameter"),
    ({"items": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "items[0].call_id", "invalid_value"),
    ({"items": [CALL, CALL]}, "items[1].call_id", "invalid_value"),
    ({"items": [{"type": "item_reference", "id": "msg_1_1"}]}, "items[0].id", "item_not_found"),
    ({"items": [MESSAGE], "metadata": {}}, "metadata", "unsupported_parameter"),
]  # fmt: skip


async def test_items_that_cannot_be_added_are_refused_by_name(alice: Client) -> None:
    conversation = (await alice.post("/v1/conversations", json={})).json()["id"]
    route = f"/v1/conversations/{conversation}/items"
    for body, param, code in REFUSED_ITEMS:
        error = (await alice.post(route, json=body)).json()["error"]
        assert (error["param"], error["code"]) == (param, code), (body, error)
    for item in ("msg_1", "msg_0_1", "x", "msg_99999999_1"):
        assert (await alice.get(f"{route}/{item}")).status_code == 404
    included = await alice.get(f"{route}?include[]=message.output_text.logprobs")
    assert included.json()["error"]["param"] == "include"
    assert (await alice.get(route)).json()["data"] == []
