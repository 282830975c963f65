"""The examples of docs/assistants.md, each written to a file and named by CHAT_MODEL, and what goes wrong with such."""

import re
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chatapi.agent.loading import load_agent
from chatapi.patience import Patience
from chatapi.settings import SettingsError
from tests.support.providers.server import Providers
from tests.support.serving import REPOSITORY, Client, serve, settings_for

Named = Callable[..., AbstractAsyncContextManager[Client]]
PAGE = (REPOSITORY / "docs" / "assistants.md").read_text()
EXAMPLES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture(autouse=True)
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, providers: Providers) -> Iterator[Path]:
    """A working directory with the examples, and the environment that leads to the fakes."""
    for name, code in EXAMPLES.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, value in providers.environ.items():
        monkeypatch.setenv(name, value)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def talk_to(sqlite_url: str) -> Named:
    @asynccontextmanager
    async def named(chat_model: str, **changes: Any) -> AsyncIterator[Client]:
        assert f"`CHAT_MODEL={chat_model}`" in PAGE
        settings = settings_for(sqlite_url, chat_model=chat_model, **changes)
        async with serve(settings, load_agent(settings, Patience())) as url, Client(url, "alice") as alice:
            yield alice

    return named


async def test_from_the_port(talk_to: Named) -> None:
    async with talk_to("parrot:Parrot") as alice:
        await alice.post(alice.mine("/tasks"), json={"title": "milk"})
        answer = await alice.said("hello")
        assert answer["response"] == "You said: hello You have 1 things to do."
        assert [call["name"] for call in answer["tool_calls"]] == ["list_tasks"]


async def test_from_the_port_one_that_waits(talk_to: Named) -> None:
    async with talk_to("sweeper:Sweeper", tool_approval="destructive") as alice:
        for title in ("milk", "bread"):
            task = (await alice.post(alice.mine("/tasks"), json={"title": title})).json()
            await alice.patch(alice.mine(f"/tasks/{task['id']}/complete"))
        waiting = (await alice.chat("Tidy up.")).json()
        milk, bread = waiting["pending"]
    async with talk_to("sweeper:Sweeper", tool_approval="destructive") as alice:
        answers = [{"id": milk["id"], "approved": True}, {"id": bread["id"], "approved": False}]
        path = alice.mine(f"/turns/{waiting['turn_id']}/answers")
        done = (await alice.post(path, json={"answers": answers})).json()
        assert done["response"] == "Let me tidy up. So: milk is gone. The user did not allow this call."
        await alice.delete(alice.mine(f"/tasks/{bread['arguments']['task_id']}"))


async def test_a_model_with_tools_of_ones_own(talk_to: Named, providers: Providers) -> None:
    async with talk_to("shop:assistant") as alice:
        answer = await alice.said(
            "call my_orders\n"
            'call price_of {"article": "tea"}\n'
            'call price_of {"article": "gold"}\n'
            'call add_task {"title": "tea"}\n'
            "say Tea it is."
        )
        assert answer["response"] == "Tea it is."
        orders, price, none, added = answer["tool_calls"]
        assert (orders["result"], price["result"]) == (["tea", "bread"], 3.5)
        assert "There is no gold; there is tea, bread." in none["error"]
        assert added["result"]["title"] == "tea"
        assert (await alice.messages(answer["conversation_id"]))[1]["tool_calls"] == answer["tool_calls"]
        offered = {
            tool["function"]["name"]: tool["function"] for tool in providers.requests[-1].body["tools"]
        }
        assert offered["price_of"]["description"] == "What an article costs, in euros."
        assert list(offered["my_orders"]["parameters"]["properties"]) == []
        assert "grocery" in str(providers.requests[-1].body["messages"][0])
        assert (await alice.said("say Bye.", answer["conversation_id"]))["response"] == "Bye."


