"""The instruments of `make bench`: its model's server, its load, and its count of round trips."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import openai
import pytest

from benchmarks.assistants import ANSWER
from benchmarks.load import Job, Report, Sender, run
from benchmarks.provider import WORDS, Provider
from benchmarks.trips import counting
from tests.support.postgres import Postgres

POST = "POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json"


@pytest.fixture(scope="module")
async def port() -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture(scope="module")
async def model(port: int) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
        yield client


def asked(message: str, *, stream: bool) -> str:
    return f'{{"messages": [{{"role": "user", "content": "{message}"}}], "stream": {str(stream).lower()}}}'


class TestModel:
    """As the real SDK reads it."""

    async def test_an_answer_is_whole_and_says_its_usage(self, model: openai.AsyncOpenAI) -> None:
        answer = await model.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "Hello."}]
        )
        assert answer.choices[0].message.content == ANSWER
        assert answer.usage is not None

    async def test_forty_tokens_are_forty_chunks_and_an_end(self, model: openai.AsyncOpenAI) -> None:
        stream = await model.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "forty words"}], stream=True
        )
        chunks = [chunk async for chunk in stream]
        said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        assert [word for word in said if word] == WORDS
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
        assert chunks[-1].usage is not None

    async def test_a_tool_is_called_once_and_then_an_answer_given(self, model: openai.AsyncOpenAI) -> None:
        question: openai.types.chat.ChatCompletionUserMessageParam = {"role": "user", "content": "tool"}
        called = await model.chat.completions.create(model="any", messages=[question])
        [call] = called.choices[0].message.tool_calls or []
        answered = await model.chat.completions.create(
            model="any",
            messages=[question, {"role": "tool", "tool_call_id": call.id, "content": "[]"}],
        )
        assert answered.choices[0].message.content == ANSWER

    async def test_after_a_call_that_writes_it_says_forty_tokens(self, model: openai.AsyncOpenAI) -> None:
        question: openai.types.chat.ChatCompletionUserMessageParam = {"role": "user", "content": "add x"}
        called = await model.chat.completions.create(model="any", messages=[question])
        [call] = called.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert call.function.name == "add_task"
        answered = await model.chat.completions.create(
            model="any",
            messages=[question, {"role": "tool", "tool_call_id": call.id, "content": "{}"}],
        )
        assert answered.choices[0].message.content == "".join(WORDS)


class TestLoad:
    async def send(self, port: int, message: str, *, stream: bool, expects: str) -> Report:
        sender = Sender(head=POST, body=asked(message, stream=stream), expects=expects)
        return await run(Job(port=port, senders=[sender] * 3, each=2))

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_whole_answer_is_counted_with_or_without_a_length(
        self, port: int, *, stream: bool
    ) -> None:
        report = await self.send(port, "Hello.", stream=stream, expects="stop")
        assert report.statuses == {"200": 6}
        assert report.requests == 6

    async def test_an_answer_without_its_end_is_told_from_a_whole_one(self, port: int) -> None:
        report = await self.send(port, "Hello.", stream=True, expects="what only an end has")
        assert report.statuses == {"200, unfinished": 6}


async def test_a_statement_that_is_prepared_is_one_round_trip_and_a_transaction_two_more(
    postgres: Postgres,
) -> None:
    with counting(postgres.port) as counter:
        connection = await asyncpg.connect(postgres.url("postgres", port=counter.port))
        try:
            statement = await connection.prepare("SELECT 1")
            before = counter.trips
            await statement.fetchval()
            assert counter.trips - before == 1
            async with connection.transaction():
                await statement.fetchval()
            assert counter.trips - before == 4
        finally:
            await connection.close()
