"""Chat completions by OpenAI's own SDK: whole, streamed, parsed, with tools, stored, stopped, and all that is refused."""

import asyncio
import base64
import json
import uuid
from typing import Any

import openai
import pytest
from msgspec.structs import replace
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from chatapi.app import app_of
from chatapi.offline.assistant import OfflineAgent
from chatapi.patience import Patience
from chatapi.services import Services
from tests.support.agents import CommandedAgent
from tests.support.openai_sdk import sdk
from tests.support.serving import SLOW_MACHINE, Client, serve, serving, settings_for

PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
        "0000000c49444154789c63f8ffff3f0005fe02fea735c4a40000000049454e44ae426082"
    )
).decode()
TIME_ZONE: Any = {"type": "function", "function": {"name": "time_zone", "parameters": {"type": "object"}}}
WEATHER: Any = {"type": "function", "function": {"name": "weather"}}
OURS = {"type": "mcp", "server_label": "chatapi"}


def said(content: Any, role: str = "user", **members: Any) -> Any:
    return {"role": role, "content": content, **members}


async def ask(client: AsyncOpenAI, *messages: Any, **options: Any) -> ChatCompletion:
    completion: ChatCompletion = await client.chat.completions.create(
        **{
            "model": "commanded",
            "messages": [said(each) if isinstance(each, str) else each for each in messages],
            **options,
        }
    )
    return completion


async def stream(client: AsyncOpenAI, *messages: Any, **options: Any) -> list[ChatCompletionChunk]:
    chunks: Any = await ask(client, *messages, stream=True, **options)
    return [chunk async for chunk in chunks]


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


class TestAnswer:
    async def test_is_a_completion_of_which_nothing_is_stored_but_what_was_used(
        self, client: AsyncOpenAI, native: Client
    ) -> None:
        completion = await ask(
            client, "think Hm.\nsay Yes.\nuse " + json.dumps({"input_tokens": 7, "cached_input_tokens": 3})
        )
        (choice,) = completion.choices
        assert (choice.finish_reason, choice.message.content, choice.message.role) == (
            "stop",
            "Yes.",
            "assistant",
        )
        assert choice.message.model_extra == {"reasoning_content": "Hm."}
        assert (completion.object, completion.model) == ("chat.completion", "commanded")
        used = completion.usage
        assert used is not None
        assert used.prompt_tokens_details is not None
        told = (used.prompt_tokens, used.prompt_tokens_details.cached_tokens, used.total_tokens)
        assert told == (7, 3, used.completion_tokens + 7)
        assert (await native.get(native.mine("/conversations"))).json()["items"] == []
        by_model = (await native.get(native.mine("/usage"), params={"by": "model"})).json()["items"]
        assert sum(each["input_tokens"] for each in by_model) == 7
        assert (await native.get(native.mine("/usage"), params={"by": "conversation"})).json()["items"] == []

    async def test_is_given_on_the_conversation_that_the_caller_keeps(self, client: AsyncOpenAI) -> None:
        await ask(
            client,
            said("Be brief.", "system"),
            said([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]),
            "three",
            said("four", "assistant"),
            said("And kind.", "developer"),
            said([{"type": "text", "text": "files"}, image(PNG)]),
        )
        prompt = CommandedAgent.seen[-1]
        assert [(each.role, each.content) for each in prompt.history] == [
            ("user", "one\n\ntwo\n\nthree"),
            ("assistant", "four"),
        ]
        assert (prompt.message, prompt.options.instructions) == ("files", "Be brief.\n\nAnd kind.")
        (file,) = prompt.files
        assert (file.name, file.media_type, await file.read()) == (
            "image.png",
            "image/png",
            base64.b64decode(PNG),
        )

    async def test_takes_a_text_far_above_our_own_limit(self, client: AsyncOpenAI) -> None:
        assert (await ask(client, "say x" + "y" * 200_000)).choices[0].message.content == "x" + "y" * 200_000

    async def test_is_asked_for_with_all_options(self, client: AsyncOpenAI) -> None:
        await ask(
            client,
            "hello",
            temperature=0.5,
            top_p=1,
            stop="END",
            seed=1,
            max_tokens=5,
            max_completion_tokens=5,
            response_format={"type": "json_object"},
            reasoning_effort="low",
            n=1,
            logit_bias={},
            user=None,
        )
        options = CommandedAgent.seen[-1].options
        assert (options.temperature, options.stop, options.max_output_tokens) == (0.5, ["END"], 5)
        assert options.json is not None
        assert options.reasoning_effort == "low"

    async def test_is_parsed_by_the_sdk(self, client: AsyncOpenAI) -> None:
        class Number(BaseModel):
            n: int

        parsed = await client.chat.completions.parse(
            model="commanded", messages=[said('say {"n": 7}')], response_format=Number
        )
        assert parsed.choices[0].message.parsed == Number(n=7)
        wanted = CommandedAgent.seen[-1].options.json
        assert wanted is not None
        assert (wanted.name, wanted.strict) == ("Number", True)


