"""What servers that people run themselves were seen to send, and what becomes of it.

Seen by llama.cpp's llama-server, llama-cpp-python, LiteLLM, `transformers serve`, vLLM, Ollama, DeepSeek, Mistral, Azure and Gemini.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from chatapi.agent.llm import LLMAgent
from chatapi.agent.ports import (
    AgentEvent,
    Finish,
    HistoryMessage,
    ModelUsage,
    Prompt,
    ProviderState,
    ReasoningDelta,
    StepStart,
    TextDelta,
    TextWasReasoning,
    ToolCall,
    Usage,
)
from chatapi.agent.reports import ModelReport, report_on_models
from chatapi.errors.base import AppError
from chatapi.patience import Patience
from chatapi.settings import Settings
from tests.support.providers.scripted import (
    Scripted,
    ScriptedServer,
    call,
    delta,
    refused,
    said,
    serve_scripted,
    streamed,
    whole,
)
from tests.support.serving import BRIEF_PAUSES, settings_for

LOCAL = "openai:local"
LIMITED = refused(429, {})
CALLED = streamed(delta(tool_calls=[call(id="a", index=0)]), delta("tool_calls"))
CONTEXT_REFUSALS = [
    {"error": {"code": 400, "type": "exceed_context_size_error", "message": "too big", "n_ctx": 1024}},
    {"error": {"message": "too big", "type": "invalid_request_error", "code": "context_length_exceeded"}},
    {"error": {"message": "This model's maximum context length is 4096 tokens. However, …", "code": 400}},
    {
        "error": {
            "message": "prompt is too long: 210000 tokens > 200000 maximum",
            "type": "invalid_request_error",
        }
    },
    {
        "error": {
            "code": 400,
            "status": "INVALID_ARGUMENT",
            "message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        }
    },
]


class Recorder:
    """Tools that take every call."""

    specs = ()

    def __init__(self) -> None:
        self.calls: list[ToolCall] = []

    async def call(
        self,
        name: str,
        arguments: dict[str, Any],
        **_: Any,
    ) -> ToolCall:
        done = ToolCall(id=f"call_1_{len(self.calls)}", name=name, arguments=arguments, result={"ok": True})
        self.calls.append(done)
        return done


class Answered:
    """A reply, taken apart."""

    def __init__(self, events: Sequence[AgentEvent], tools: Recorder) -> None:
        self.events = events
        self.calls = tools.calls
        self.text = ""
        for event in events:
            if isinstance(event, TextWasReasoning):
                self.text = ""
            elif isinstance(event, TextDelta):
                self.text += event.text
        self.reasoning = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
        self.steps = sum(isinstance(event, StepStart) for event in events)
        self.reason = next((event.reason for event in events if isinstance(event, Finish)), "stop")
        self.usage = next((event for event in events if isinstance(event, Usage)), None)
        self.state = next(event for event in events if isinstance(event, ProviderState))


def settings_on(*servers: ScriptedServer, model: str = LOCAL, **changes: Any) -> Settings:
    first = servers[0].base_url
    addresses = {"openai_base_url": f"{first}/v1", "anthropic_base_url": first, "gemini_base_url": first}
    if len(servers) > 1:
        addresses["gemini_base_url"] = servers[1].base_url
    keys = {"openai_api_key": "key-of-openai", "gemini_api_key": "key", "anthropic_api_key": "key"}
    return settings_for("sqlite:///unused", chat_model=model, **keys, **addresses, **changes)


def agent_on(
    *servers: ScriptedServer, model: str = LOCAL, patience: Patience = BRIEF_PAUSES, **changes: Any
) -> LLMAgent:
    return LLMAgent(model, settings=settings_on(*servers, model=model, **changes), patience=patience)


async def ask(
    agent: LLMAgent,
    message: str = "Hello",
    history: Sequence[HistoryMessage] = (),
    tools: Recorder | None = None,
    **more: Any,
) -> Answered:
    tools = tools or Recorder()
    prompt = Prompt(user_id="alice", conversation_id=1, message=message, history=history, **more)
    async with agent:
        return Answered([event async for event in agent.reply(prompt, tools)], tools)


async def events_of(agent: LLMAgent) -> list[AgentEvent]:
    prompt = Prompt(user_id="alice", conversation_id=1, message="Hello")
    return [event async for event in agent.reply(prompt, Recorder())]


async def answer_to(*replies: Scripted, model: str = LOCAL, **changes: Any) -> Answered:
    async with serve_scripted(*replies) as server:
        answered = await ask(agent_on(server, model=model, **changes))
        assert server.replies == []
        return answered


async def failure_to(*replies: Scripted, model: str = LOCAL, **changes: Any) -> AppError:
    async with serve_scripted(*replies) as server:
        with pytest.raises(AppError) as failed:
            await ask(agent_on(server, model=model, **changes))
        assert server.replies == []
        return failed.value


def turns(count: int, text: str = "x") -> list[HistoryMessage]:
    return [
        HistoryMessage(role=role, content=f"{text} {number}")
        for number in range(count)
        for role in ("user", "assistant")
    ]


class TestPlainHistory:
    CALLS = (
        ToolCall(id="call_1_0", name="add_task", arguments={"title": "milk"}, result={"id": 1}),
        ToolCall(id="functions.add_task:0", name="add_task", arguments={"title": "bread"}, error="No."),
        ToolCall(id="functions.add_task:0", name="add_task", arguments={"title": "eggs"}, result={"id": 3}),
    )
    HISTORY = (
        HistoryMessage(role="user", content="Add milk, bread and eggs"),
        HistoryMessage(role="assistant", content="Done.", tool_calls=CALLS),
    )

    async def test_has_each_call_and_its_result_in_messages_of_their_own(self) -> None:
        async with serve_scripted(said("Yes.")) as server:
            await ask(agent_on(server), history=self.HISTORY)
        _, _, *pairs, last, question = server.bodies[0]["messages"]
        assert [message["role"] for message in pairs] == ["assistant", "tool"] * 3
        assert {message["content"] for message in pairs[::2]} == {""}
        assert [len(message["tool_calls"]) for message in pairs[::2]] == [1, 1, 1]
        ids = [message["tool_calls"][0]["id"] for message in pairs[::2]]
        assert ids == [message["tool_call_id"] for message in pairs[1::2]]
        assert len(set(ids)) == 3
        assert all(len(id_) == 9 and id_.isalnum() and id_.isascii() for id_ in ids)
        assert last == {"role": "assistant", "content": "Done."}
        assert question == {"role": "user", "content": "Hello"}

    async def test_is_the_same_each_time(self) -> None:
        async with serve_scripted(said("Yes."), said("Yes.")) as server:
            await ask(agent_on(server), history=self.HISTORY)
            await ask(agent_on(server), history=self.HISTORY)
        assert server.bodies[0] == server.bodies[1]

    async def test_stands_in_for_what_an_earlier_version_stored(self) -> None:
        state = {"provider": "openai http://x", "messages": [{"kind": "response", "parts": []}]}
        stored = HistoryMessage(role="assistant", content="Done.", provider_state=state)
        async with serve_scripted(said("Yes.")) as server:
            await ask(agent_on(server), history=[self.HISTORY[0], stored])
        assert server.bodies[0]["messages"][2] == {"role": "assistant", "content": "Done."}


class TestContextOverrun:
    @pytest.mark.parametrize("refusal", CONTEXT_REFUSALS)
    async def test_leaves_the_older_half_of_the_history_out_until_it_fits(self, refusal: Any) -> None:
        async with serve_scripted(refused(400, refusal), refused(400, refusal), said("Rome.")) as server:
            answered = await ask(agent_on(server), history=turns(7))
        assert answered.text == "Rome."
        asked = [[message["content"] for message in body["messages"][1:]] for body in server.bodies]
        assert [len(messages) for messages in asked] == [15, 7, 3]
        assert asked[1] == [*["x 4"] * 2, *["x 5"] * 2, *["x 6"] * 2, "Hello"]

    async def test_by_the_message_alone_is_told_to_its_user(self) -> None:
        async with serve_scripted(*[refused(400, CONTEXT_REFUSALS[0])] * 2) as server:
            with pytest.raises(AppError) as failed:
                await ask(agent_on(server), history=turns(1))
        assert (failed.value.status, failed.value.type) == (422, "message-too-long")

    async def test_by_the_message_alone_goes_to_the_next_model_with_the_whole_history(self) -> None:
        whole_answer = {"candidates": [{"content": {"parts": [{"text": "Rome."}]}, "finishReason": "STOP"}]}
        async with (
            serve_scripted(*[refused(400, CONTEXT_REFUSALS[0])] * 2) as small,
            serve_scripted(streamed(whole_answer, done=False)) as large,
        ):
            answered = await ask(agent_on(small, large, model="openai:a,google:b"), history=turns(1))
        assert answered.text == "Rome."
        assert answered.state.model == "google:b"
        assert len(large.bodies[0]["contents"]) == 3

    async def test_told_in_the_stream_is_the_same(self) -> None:
        """LM Studio's."""
        sentence = (
            "Trying to keep the first 10136 tokens when context the overflows. However, the model is loaded with "
            "context length of only 7866 tokens, which is not enough."
        )
        async with serve_scripted(streamed({"error": sentence}, done=False), said("Rome.")) as server:
            agent = agent_on(server)
            answered = await ask(agent, history=turns(4))
        assert answered.text == "Rome."
        assert [len(body["messages"]) for body in server.bodies] == [10, 6]
        assert await agent.candidates[0].context.room(1, 100) == 7766

    async def test_told_by_an_empty_stream_is_found_out_without_streaming(self) -> None:
        """llama-cpp-python's headers are out before it looks at the prompt."""
        empty = Scripted(content_type="text/event-stream")
        async with serve_scripted(empty, refused(400, CONTEXT_REFUSALS[1]), said("Rome.")) as server:
            answered = await ask(agent_on(server), history=turns(4))
        assert answered.text == "Rome."
        assert [body.get("stream", False) for body in server.bodies] == [True, False, False]
        assert [len(body["messages"]) for body in server.bodies] == [10, 10, 6]


