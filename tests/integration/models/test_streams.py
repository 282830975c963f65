"""Answers of real providers as streams: passed on as they come, and closed when nobody wants them any more."""

import asyncio
import gc
import uuid

from chatapi.agent.wire.formats import Question, Request
from tests.support.providers.server import Providers
from tests.support.serving import Client
from tests.support.sse import STREAM, chunks_of, streamed, text_of

TURN = """\
think The user wants milk.
say I will see to it.
call add_task {"title": "milk"}
say You have milk."""
THINKS_ALOUD = {"anthropic", "google"}  # the others keep what their models think to themselves


class TestStream:
    async def test_passes_on_each_piece_as_the_provider_sends_it(self, talker: Client, wire: str) -> None:
        chunks = await streamed(talker, TURN)
        (conversation,) = (await talker.get(talker.mine("/conversations"))).json()["items"]
        _, answer = await talker.messages(conversation["id"])
        assert text_of(chunks) == answer["content"] == "I will see to it.\n\nYou have milk."
        deltas = [chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta"]
        assert len(deltas) > 4
        thoughts = "".join(chunk["delta"] for chunk in chunks if chunk["type"] == "reasoning-delta")
        assert thoughts == ("The user wants milk." if wire.partition(":")[0] in THINKS_ALOUD else "")
        order = [chunk["type"] for chunk in chunks]
        assert (
            order.index("text-start") < order.index("tool-input-start") < order.index("tool-output-available")
        )
        assert chunks[-1]["messageMetadata"]["usage"]["output_tokens"] > 0

    async def test_that_is_cancelled_closes_the_providers(self, talker: Client, providers: Providers) -> None:
        message = f"say Once upon {uuid.uuid4().hex}\nend hang"
        async with talker.stream(
            "POST", talker.mine("/chat"), json={"message": message}, headers=STREAM
        ) as response:
            chunks = chunks_of(response)
            ids = (await anext(chunks))["messageMetadata"]
            while (await anext(chunks))["type"] != "text-delta":
                pass
            assert message not in providers.hung_up_on
            await talker.post(talker.mine(f"/turns/{ids['turn_id']}/cancel"))
            assert [chunk async for chunk in chunks][-1]["type"] == "abort"
        while message not in providers.hung_up_on:  # noqa: ASYNC110 - the fake hears of it in its own time
            await asyncio.sleep(0.01)

    async def test_that_is_open_does_not_hold_its_question(self, talker: Client) -> None:
        """It has the whole history, and an answer may take minutes."""
        name = uuid.uuid4().hex
        body = {"message": f"say Once upon {name}\nend hang"}
        async with talker.stream("POST", talker.mine("/chat"), json=body, headers=STREAM) as response:
            chunks = chunks_of(response)
            ids = (await anext(chunks))["messageMetadata"]
            while (await anext(chunks))["type"] != "text-delta":
                pass
            held = [each for each in gc.get_objects() if isinstance(each, Question | Request)]
            assert [each for each in held if name in repr(each)] == []
            await talker.post(talker.mine(f"/turns/{ids['turn_id']}/cancel"))

    async def test_that_breaks_off_ends_with_an_error(self, talker: Client) -> None:
        chunks = await streamed(talker, "say Once upon a time\nend drop")
        assert chunks[-1]["type"] == "error"
        assert "secret-of-the-provider" not in str(chunks)
        assert chunks[-1]["problem"]["status"] == 502