def image(data: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


class TestStream:
    async def test_has_all_that_the_sdks_helpers_want(self, client: AsyncOpenAI) -> None:
        async with client.chat.completions.stream(
            model="commanded",
            messages=[said("think Hm.\nsay One \nsay two.")],
            stream_options={"include_usage": True},
        ) as events:
            chunks = [event.chunk async for event in events if event.type == "chunk"]
            final = await events.get_final_completion()
        assert (final.choices[0].message.content, final.choices[0].finish_reason) == ("One two.", "stop")
        assert chunks[0].choices[0].delta.role == "assistant"
        assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
        assert len({chunk.id for chunk in chunks}) == 1
        assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
        assert chunks[-1].choices == []
        assert "Hm." in [
            (each.choices[0].delta.model_extra or {}).get("reasoning_content") for each in chunks[:-1]
        ]

    async def test_says_so_when_it_fails_and_is_closed_then(
        self, client: AsyncOpenAI, native: Client
    ) -> None:
        with pytest.raises(openai.APIError, match="a bad day") as failed:
            await stream(client, "say One \nfail")
        assert failed.value.code == "model_failed"
        body = {"model": "commanded", "messages": [said("say One \nfail")], "stream": True}
        lines = (await native.post("/v1/chat/completions", json=body)).text.strip().split("\n\n")
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["type"] == "server_error"
        assert lines[-1] == "data: [DONE]"

    async def test_sends_comments_while_it_has_nothing_to_say(self, database_url: str, user_id: str) -> None:
        gate = CommandedAgent.gates[user_id]
        patience = replace(SLOW_MACHINE, stream_heartbeat=0.01)
        async with serve(settings_for(database_url), patience=patience) as url, Client(url, user_id) as plain:
            body = {"model": "commanded", "messages": [said(f"gate {user_id}\nsay Yes.")], "stream": True}
            async with plain.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = []
                async for line in response.aiter_lines():
                    lines.append(line)
                    if line == ": still here":
                        gate.opened.set()
        assert lines[-2:] == ["data: [DONE]", ""]


class TestTools:
    async def test_of_the_caller_end_the_answer_and_its_outcomes_continue_it(
        self, client: AsyncOpenAI
    ) -> None:
        question = 'say Let me see.\nask time_zone {"city": "Bern"}\nask weather\nwait\nsay Done.'
        first = await ask(client, question, tools=[TIME_ZONE, WEATHER], parallel_tool_calls=True)
        (choice,) = first.choices
        assert choice.finish_reason == "tool_calls"
        calls = choice.message.tool_calls or []
        assert [call.function.name for call in calls if call.type == "function"] == ["time_zone", "weather"]
        outcomes = [said("CET", "tool", tool_call_id=call.id) for call in calls]
        second = await ask(client, question, choice.message, *outcomes, tools=[TIME_ZONE, WEATHER])
        assert second.choices[0].message.content == 'time_zone: "CET". weather: "CET". Done.'
        assert CommandedAgent.seen[-1].begun.content == "Let me see."  # type: ignore[union-attr]
        later = [question, choice.message, *outcomes, second.choices[0].message, "history"]
        third = await ask(client, *later)
        assert json.loads(third.choices[0].message.content or "") == [
            ["user", question],
            ["assistant", 'Let me see.\n\ntime_zone: "CET". weather: "CET". Done.'],
        ]

    async def test_are_streamed_with_their_places(self, client: AsyncOpenAI) -> None:
        async with client.chat.completions.stream(
            model="commanded", messages=[said("ask weather\nask weather\nwait")], tools=[WEATHER]
        ) as events:
            async for _ in events:
                pass
            final = await events.get_final_completion()
        assert final.choices[0].finish_reason == "tool_calls"
        assert len({call.id for call in final.choices[0].message.tool_calls or []}) == 2

    async def test_of_ours_are_told_where_nobody_has_any_or_they_are_named(self, client: AsyncOpenAI) -> None:
        ours = {"add_task", "update_task"}
        for model, tools, told in (
            ("commanded", None, ours),
            ("commanded:no-tools", None, set()),
            ("commanded", [WEATHER], {"weather"}),
            ("commanded", [OURS], ours),
            ("commanded", [WEATHER, OURS], {"weather", *ours}),
            ("commanded:no-tools", [WEATHER, OURS], {"weather"}),
        ):
            for store in (False, True):
                answer = await ask(
                    client, "specs", model=model, store=store, **({"tools": tools} if tools else {})
                )
                found = set(json.loads(answer.choices[0].message.content or ""))
                assert found & {*ours, "weather"} == told

    async def test_of_ours_take_effect_and_are_not_shown(self, client: AsyncOpenAI, native: Client) -> None:
        answer = await ask(client, 'call add_task {"title": "Milk"}\nsay And that is all.')
        assert answer.choices[0].message.content == "add_task: done. And that is all."
        assert answer.choices[0].message.tool_calls is None
        tasks = (await native.get(native.mine("/tasks"))).json()["items"]
        assert [task["title"] for task in tasks] == ["Milk"]

    async def test_of_the_caller_win_the_name(self, client: AsyncOpenAI, native: Client) -> None:
        add = {"type": "function", "function": {"name": "add_task"}}
        answer = await ask(client, "ask add_task\nwait", tools=[add, OURS])
        assert answer.choices[0].finish_reason == "tool_calls"
        assert (await native.get(native.mine("/tasks"))).json()["items"] == []

    async def test_that_need_an_approval_are_denied_at_once(self, database_url: str, user_id: str) -> None:
        settings = settings_for(database_url, tool_approval="add_task")
        async with serve(settings) as url, sdk(url, user_id) as client, Client(url, user_id) as native:
            for stored in (False, True):
                answer = await ask(client, 'ask add_task {"title": "x"}\nwait\nsay Sorry.', store=stored)
                assert "nobody can be asked" in (answer.choices[0].message.content or "")
            assert (await native.get(native.mine("/tasks"))).json()["items"] == []


class TestStored:
    async def test_is_a_turn_of_a_conversation(self, client: AsyncOpenAI, native: Client) -> None:
        begun = await client.chat.completions.with_raw_response.create(
            model="commanded",
            store=True,
            messages=[said("Once."), said("Upon.", "assistant"), said("history")],
        )
        conversation = begun.headers["X-Conversation-Id"]
        assert json.loads(begun.parse().choices[0].message.content or "") == [
            ["user", "Once."],
            ["assistant", "Upon."],
        ]
        number = int(conversation.removeprefix("conv_"))
        for named in (conversation, str(number)):
            chunks = await stream(client, "say On.", extra_headers={"X-Conversation-Id": named})
            assert text_of(chunks) == "On."
        shown = await native.messages(number)
        assert [each["content"] for each in shown][2:] == ["say On.", "On."] * 2
        assert begun.parse().id == f"chatcmpl-{shown[0]['turn_id']}"

    async def test_keeps_its_files_which_may_also_be_named_by_their_ids(
        self, client: AsyncOpenAI, native: Client
    ) -> None:
        text = f"data:text/plain;base64,{base64.b64encode(b'Milk').decode()}"
        given = {"type": "file", "file": {"file_data": text, "filename": "list.txt"}}
        begun = await client.chat.completions.with_raw_response.create(
            model="commanded", store=True, messages=[said([{"type": "text", "text": "files"}, given])]
        )
        assert begun.parse().choices[0].message.content == '[["list.txt", "Milk"]]'
        number = int(begun.headers["X-Conversation-Id"].removeprefix("conv_"))
        (file,) = (await native.messages(number))[0]["files"]
        named = {"type": "file", "file": {"file_id": f"file_{file['id']}"}}
        for headers in ({}, {"X-Conversation-Id": str(number)}):
            answer = await ask(
                client, said([{"type": "text", "text": "files"}, named]), extra_headers=headers
            )
            assert (answer.choices[0].message.content or "").endswith('["list.txt", "Milk"]]')

    async def test_is_answered_once_for_a_key(self, client: AsyncOpenAI) -> None:
        headers = {"Idempotency-Key": uuid.uuid4().hex, "X-Conversation-Id": ""}
        question = said([{"type": "text", "text": "say Seen."}, image(PNG)])
        asked: dict[str, Any] = {"store": True, "extra_headers": headers}
        answers = [
            await client.chat.completions.with_raw_response.create(
                model="commanded", messages=[question], **asked
            )
            for _ in range(2)
        ]
        first, second = (answer.parse() for answer in answers)
        assert first.id == second.id
        assert answers[1].headers["Idempotent-Replayed"] == "true"
        chunks = await stream(client, question, **asked)
        assert (chunks[0].id, text_of(chunks)) == (first.id, "Seen.")
        with pytest.raises(openai.BadRequestError, match="Idempotency-Key"):
            await ask(client, question, temperature=1, **asked)

    async def test_goes_on_when_its_client_hangs_up_and_keeps_its_place_meanwhile(
        self, client: AsyncOpenAI, native: Client, user_id: str
    ) -> None:
        gate = CommandedAgent.gates[user_id]
        body = {
            "model": "commanded",
            "messages": [said(f"say One.\ngate {user_id}\nsay Two.")],
            "stream": True,
            "store": True,
        }
        async with native.stream("POST", "/v1/chat/completions", json=body) as response:
            conversation = response.headers["X-Conversation-Id"]
            await gate.reached.wait()
        with pytest.raises(openai.ConflictError) as busy:
            await ask(client, "say x", extra_headers={"X-Conversation-Id": conversation})
        assert busy.value.code == "turn_in_progress"
        gate.opened.set()
        number = int(conversation.removeprefix("conv_"))
        await native.get(native.mine(f"/chat/{number}/stream"))  # ends with the turn
        question, answer = await native.messages(number)
        assert (question["status"], answer["content"]) == ("completed", "One.Two.")

    async def test_waits_for_the_callers_tools(self, client: AsyncOpenAI, native: Client) -> None:
        question = "say First.\nask weather\nwait\nsay Then."
        first = await ask(client, question, tools=[WEATHER], store=True)
        message = first.choices[0].message
        assert (message.content, first.choices[0].finish_reason) == ("First.", "tool_calls")
        (call,) = message.tool_calls or []
        outcome = said("sunny", "tool", tool_call_id=call.id)
        messages: list[Any] = [said(question), message, outcome]
        raw = await client.chat.completions.with_raw_response.create(
            model="commanded", messages=messages, tools=[WEATHER], store=True
        )
        second = raw.parse()
        assert (second.id, second.choices[0].message.content) == (first.id, "weather: done. Then.")
        assert raw.headers["RateLimit-Policy"].startswith('"default";'), "outcomes are no message"
        with pytest.raises(openai.BadRequestError, match="No turn of yours waits"):
            await ask(client, question, message, outcome, tools=[WEATHER], store=True)


async def test_no_connection_to_the_database_is_held_while_the_model_thinks(
    database_url: str, user_id: str
) -> None:
    settings = settings_for(database_url, db_pool_size=1, db_max_overflow=0)
    async with serve(settings) as url, sdk(url, user_id) as client, Client(url, user_id) as native:
        gates = [CommandedAgent.gates[f"{user_id} {number}"] for number in range(5)]
        asking = [ask(client, f"gate {user_id} {number}\nsay x") for number in range(5)]
        waiting = [asyncio.create_task(each) for each in asking]
        await asyncio.gather(*(gate.reached.wait() for gate in gates))
        assert (await native.said("say Hello."))["response"] == "Hello."
        for gate in gates:
            gate.opened.set()
        assert [each.choices[0].message.content for each in await asyncio.gather(*waiting)] == ["x"] * 5


class TestEnd:
    @pytest.mark.parametrize("streams", [True, False])
    async def test_comes_when_the_client_hangs_up(self, native: Client, user_id: str, streams: bool) -> None:
        gate = CommandedAgent.gates[f"left {user_id}"]
        message = f"say One.\nleave {user_id}\nsay Two."
        body = {"model": "commanded", "messages": [said(message)], "stream": streams}
        asking = asyncio.create_task(native.post("/v1/chat/completions", json=body))
        await CommandedAgent.gates[user_id].reached.wait()
        asking.cancel()
        await gate.reached.wait()  # the agent was told

    async def test_comes_with_an_error_when_the_service_stops(self, database_url: str, user_id: str) -> None:
        patience = Patience(drain=0.05)
        services = Services.of(settings_for(database_url), patience, CommandedAgent())
        async with serving(app_of(services), patience) as url, sdk(url, user_id) as client:
            waiting = asyncio.create_task(stream(client, f"say One.\ngate {user_id}"))
            await CommandedAgent.gates[user_id].reached.wait()
            await services.supervisor.drain(0)
            with pytest.raises(openai.APIError) as error:
                await waiting
        assert error.value.code == "interrupted"


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": [said("x", "robot")]}, "messages[0].role", "invalid_value"),
    ({"messages": [said("x", "system")]}, "messages", "invalid_value"),
    ({"messages": [said("x"), said("y", "assistant")]}, "messages", "invalid_value"),
    ({"messages": [said(" ")]}, "messages[0].content", "invalid_value"),
    ({"messages": [said("x" * 262_145)]}, "messages[0].content", "invalid_value"),
    ({"messages": [said("x", "tool", tool_call_id="c")]}, "messages[0].tool_call_id", "invalid_value"),
    ({"messages": [said("x", name="Bob")]}, "messages[0].name", "unsupported_parameter"),
    (
        {"messages": [said([{"type": "input_audio", "input_audio": {}}])]},
        "messages[0].content[0].type",
        "unsupported_parameter",
    ),
    ({"messages": [said([image("?")])]}, "messages[0].content[0].image_url.url", "invalid_value"),
    ({"messages": [said([image("AAAA")])]}, "messages[0].content[0].image_url.url", "invalid_value"),
    ({"model": "gpt-9"}, "model", "model_not_found"),
    ({"tools": [WEATHER] * 2}, "tools[1].function.name", "invalid_value"),
    ({"tools": [WEATHER] * 129}, "tools", "invalid_value"),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}]},
        "tools[0].function.parameters",
        "invalid_value",
    ),
    ({"tools": [{"type": "mcp", "server_label": "other"}]}, "tools[0].server_label", "invalid_value"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    (
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        "tool_choice.function.name",
        "invalid_value",
    ),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "invalid_value"),
    ({"temperature": 3}, "temperature", "invalid_value"),
    ({"n": 2}, "n", "unsupported_parameter"),
    ({"user": ""}, "user", "invalid_value"),
    ({"safety_identifier": "x" * 65}, "safety_identifier", "invalid_value"),
    ({"new_thing": 1}, "new_thing", "unsupported_parameter"),
    ({"stream_options": {"new": 1}}, "stream_options.new", "unsupported_parameter"),
]