class TestLength:
    async def test_is_an_answer(self) -> None:
        answered = await answer_to(said("Once upon", " a time", finish="length"))
        assert (answered.text, answered.reason) == ("Once upon a time", "length")

    @pytest.mark.parametrize(
        "cut",
        [
            streamed(delta(tool_calls=[call('{"title": "mi', id="a", index=0)]), delta("length")),
            streamed(delta(tool_calls=[call('{"title": "mi', id="a", index=0)]), delta("model_length")),
            streamed(delta(reasoning_content="Hm"), delta("length")),
        ],
    )
    async def test_before_there_is_an_answer_is_none(self, cut: Scripted) -> None:
        failure = await failure_to(cut)
        assert failure.type == "model-truncated"

    @pytest.mark.parametrize(
        ("model", "limit"),
        [
            ("openai:a", {"max_tokens": 7}),
            ("openai-responses:a", {"max_output_tokens": 7}),
            ("anthropic:a", {"max_tokens": 7}),
            ("google:a", {"generationConfig": {"maxOutputTokens": 7}}),
        ],
    )
    async def test_is_asked_for_as_each_format_has_it(self, model: str, limit: dict[str, Any]) -> None:
        async with serve_scripted(refused(401, {})) as server:
            with pytest.raises(AppError):
                await ask(agent_on(server, model=model, chat_max_tokens=7))
        assert {name: server.bodies[0][name] for name in limit} == limit

    async def test_of_a_claude_model_is_taken_from_its_refusal(self) -> None:
        sentence = "max_tokens: 64000 > 8192, which is the maximum allowed number of output tokens for a"
        error = {"type": "error", "error": {"type": "invalid_request_error", "message": sentence}}
        answer = {
            "type": "message",
            "content": [{"type": "text", "text": "Hello."}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 2},
        }
        async with serve_scripted(refused(400, error), whole(answer)) as server:
            answered = await ask(agent_on(server, model="anthropic:a"))
        assert [body["max_tokens"] for body in server.bodies] == [64_000, 8192]
        assert answered.usage == ModelUsage(
            model="anthropic:a",
            base_url=server.base_url,
            input_tokens=8,
            output_tokens=2,
            cached_input_tokens=5,
        )


