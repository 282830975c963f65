"""What models say they used is what is counted, whatever becomes of the turn and of the process."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from chatapi.agent.loading import load_agent
from tests.integration.models.conftest import WIRES
from tests.support.providers.scripted import Scripted, call, delta, serve_scripted, streamed
from tests.support.providers.server import Providers, serve_providers
from tests.support.serving import BRIEF_PAUSES, SECRET, Client, Process, serve, settings_for
from tests.support.sse import STREAM

EACH = (10, 5)  # each whole answer of the fakes used so many tokens
BEGUN = {
    "anthropic:claude-test": (10, 1),
    "google:gemini-3-pro": (10, 5),
}  # and so many are told of at its first word


async def by_model(client: Client) -> dict[str, tuple[int, int, int]]:
    items = (await client.get(client.mine("/usage"), params={"by": "model"})).json()["items"]
    return {item["model"]: (item["turns"], item["input_tokens"], item["output_tokens"]) for item in items}


async def test_each_answer_counts_however_its_turn_ends(
    wire: str, talker: Client, providers: Providers
) -> None:
    began = BEGUN.get(wire, (0, 0))
    answer = await talker.said('call add_task {"title": "milk"}\nsay Done.')  # two answers
    failed = await talker.chat(
        f"call list_tasks {{}}\nsay One.\nend garbage\n# {uuid4()}", answer["conversation_id"]
    )
    assert failed.status_code == 502
    # An answer that says nothing is asked for again, and has used as much.
    await talker.said(f"silent 1\nsay Hello.\n# {uuid4()}")
    message = f"say Half.\nend hang\n# {uuid4()}"
    streaming = asyncio.create_task(talker.chat(message, headers=STREAM))
    while not providers.of(message.splitlines()[-1]):  # noqa: ASYNC110 - the fake tells nobody
        await asyncio.sleep(0.01)
    (running,) = (await talker.get(talker.mine("/conversations"), params={"limit": 1})).json()["items"]
    await until_half(talker, running["id"])
    turn_id = (await talker.messages(running["id"]))[0]["turn_id"]
    assert (await talker.post(talker.mine(f"/turns/{turn_id}/cancel"))).status_code == 202
    await streaming
    whole = 2 + 1 + 2
    turns = 4 if began[0] else 3
    assert await by_model(talker) == {
        wire: (turns, whole * EACH[0] + 2 * began[0], whole * EACH[1] + 2 * began[1])
    }
    records = [json.loads(line) for line in (await talker.get(talker.mine("/export"))).text.splitlines()]
    (kept,) = [
        record["usage"] for record in records if record.get("status") == "failed" and "usage" in record
    ]
    assert (kept["input_tokens"], kept["output_tokens"]) == (EACH[0] + began[0], EACH[1] + began[1])


async def until_half(client: Client, conversation_id: int) -> None:
    async with client.stream("GET", client.mine(f"/chat/{conversation_id}/stream")) as response:
        async for line in response.aiter_lines():
            if "Half" in line:
                return


def used(input_tokens: int, **delta_: Any) -> Scripted:
    usage = {"prompt_tokens": input_tokens, "completion_tokens": 0}
    finish = "tool_calls" if "tool_calls" in delta_ else "stop"
    return streamed(delta(**delta_), delta(finish), {"choices": [], "usage": usage})


async def test_each_answer_has_a_price_of_its_own(sqlite_url: str) -> None:
    """Their sum would be beyond the edge of a tier, and cost twice as much."""
    async with serve_scripted(
        used(150_000, tool_calls=[call(id="1", index=0)]), used(150_000, content="Done.")
    ) as server:
        settings = settings_for(
            sqlite_url,
            chat_model="openai:local",
            openai_base_url=f"{server.base_url}/v1",
            model_prices='{"openai:local": "anthropic:claude-sonnet-4-5"}',
            budget_cost="5/month",
        )
        async with (
            serve(settings, load_agent(settings, BRIEF_PAUSES), BRIEF_PAUSES) as url,
            Client(url, uuid4().hex) as alice,
        ):
            await alice.said("Hello")
            assert (await alice.get(alice.mine("/usage"))).json()["total"] == {
                "turns": 1,
                "input_tokens": 300_000,
                "cached_input_tokens": 0,
                "output_tokens": 0,
                "cost": 0.9,
            }


@pytest.mark.slow
@pytest.mark.parametrize("wire", WIRES[:1])
async def test_the_sums_are_what_the_provider_gave_through_kills(
    new_database: Callable[..., str], directory: Path, wire: str
) -> None:
    """Every turn is killed while its second answer is awaited, or has come to its end."""
    async with serve_providers() as providers:  # its own: another test's service may still ask for a title
        database_url = await asyncio.to_thread(new_database)
        environ = {
            "DATABASE_URL": database_url,
            "BETTER_AUTH_SECRET": SECRET,
            "CHAT_MODEL": wire,
            "TITLES": "off",  # a title that is asked for when its process dies was given, and nobody got it
            **providers.environ,
        }
        conversations: list[int] = []
        user_id = uuid4().hex
        for kill in range(3):
            async with (
                Process(directory, environ) as process,
                Client(await process.ready(), user_id) as alice,
            ):
                for conversation_id in conversations:  # which ends what the process before left there
                    while (await alice.chat("say Bye.", conversation_id)).status_code == 409:  # noqa: ASYNC110 - a lease runs out
                        await asyncio.sleep(0.5)
                conversations = [
                    (await alice.said('call add_task {"title": "milk"}\nsay Done.'))["conversation_id"]
                    for _ in range(4)
                ]
                asleep = providers.brain.asleep
                dying = [
                    asyncio.create_task(
                        alice.chat(
                            f'call add_task {{"title": "{kill}"}}\nsleep 600\nsay Done.', conversation_id
                        )
                    )
                    for conversation_id in conversations
                ]
                while providers.brain.asleep < asleep + len(dying):  # noqa: ASYNC110 - the fake tells nobody
                    await asyncio.sleep(0.01)
                process.kill()
                await asyncio.gather(*dying, return_exceptions=True)
        async with Process(directory, environ) as process, Client(await process.ready(), user_id) as alice:
            total = (await alice.get(alice.mine("/usage"))).json()["total"]
        given = providers.given
        assert given == 3 * 4 * 3 + 2 * 4  # a turn's two answers, the first of one that died, and "Bye."
        assert (total["input_tokens"], total["output_tokens"]) == (given * EACH[0], given * EACH[1])
        assert total["turns"] == 3 * 4 * 2 + 2 * 4