async def test_a_pydantic_ai_agent(talk_to: Named, providers: Providers) -> None:
    async with talk_to("concierge:agent") as alice:
        turns, tokens = await used_of(alice)
        answer = await alice.said('call room_of\ncall add_task {"title": "towels"}\nsay Of course.')
        room, added = answer["tool_calls"]
        assert (room["result"], added["result"]["title"]) == ("room of alice", "towels")
        before = providers.requests[-1].body["input"]
        assert (await alice.said("say Bye.", answer["conversation_id"]))["response"] == "Bye."
        assert providers.requests[-1].body["input"][: len(before)] == before
        assert (await alice.chat("status 401")).json()["type"].endswith("model-misconfigured")
        assert (await alice.chat("say Half an\nend cut")).json()["type"].endswith("model-truncated")
        assert await used_of(alice) == (turns + 2, tokens + 3 * 15)


async def used_of(alice: Client) -> tuple[int, int]:
    items = (await alice.get(alice.mine("/usage"), params={"by": "model"})).json()["items"]
    used = [item for item in items if item["model"] == "openai:gpt-5-mini"]
    return sum(item["turns"] for item in used), sum(
        item["input_tokens"] + item["output_tokens"] for item in used
    )


async def test_a_pydantic_ai_agent_with_dependencies_of_its_own(talk_to: Named, providers: Providers) -> None:
    async with talk_to("night:assistant") as alice:
        assert (await alice.said("say Good night."))["response"] == "Good night."
        body = providers.requests[-1].body
        assert "You talk to alice, at night." in str(body["system"])
        assert "tools" not in body


async def test_a_model_that_guesses_at_users_is_given_none(
    examples: Path, sqlite_url: str, providers: Providers
) -> None:
    """The fakes fill in any user they are offered: an own tool that offers one shows it, the service's never do."""
    (examples / "careless.py").write_text(
        textwrap.dedent(
            """
            from chatapi.agent.llm import LLMAgent
            from chatapi.agent.ports import Prompt

            def orders(prompt: Prompt, user_id: str) -> list[str]:
                return [user_id, prompt.user_id]

            agent = LLMAgent("google:gemini-3-pro", tools=[orders])
            """
        )
    )
    settings = settings_for(sqlite_url, chat_model="careless:agent")
    async with serve(settings, load_agent(settings, Patience())) as url, Client(url, "alice") as alice:
        answer = await alice.said('call orders\ncall add_task {"title": "mine"}')
        orders, added = answer["tool_calls"]
        assert orders["result"] == ["somebody-else", "alice"]
        assert added["arguments"] == {"title": "mine"}
        assert added["result"]["id"] in [
            task["id"] for task in (await alice.get(alice.mine("/tasks"))).json()["items"]
        ]


async def test_an_own_tool_that_breaks_is_a_failed_turn(examples: Path, sqlite_url: str) -> None:
    (examples / "broken.py").write_text(
        textwrap.dedent(
            """
            from pydantic_ai import Agent
            from pydantic_ai.models.test import TestModel

            agent = Agent(TestModel(call_tools=["explode"]))

            @agent.tool_plain
            def explode() -> str:
                raise ZeroDivisionError("secret-of-the-tool")
            """
        )
    )
    settings = settings_for(sqlite_url, chat_model="broken:agent")
    async with serve(settings, load_agent(settings, Patience())) as url, Client(url, "alice") as alice:
        response = await alice.chat("hello")
        assert (response.status_code, response.json()["type"]) == (502, "urn:chatapi:problem:model-failed")
        assert "secret" not in response.text


@pytest.mark.parametrize(
    ("code", "message"),
    [("Agent()", "has no model"), ("Agent('test', output_type=int)", "something else than text")],
)
def test_an_agent_that_cannot_answer_stops_the_start(examples: Path, code: str, message: str) -> None:
    (examples / "useless.py").write_text(f"from pydantic_ai import Agent\nagent = {code}\n")
    with pytest.raises(SettingsError, match=message):
        load_agent(settings_for("sqlite:///unused", chat_model="useless:agent"), Patience())