class TestAdapted:
    """What a refusal says of all requests is learned from it, and the request is sent again."""

    OUTPUT_TEXT: ClassVar = {"type": "output_text", "text": "Hello."}

    @pytest.mark.parametrize(
        ("model", "sentence", "answer"),
        [
            (
                "anthropic:a",
                "max_tokens: 64000 > 8192, which is the maximum allowed number of output tokens for a",
                {"content": [{"type": "text", "text": "Hello."}], "stop_reason": "end_turn"},
            ),
            (
                "openai-responses:o3",
                "Encrypted content is not supported with this model.",
                {"status": "completed", "output": [{"type": "message", "content": [OUTPUT_TEXT]}]},
            ),
        ],
    )
    async def test_are_all_turns_that_were_refused_at_once(
        self, model: str, sentence: str, answer: dict[str, Any]
    ) -> None:
        refusal = replace(refused(400, {"error": {"message": sentence}}), together=asyncio.Barrier(2))
        async with serve_scripted(refusal, refusal, whole(answer), whole(answer)) as server:
            async with agent_on(server, model=model) as agent:
                said = await asyncio.gather(*(events_of(agent) for _ in range(2)))
            assert server.replies == []
        assert [Answered(each, Recorder()).text for each in said] == ["Hello."] * 2

    @pytest.mark.parametrize(
        "sentence",
        [
            "The `reasoning_content` in the thinking mode must be passed back to the API.",
            "thinking is enabled but reasoning_content is missing in assistant tool call message at index 2",
            "Missing `reasoning_content` field in the assistant message",
        ],
    )
    async def test_is_a_history_without_the_thoughts_that_a_server_wants(self, sentence: str) -> None:
        thought = streamed(delta(reasoning_content="Hm."), delta(content="Yes."), delta("stop"))
        refusal = refused(400, {"error": {"message": sentence}})
        async with serve_scripted(refusal, said("Yes."), thought) as server:
            agent = agent_on(server)
            await ask(agent, history=TestPlainHistory.HISTORY)
            answered = await ask(agent, history=TestPlainHistory.HISTORY)
        before, *after = [
            [each.get("reasoning_content") for each in body["messages"] if each["role"] == "assistant"]
            for body in server.bodies
        ]
        assert (before, after) == ([None] * 4, [[" "] * 4] * 2)
        assert '"reasoning_content": "Hm."' in json.dumps(answered.state.data)

    @pytest.mark.parametrize(
        ("model", "refusals", "asked_for"),
        [
            ("gpt-4.1", [], [False, False]),
            (
                "gpt-5",
                [{"message": "Reasoning input items can only be provided to a reasoning or computer use model."}],
                [True, False, False],
            ),
            (
                "gpt-5",
                [{"message": "The encrypted content x could not be verified.", "code": "invalid_encrypted_content"}],
                [True, True, True],
            ),
        ],
    )  # fmt: skip
    async def test_is_a_history_with_reasoning_that_a_model_cannot_read(
        self, model: str, refusals: list[Any], asked_for: list[bool]
    ) -> None:
        answer = whole(
            {"status": "completed", "output": [{"type": "message", "content": [self.OUTPUT_TEXT]}]}
        )
        refusing = [refused(400, {"error": error}) for error in refusals]
        async with serve_scripted(*refusing, answer, answer) as server:
            agent = agent_on(server, model=f"openai-responses:{model}")
            kept = {"type": "message", "role": "assistant", "content": [self.OUTPUT_TEXT]}
            sealed = {"type": "reasoning", "summary": [], "encrypted_content": "x"}
            state = {"provider": agent.candidates[0].origin, "messages": [sealed, kept]}
            stored = HistoryMessage(role="assistant", content="Hello.", provider_state=state)
            await ask(agent, history=[HistoryMessage(role="user", content="Hi"), stored])
            await ask(agent)
        assert ["include" in body for body in server.bodies] == asked_for
        user = {"role": "user", "content": "Hi"}
        assert server.bodies[-2]["input"] == [user, kept, {"role": "user", "content": "Hello"}]
        assert all(sealed in body["input"] for body in server.bodies[:-2])


