"""A history that is longer than the model takes is cut before the model is asked, and stays cut."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from chatapi.agent.context import Counted, first_that_fits, half_of, listed_context, size_of, turns_of
from chatapi.agent.ports import File, HistoryMessage, JSONFormat, Options
from chatapi.agent.wire.trouble import refusal, told_in_stream
from chatapi.errors.base import AppError
from chatapi.files.schemas import FileRef
from chatapi.turns.store.history import shown_summary
from tests.integration.models.conftest import WIRES, serving
from tests.integration.models.test_any_server import CONTEXT_REFUSALS, agent_on, ask, turns
from tests.support.providers.scripted import (
    Scripted,
    ScriptedServer,
    delta,
    refused,
    said,
    serve_scripted,
    streamed,
)
from tests.support.providers.server import Providers
from tests.support.serving import Client

LONG = "some words of a long conversation " * 12  # 408 bytes


class Bytes:
    """The bytes of any file."""

    async def read(self, file: FileRef) -> bytes:
        return b"%PDF-1.7"

    async def text(self, file: FileRef) -> str:
        return ""


TOO_LARGE = "too-large"
TOO_LONG = "context_length_exceeded"
A_PDF = File(id=1, name="book.pdf", media_type="application/pdf", size=8, source=Bytes())


def counted(tokens: int) -> Any:
    """An answer whose question had so many tokens."""
    usage = {"choices": [], "usage": {"prompt_tokens": tokens, "completion_tokens": 1}}
    return streamed(delta(content="Rome."), delta("stop"), usage)


def shown(server: ScriptedServer) -> list[int]:
    """How many messages of the history each request had."""
    return [len(body["messages"]) - 2 for body in server.bodies]


class TestConfigured:
    async def test_history_falls_to_half_of_the_room_before_the_model_is_asked(self) -> None:
        async with serve_scripted(said("Rome."), said("Rome.")) as server:
            agent = agent_on(server, chat_context_tokens=2_000)
            fits = await ask(agent, history=turns(4, LONG))
            cut = await ask(agent, history=turns(8, LONG))
        assert shown(server) == [8, 4]
        assert (fits.state.left_out, cut.state.left_out) == (0, 12)
        assert server.bodies[1]["messages"][1] == {"role": "user", "content": f"{LONG} 6"}

    async def test_the_last_turn_stays_if_it_fits_at_all(self) -> None:
        async with serve_scripted(said("Rome.")) as server:
            await ask(agent_on(server, chat_context_tokens=2_000), history=turns(2, LONG * 5))
        assert shown(server) == [2]

    async def test_what_the_model_has_counted_in_the_conversation_corrects_the_estimate(self) -> None:
        """Eight turns are some 2,000 tokens by our estimate, and by the model's count 1,000."""
        async with serve_scripted(counted(250), said("Rome.")) as server:
            first = await ask(agent_on(server), history=turns(2, LONG))
            state: Any = first.state.data
            assert state["counted"]["tokens"] == 250
            history = turns(8, LONG)
            history[-1] = HistoryMessage(role="assistant", content="Rome.", provider_state=state)
            await ask(agent_on(server, chat_context_tokens=2_000), history=history)
        assert shown(server) == [4, 16]

    async def test_a_message_that_is_too_long_by_our_estimate_is_asked_all_the_same(self) -> None:
        async with serve_scripted(said("Rome.")) as server:
            answered = await ask(agent_on(server, chat_context_tokens=100), LONG * 9, history=turns(2))
        assert (answered.text, shown(server)) == ("Rome.", [0])


