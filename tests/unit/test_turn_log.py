"""Readers of a turn's log, and callers who wait for its end."""

import asyncio

import pytest

from chatapi.turns.log import TextAdded, TurnLog, Waiters
from chatapi.turns.schemas import ChatAnswer

LONG = 60.0
ANSWER = ChatAnswer(turn_id=1, conversation_id=1, message_id=1, response="ab", tool_calls=[])


async def read(log: TurnLog, silence: float = LONG) -> list[str]:
    return ["".join(event.text for event in batch) async for batch in log.read(silence)]  # type: ignore[union-attr]


async def test_every_reader_is_woken_by_each_event_and_by_the_end() -> None:
    log = TurnLog(1, 1)
    readers = [asyncio.create_task(read(log)) for _ in range(2)]
    caller = asyncio.create_task(log.answer())
    for text in ("a", "b"):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        log.add(TextAdded(text))
    await asyncio.sleep(0)
    assert not caller.done()
    log.end(ANSWER)
    assert await asyncio.gather(*readers) == [["a", "b"]] * 2
    assert await caller == await log.answer() == ANSWER


async def test_a_reader_that_leaves_and_one_that_hears_nothing_leave_nothing_behind() -> None:
    waiters = Waiters()
    leaving = asyncio.create_task(waiters.wait(LONG))
    assert not await waiters.wait(0.001)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert waiters._futures == []