class TestStreamedCalls:
    @pytest.mark.parametrize(
        "pieces",
        [
            [call('{"n": 1}', id="a", index=0), call('{"n": 2}', id="b", index=1)],
            [call('{"n": 1}', id="a", index=0), call('{"n": 2}', id="b", index=0)],  # no counting
            [call('{"n": 1}', id="call_0", index=0), call('{"n": 2}', id="call_0", index=0)],  # nor ids
            [call('{"n": 1}', id="call_0", index=0), call('{"n": 2}', id="call_0", index=1)],
            [call('{"n": 1}', id="", index=0), call('{"n": 2}', id="", index=0)],
            [call('{"n": 1}'), call('{"n": 2}')],
            [call('{"n": 1}', id=None, index=None), call('{"n": 2}', id=None, index=None)],
            [call('{"n"', id="a", index=0), call(": 1}", id="a", index=0), call('{"n": 2}', id="b", index=0)],
            [
                call("", id="a", index=0),
                {"index": 0, "function": {"arguments": '{"n": 1}'}},
                call("", id="b", index=1),
                {"index": 1, "function": {"arguments": '{"n": 2}'}},
            ],
        ],
    )
    async def test_are_each_run_once_and_sent_back_by_ids_of_their_own(self, pieces: list[Any]) -> None:
        events = [*(delta(tool_calls=[piece]) for piece in pieces), delta("tool_calls")]
        async with serve_scripted(streamed(*events), said("Done.")) as server:
            answered = await ask(agent_on(server))
        assert [each.arguments for each in answered.calls] == [{"n": 1}, {"n": 2}]
        assert answered.text == "Done."
        *_, asked, first, second = server.bodies[1]["messages"]
        ids = [each["id"] for each in asked["tool_calls"]]
        assert [first["tool_call_id"], second["tool_call_id"]] == ids
        assert len(set(ids)) == 2
        assert all(ids)

    async def test_that_have_the_same_id_in_each_answer_are_told_apart(self) -> None:
        again = streamed(delta(tool_calls=[call('{"n": 1}', id="call_0", index=0)]), delta("tool_calls"))
        async with serve_scripted(again, again, said("Done.")) as server:
            answered = await ask(agent_on(server))
        assert len(answered.calls) == 2
        assert answered.steps == 3
        ids = [each["tool_call_id"] for each in server.bodies[2]["messages"] if each["role"] == "tool"]
        assert len(set(ids)) == 2

    async def test_are_run_though_the_reason_says_stop(self) -> None:
        asked = streamed(delta(tool_calls=[call(id="a", index=0)]), delta("stop"))
        assert (await answer_to(asked, said("Done."))).calls[0].arguments == {}

    async def test_with_arguments_as_an_object_are_taken(self) -> None:
        piece = {"index": 0, "id": "a", "function": {"name": "f", "arguments": {"n": 1}}}
        answered = await answer_to(streamed(delta(tool_calls=[piece]), delta("stop")), said("Done."))
        assert answered.calls[0].arguments == {"n": 1}

    async def test_with_arguments_that_are_no_object_are_told_so_and_not_run(self) -> None:
        asked = streamed(delta(tool_calls=[call('{"title": "mi', id="a", index=0)]), delta("tool_calls"))
        async with serve_scripted(asked, said("Sorry.")) as server:
            answered = await ask(agent_on(server))
        assert (answered.calls, answered.text) == ([], "Sorry.")
        assert "not a JSON object" in server.bodies[1]["messages"][-1]["content"]
        assert server.bodies[1]["messages"][-2]["tool_calls"][0]["function"]["arguments"] == "{}"

    async def test_keep_what_gemini_signs_behind_this_api(self) -> None:
        extra = {"google": {"thought_signature": "sig"}}
        piece = call(id="a", index=0, extra_content=extra)
        async with serve_scripted(
            streamed(delta(tool_calls=[piece]), delta("stop")), said("Done.")
        ) as server:
            await ask(agent_on(server))
        assert server.bodies[1]["messages"][-2]["tool_calls"][0]["extra_content"] == extra

    async def test_take_the_thoughts_before_them_along(self) -> None:
        """DeepSeek refuses the results of calls without the reasoning that led to them."""
        thought = streamed(
            delta(reasoning_content="Look."), delta(tool_calls=[call(id="a", index=0)]), delta("tool_calls")
        )
        async with serve_scripted(thought, said("Done.")) as server:
            await ask(agent_on(server))
        assert server.bodies[1]["messages"][-2]["reasoning_content"] == "Look."