class TestSummary:
    async def test_stays_before_what_is_left_of_the_history(self) -> None:
        """Until there is nothing else that could be left out."""
        summary = shown_summary("They live in Rome.")
        async with serve_scripted(*[said("Rome.")] * 3) as server:
            agent = agent_on(server, chat_context_tokens=2_000)
            cut = await ask(agent, history=[*summary, *turns(8, LONG)])
            alone = await ask(agent, history=[*shown_summary(LONG * 5), *turns(1, LONG * 9)])
            none = await ask(agent, history=[*shown_summary(LONG * 14), *turns(1, LONG)])
        assert shown(server) == [6, 2, 0]
        assert [each.state.left_out for each in (cut, alone, none)] == [12, 2, 2]
        assert server.bodies[0]["messages"][1] == {"role": "user", "content": summary[0].content}

    async def test_is_asked_for_before_the_history_is_cut(self) -> None:
        async with serve_scripted(*[said("Rome.")] * 2) as server:
            agent = agent_on(server, chat_context_tokens=2_000)
            early = await ask(agent, history=turns(4, LONG))
            nearly = await ask(agent, history=turns(5, LONG))
        assert shown(server) == [8, 10]
        assert (early.state.falls_next, nearly.state.falls_next) == (0, 6)


class TestLearned:
    """By a refusal, for all conversations with the model in this process."""

    @pytest.mark.parametrize(
        "refusal",
        [
            {"error": {"type": "exceed_context_size_error", "message": "too big", "n_ctx": 2_000}},
            {"error": {"code": "context_length_exceeded", "message": "too big"}},  # the limit is not told
        ],
    )
    async def test_a_long_history_is_refused_once(self, refusal: Any) -> None:
        async with serve_scripted(refused(400, refusal), *[said("Rome.")] * 2) as server:
            agent = agent_on(server)
            first = await ask(agent, history=turns(8, LONG))
            assert shown(server)[0] == 16
            assert first.state.left_out > 0
            await ask(agent, history=turns(8, LONG))
        assert len(server.bodies) == 3
        assert max(shown(server)[1:]) <= 8

    @pytest.mark.parametrize(
        ("status", "code", "special", "answer"),
        [
            (400, TOO_LONG, {"files": [A_PDF]}, counted(90_000)),
            (400, TOO_LONG, {"options": Options(max_output_tokens=100_000)}, said("Rome.")),
            (400, TOO_LONG, {"options": Options(json=JSONFormat(schema={"d": LONG * 20}))}, said("Rome.")),
            (413, "request_too_large", {}, said("Rome.")),  # of bytes
            (413, None, {}, said("Rome.")),
        ],
    )
    async def test_what_is_refused_for_something_else_is_no_measure_for_others(
        self, status: int, code: str | None, special: dict[str, Any], answer: Scripted
    ) -> None:
        no = refused(status, {"error": {"code": code, "message": "too much"}})
        async with serve_scripted(no, answer, said("Rome."), no, no, said("Rome.")) as server:
            agent = agent_on(server, chat_model_input="image,pdf", chat_context_tokens=10_000)
            cut = await ask(agent, history=turns(2), **special)
            other = await ask(agent, history=turns(8, LONG))
            with pytest.raises(AppError):
                await ask(agent, history=turns(1), **special)
            another = await ask(agent, history=turns(8, LONG))
        assert shown(server) == [4, 2, 16, 2, 0, 16]
        assert [each.state.left_out for each in (cut, other, another)] == [2, 0, 0]

    async def test_a_model_that_stands_in_decides_nothing_for_the_first(self) -> None:
        async with serve_scripted(
            refused(503, {}), refused(400, CONTEXT_REFUSALS[0]), said("Rome.")
        ) as server:
            agent = agent_on(server, model="openai:a,openai:b")
            answered = await ask(agent, history=turns(4))
        assert answered.state.model == "openai:b"
        assert answered.state.left_out == 0


async def test_the_window_of_a_stored_conversation_stays_where_it_was_cut(
    sqlite_url: str, providers: Providers
) -> None:
    """The request after a cut begins as that one did. The fakes count ten tokens, whatever they are asked."""
    options: dict[str, Any] = {"chat_context_tokens": 3_000, "chat_history_limit": 200}
    words, conversation_id = " ".join(f"word{number}" for number in range(250)), None
    async with (
        serving(sqlite_url, WIRES[0], providers, rate_limit_chat="off", **options) as url,
        Client(url, "who-writes-much") as client,
    ):
        before = len(providers.requests)
        for number in range(24):
            conversation_id = (await client.said(f"say {number} {words}", conversation_id))["conversation_id"]
        sent = [each.body["messages"] for each in providers.requests[before:] if "tools" in each.body]
    assert len(sent) == 24
    cuts = [place for place, (last, next_) in enumerate(pairwise(sent), 1) if next_[: len(last)] != last]
    assert 2 <= len(cuts) <= 6
    assert all(len(sent[cut]) <= (len(sent[cut - 1]) + 2) / 2 + 2 for cut in cuts)