class TestBadInput:
    async def test_is_refused_in_the_words_of_the_api(self, native: Client) -> None:
        good = {"model": "commanded", "messages": [said("hello")]}
        for change, param, code in BAD:
            answer = await native.post("/v1/chat/completions", json={**good, **change})
            error = answer.json()["error"]
            assert (error["param"], error["code"]) == (param, code), error
            assert answer.status_code == (404 if code == "model_not_found" else 400)
            assert answer.headers.get("x-should-retry") != "true"

    async def test_in_a_header_names_the_header(self, native: Client, alice: Client) -> None:
        foreign = (await alice.said("say x"))["conversation_id"]
        body = {"model": "commanded", "messages": [said("hello")]}
        for headers in (
            {"X-Conversation-Id": str(uuid.uuid4())},
            {"X-Conversation-Id": f"conv_{foreign}"},
            {"X-Conversation-Id": "9" * 19},
            {"Idempotency-Key": "key"},
        ):
            answer = await native.post("/v1/chat/completions", json=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, *headers)

    async def test_calls_without_outcomes_are_named(self, client: AsyncOpenAI) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        with pytest.raises(openai.BadRequestError, match="no outcome after them: c1"):
            await ask(client, "x", said(None, "assistant", tool_calls=[call]), "y")

    async def test_an_option_that_the_assistant_does_not_take_is_refused_by_its_name_here(
        self, database_url: str, user_id: str
    ) -> None:
        async with serve(settings_for(database_url), OfflineAgent()) as url, sdk(url, user_id) as client:
            for options, param in (
                ({"max_completion_tokens": 5}, "max_completion_tokens"),
                ({"max_tokens": 5}, "max_tokens"),
                ({"response_format": {"type": "json_object"}}, "response_format"),
            ):
                for store in (False, True):
                    with pytest.raises(openai.BadRequestError) as error:
                        await ask(client, "hello", model="offline", store=store, **options)
                    assert (error.value.param, error.value.code) == (param, "unsupported_parameter")
            answer = await ask(client, said("Be kind.", "system"), "hello", model="offline", temperature=1)
            assert answer.choices[0].message.content

    async def test_one_completion_too_many_is_refused_and_so_is_one_beyond_a_budget(
        self, database_url: str, user_id: str
    ) -> None:
        settings = settings_for(database_url, rate_limit_chat="2/minute", budget_tokens="5/day")
        async with serve(settings) as url, sdk(url, user_id) as client:
            await ask(client, 'use {"input_tokens": 6}\nsay x')
            with pytest.raises(openai.RateLimitError) as budget:
                await ask(client, "say x")
            assert budget.value.code == "insufficient_quota"
            assert budget.value.response.headers["x-should-retry"] == "false"
            with pytest.raises(openai.RateLimitError) as limit:
                await ask(client, "say x")
            assert limit.value.code == "rate_limit_exceeded"