class TestCharacters:
    async def test_cut_in_two_are_joined(self) -> None:
        halves = [
            '{"choices":[{"delta":{"content":"a\\ud83d"}}]}',
            '{"choices":[{"delta":{"content":"\\ude42b"}}]}',
        ]
        assert (await answer_to(streamed(*halves, delta("stop")))).text == "a\U0001f642b"

    async def test_of_which_only_half_comes_are_replaced(self) -> None:
        halves = ['{"choices":[{"delta":{"content":"a\\ud83d"}}]}', '{"choices":[{"delta":{"content":"b"}}]}']
        last = '{"choices":[{"delta":{"content":"c\\ud83d"},"finish_reason":"stop"}]}'
        assert (await answer_to(streamed(*halves, last))).text == "a\ufffdbc\ufffd"

    async def test_that_a_database_cannot_hold_are_not_kept_for_the_provider(self) -> None:
        arguments = '{"title": "a\\u0000b\\ud83d"}'
        asked = streamed(delta(tool_calls=[call(arguments, id="a", index=0)]), delta("tool_calls"))
        answered = await answer_to(asked, said("x\0y"))
        kept = json.dumps(answered.state.data)
        assert "\\u0000" not in kept
        assert "\\ud83d" not in kept

    async def test_of_which_bytes_are_missing_are_replaced(self) -> None:
        broken = b'data: {"choices":[{"delta":{"content":"a\xf0\x9f"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        stream = Scripted(content_type="text/event-stream", pieces=(broken,))
        assert (await answer_to(stream)).text.startswith("a\ufffd")