@pytest.mark.parametrize(
    ("sentence", "context"),
    [
        ("This model's maximum context length is 8192 tokens. However, your messages resulted in 8227", 8192),
        ("Prompt contains 40000 tokens, too large for model with 32768 maximum context length", 32768),
        ("The decoder prompt (length 5000) is longer than the maximum model length of 4096.", 4096),
        ("prompt is too long: 208310 tokens > 200000 maximum", 200000),
        ("input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000, decrease", 200000),
        ("The input token count (1200293) exceeds the maximum number of tokens allowed (1048576).", 1048576),
        ("request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it", 4096),
        ("Your input exceeds the context window of this model.", None),
        ("This model's maximum prompt length is 131072 but the request contains 136973 tokens.", 131072),
        ("Invalid request: Your request exceeded model token limit: 262144 (requested: 269030)", 262144),
        ("Prompt exceeds max length", None),
        ("Range of input length should be [1, 30720]", 30720),
        (
            "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 5 >= n_ctx: 4096).",
            4096,
        ),
    ],
)
def test_a_refusal_is_read(sentence: str, context: int | None) -> None:
    trouble = refusal(400, ["invalid_request_error"], sentence, None)
    assert (trouble.kind, trouble.context) == ("too-long", context)


@pytest.mark.parametrize(
    ("status", "sentence", "kind"),
    [
        (
            413,
            "Request too large for model `a` on tokens per minute (TPM): Limit 12000, Requested 14137",
            TOO_LARGE,
        ),
        (429, "Request too large for a on tokens per min (TPM): Limit 30000, Requested 31021.", TOO_LARGE),
        (429, "Rate limit reached for a on tokens per min (TPM): Limit 30000, Used 29000", "busy"),
        (429, "Too many tokens, please wait before trying again.", "busy"),
    ],
)
def test_more_tokens_than_a_minute_has_are_not_waited_for(status: int, sentence: str, kind: str) -> None:
    codes = ["tokens", "rate_limit_exceeded"]
    told = refusal(status, codes, sentence, None)
    assert (told.kind, told.context) == (kind, None)
    if status == 429:
        assert told_in_stream(codes, sentence, began=False).kind == kind


def test_models_are_listed_by_the_library_of_prices() -> None:
    assert listed_context("openai:gpt-4o") == 128_000
    assert listed_context("openai-responses:gpt-4o") == 128_000
    assert listed_context("anthropic:nobody-knows") is None


@pytest.mark.parametrize(
    ("sizes", "room", "first"),
    [
        ([1] * 8, 7, 6),
        ([1] * 8, 8, 4),
        ([1, 1, 9, 1], 8, 4),
        ([1, 1, 5, 1], 7, 2),
        ([9, 9], 8, 2),
        ([1, 1], -5, 2),
    ],
)
def test_a_history_is_cut_between_turns(sizes: Sequence[int], room: float, first: int) -> None:
    history = turns(len(sizes) // 2)
    assert first_that_fits(history, sizes, room) == first
    assert list(turns_of(history)) == list(range(0, len(sizes), 2))


def test_a_turn_may_have_several_messages_of_its_caller() -> None:
    user, answer = turns(1)
    history = [user, user, answer, user, answer, answer, user, answer]
    assert list(turns_of(history)) == [0, 3, 6]
    assert half_of(history) == 6
    assert half_of(history[:3]) == 3


def test_sizes_are_bytes_and_odd_counts_are_bounded() -> None:
    assert size_of("é") == 2
    assert size_of([{"content": "\ud800"}]) > 0
    assert Counted(size=0, tokens=10**9).tokens_per_byte == 1.5