class TestNoAnswer:
    EMPTY = Scripted(content_type="text/event-stream")
    PEG: ClassVar = {"error": {"code": 500, "message": "output that does not match the peg-native format"}}

    async def test_of_an_empty_stream_is_asked_for_without_streaming(self) -> None:
        message = {"message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
        async with serve_scripted(self.EMPTY, whole({"choices": [message]})) as server:
            answered = await ask(agent_on(server))
        assert answered.text == "Hello."
        assert [body.get("stream", False) for body in server.bodies] == [True, False]

    @pytest.mark.parametrize("nothing", [streamed(PEG), streamed({"choices": []}), said("")])
    async def test_is_asked_for_once_more(self, nothing: Scripted) -> None:
        assert (await answer_to(nothing, said("Hello."))).text == "Hello."

    @pytest.mark.parametrize(
        ("nothing", "type_"),
        [(streamed(PEG), "model-failed"), (said(""), "model-empty"), (EMPTY, "model-failed")],
    )
    async def test_twice_is_a_failure(self, nothing: Scripted, type_: str) -> None:
        assert (await failure_to(nothing, nothing)).type == type_

    @pytest.mark.parametrize(
        "chunk",
        [
            {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]},
            {"candidates": [{"finishReason": "UNEXPECTED_TOOL_CALL"}]},
            {"candidates": []},
            {"usageMetadata": {"promptTokenCount": 3}},
        ],
    )
    async def test_of_gemini_is_asked_for_once_more_then_of_the_next_model(self, chunk: Any) -> None:
        nothing = streamed(chunk, done=False)
        async with serve_scripted(nothing, nothing) as gemini, serve_scripted(said("Hello.")) as openai:
            agent = agent_on(openai, gemini, model="google:a,openai:b")
            assert (await ask(agent)).text == "Hello."
        assert len(gemini.bodies) == 2

    async def test_is_a_failure_once_a_word_of_it_was_read(self) -> None:
        chunk = {"candidates": [{"content": {"parts": [{"text": "I will"}]}}]}
        last = {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}
        failure = await failure_to(streamed(chunk, last, done=False), model="google:a")
        assert failure.type == "model-failed"

    @pytest.mark.parametrize(
        "chunk",
        [
            {"choices": [{"delta": {"content": 7}}]},
            {"choices": "none"},
            [],
            "[" * 100_000,
        ],
    )
    async def test_that_can_be_read_is_a_failed_model(self, chunk: Any) -> None:
        text = chunk if isinstance(chunk, str) else json.dumps(chunk)
        assert (await failure_to(*[streamed(text)] * 3)).type == "model-failed"

    async def test_in_a_stream_that_ends_without_its_reason_is_broken(self) -> None:
        failure = await failure_to(streamed(delta(content="one two thr")))
        assert failure.type == "model-truncated"

    @pytest.mark.parametrize("finish", ["error", "abort", "insufficient_system_resource"])
    async def test_that_the_server_breaks_off_is_asked_for_again_unless_a_word_was_read(
        self, finish: str
    ) -> None:
        assert (await answer_to(streamed(delta(finish)), said("Hello."))).text == "Hello."
        assert (await failure_to(said("one two thr", finish=finish))).type == "model-truncated"

    async def test_is_no_matter_where_only_the_last_bytes_are_lost(self) -> None:
        cut = Scripted(content_type="text/event-stream", pieces=said("Hello.").pieces[:-1], is_cut=True)
        assert (await answer_to(cut)).text == "Hello."


class TestFilters:
    @pytest.mark.parametrize(
        ("model", "reply"),
        [
            (
                "openai:a",
                refused(
                    400,
                    {
                        "error": {
                            "code": "content_filter",
                            "status": 400,
                            "message": "The response was filtered",
                            "innererror": {"code": "ResponsibleAIPolicyViolation"},
                        }
                    },
                ),
            ),
            ("openai:a", streamed(delta("content_filter"))),
            ("google:a", streamed({"promptFeedback": {"blockReason": "SAFETY"}}, done=False)),
            ("google:a", streamed({"candidates": [{"finishReason": "PROHIBITED_CONTENT"}]}, done=False)),
            ("anthropic:a", whole({"content": [], "stop_reason": "refusal"})),
        ],
    )
    async def test_are_no_fault_of_the_operators(
        self, model: str, reply: Scripted, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, "chatapi"):
            failure = await failure_to(reply, model=model)
        assert failure.type == "model-filtered"
        assert [record.levelname for record in caplog.records] == ["WARNING"]


class TestReasoning:
    @pytest.mark.parametrize(
        "reply",
        [
            said("<think>\nMilk?", "\n</think>\n\nYes."),
            said("<th", "ink>Milk", "?</thi", "nk>", "\n\n", "Ye", "s."),
            said("\n<think>Milk?</think>Yes."),
            streamed(delta(reasoning_content="Milk?"), delta(content="\n\nYes."), delta("stop")),
            streamed(delta(reasoning="Milk?"), delta(content="Yes."), delta("stop")),
            streamed(
                delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "Milk?"}]}]),
                delta(content=[{"type": "text", "text": "Yes."}]),
                delta("stop"),
            ),
        ],
    )
    async def test_in_the_text_is_no_answer(self, reply: Scripted) -> None:
        answered = await answer_to(reply)
        assert (answered.text, answered.reasoning.strip()) == ("Yes.", "Milk?")

    async def test_that_the_template_has_opened_ends_at_a_lone_tag(self) -> None:
        opened = said("Mi", "lk?\n</th", "ink>\n\nYes.")
        async with serve_scripted(opened, opened) as server:
            agent = agent_on(server)
            first, second = await ask(agent), await ask(agent)
        assert (first.text, first.reasoning) == ("Yes.", "")
        assert (second.text, second.reasoning.strip()) == ("Yes.", "Milk?")  # the model is known by now
        assert "think>" not in json.dumps([first.state.data, second.state.data])

    async def test_that_was_expected_and_did_not_come_is_the_answer(self) -> None:
        async with serve_scripted(said("Milk?</think>Yes."), said("Plain."), said("Plain.")) as server:
            agent = agent_on(server)
            await ask(agent)
            assert (await ask(agent)).text == "Plain."
            assert (await ask(agent)).reasoning == ""

    @pytest.mark.parametrize(
        "text", ["The tag `</think>` ends it.", "a < b", "<thinking> is a tag", "</thin"]
    )
    async def test_that_is_only_spoken_about_stays(self, text: str) -> None:
        assert (await answer_to(said(*text))).text == text

    async def test_before_the_answer_leaves_no_line_ends(self) -> None:
        assert (await answer_to(said("\n", "\r\n", "Hello.\n"))).text == "Hello.\n"


class TestLimits:
    async def test_behind_litellm_have_their_delay_in_a_header_of_its_own(self) -> None:
        limited = refused(429, {"error": {"message": "litellm.RateLimitError", "code": "429"}})
        limited.headers["llm_provider-retry-after"] = "7"
        failure = await failure_to(limited)
        assert (failure.type, failure.retry_after) == ("model-busy", 7)

    async def test_that_the_gateway_has_sat_out_are_not_asked_again(self) -> None:
        limited = Scripted(status=429, seconds=0.1, pieces=(b"{}",))
        failure = await failure_to(limited, patience=Patience(model_longest_pause=0.05))
        assert failure.type == "model-busy"

    async def test_in_the_stream_are_limits(self) -> None:
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        failure = await failure_to(*[streamed(error, done=False)] * 3, model="anthropic:a")
        assert failure.type == "model-busy"

    @pytest.mark.parametrize(
        ("replies", "events"),
        [
            ([LIMITED, replace(streamed(delta(content="A long"), done=False), hangs=True)], 2),
            ([LIMITED, replace(streamed(delta(reasoning_content="Hm"), done=False), hangs=True)], 2),
            ([LIMITED, CALLED, Scripted(hangs=True)], 3),  # in the next step
        ],
    )
    async def test_that_are_over_do_not_make_a_slow_answer_a_busy_model(
        self, replies: Sequence[Scripted], events: int
    ) -> None:
        """The turn's time is up after so many events. The beginning of a step is one, and so is the usage."""
        seen, prompt = asyncio.Event(), Prompt(user_id="alice", conversation_id=1, message="Hello")

        async def read(agent: LLMAgent) -> None:
            left = events
            async for _ in agent.reply(prompt, Recorder()):
                left -= 1
                if not left:
                    seen.set()

        async with serve_scripted(*replies) as server, agent_on(server) as agent:
            reading = asyncio.create_task(read(agent))
            await asyncio.wait({reading, asyncio.create_task(seen.wait())}, return_when="FIRST_COMPLETED")
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading

    async def test_are_counted_for_each_answer_anew(self) -> None:
        twice = [LIMITED, LIMITED]
        assert (await answer_to(*twice, CALLED, *twice, said("Done."))).text == "Done."


class TestLog:
    async def test_has_the_providers_sentence(self, caplog: pytest.LogCaptureFixture) -> None:
        sentence = "Failed to initialize samplers: failed to parse grammar"
        error = {"error": {"code": 400, "message": sentence, "type": "invalid_request_error"}}
        await failure_to(refused(400, error))
        assert f"The provider refuses {LOCAL}: 400 invalid_request_error 400 {sentence}" in caplog.messages

    async def test_has_neither_our_key_nor_the_users_words(self, caplog: pytest.LogCaptureFixture) -> None:
        message = "My password is hunter2, keep it"
        sentence = f"Bad key key-of-openai. You said: '{message}'. Earlier: x 1. " + "y" * 300
        async with serve_scripted(refused(400, {"error": {"message": sentence}})) as server:
            with pytest.raises(AppError):
                await ask(agent_on(server), message=message, history=turns(2))
        (logged,) = caplog.messages
        assert "Bad key …. You said: '…'. Earlier: …." in logged
        assert len(logged) < 300


class TestReport:
    """`chatapi check-config --connect`."""

    LIST = whole({"object": "list", "data": [{"id": "local", "meta": {"n_ctx_train": 8192}}]})
    PROPS = whole({"default_generation_settings": {"n_ctx": 1024}})

    async def report(self, *replies: Scripted, model: str = LOCAL) -> tuple[ModelReport, ScriptedServer]:
        async with serve_scripted(*replies) as server:
            (report,) = await report_on_models(settings_on(server, model=model))
            assert server.replies == []
        return report, server

    async def test_says_that_a_model_takes_our_tools_and_how_long_its_context_is(self) -> None:
        report, server = await self.report(self.LIST, said("Hi.", finish="length"), self.PROPS)
        assert report == ModelReport(name=LOCAL, trouble=None, context=1024)
        assert len(server.bodies[1]["tools"]) == 5

    async def test_of_a_server_with_another_model_names_that(self) -> None:
        """llama-server answers whatever the name is."""
        report, _ = await self.report(whole({"data": [{"id": "smollm2"}]}))
        assert report.trouble == "the server does not know it; it has smollm2"

    async def test_has_the_servers_own_words_for_what_it_refuses(self) -> None:
        error = {
            "error": {"code": 400, "message": "failed to parse grammar", "type": "invalid_request_error"}
        }
        report, _ = await self.report(self.LIST, refused(400, error))
        assert report.trouble == "400 invalid_request_error 400 failed to parse grammar"

    async def test_does_without_a_list_where_there_is_none(self) -> None:
        models = whole({"models": [{"name": "models/a", "inputTokenLimit": 1_048_576}]})
        answer = streamed(
            {"candidates": [{"content": {"parts": [{"text": "Hi."}]}, "finishReason": "STOP"}]}, done=False
        )
        report, _ = await self.report(models, answer, model="google:a")
        assert (report.trouble, report.context) == (None, 1_048_576)
        report, _ = await self.report(refused(404, {}), said("Hi."), Scripted(pieces=(b"<html>",)))
        assert (report.trouble, report.context) == (None, None)

    async def test_of_nobody_at_the_address_says_so(self) -> None:
        async with serve_scripted() as server:
            pass
        (report,) = await report_on_models(settings_on(server))
        assert "away" in str(report.trouble)

    async def test_is_none_of_an_assistant_that_is_no_provider(self) -> None:
        assert await report_on_models(settings_for("sqlite:///unused")) == []


class TestProxy:
    async def test_of_the_environment_is_asked_in_the_place_of_the_server(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with serve_scripted(said("By proxy.")) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.base_url)
            settings = settings_for(
                "sqlite:///unused", openai_base_url="http://model.invalid/v1", openai_api_key="key"
            )
            assert (await ask(LLMAgent(LOCAL, settings=settings))).text == "By proxy."

    async def test_is_passed_by_for_what_no_proxy_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://nobody.invalid:1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert (await answer_to(said("Directly."))).text == "Directly."


class TestReuse:
    async def test_of_a_connection_needs_no_new_one_for_each_answer(self) -> None:
        async with serve_scripted(*[said("Hello.")] * 3) as server:
            agent = agent_on(server)
            prompt = Prompt(user_id="alice", conversation_id=1, message="Hello")
            async with agent:
                for _ in range(3):
                    assert [event async for event in agent.reply(prompt, Recorder())]
        assert len(server.clients) == 1
