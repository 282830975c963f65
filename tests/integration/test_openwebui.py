"""What Open WebUI 0.12.4 asked of a server behind it, sent again: one message is four requests, of which two run at once.

`tests/outside/open_webui.py` runs the real one, which is 7 GB.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jwt
import pytest

from tests.support.agents import CommandedAgent
from tests.support.serving import SECRET, Client

NAMES = [
    "get_current_timestamp",
    "calculate_timestamp",
    "ask_user",
    "list_knowledge_bases",
    "search_knowledge_bases",
    "query_knowledge_bases",
    "grep_knowledge_files",
    "search_knowledge_files",
    "query_knowledge_files",
    "view_knowledge_file",
    "search_chats",
    "view_chat",
    "search_memories",
    "list_memory_paths",
    "read_memory_path",
    "list_memories",
    "update_memory",
    "add_memory",
    "replace_memory_content",
    "delete_memory",
    "search_notes",
    "view_note",
    "write_note",
    "replace_note_content",
    "create_skill",
    "create_tasks",
    "update_task",
    "create_automation",
    "update_automation",
    "list_automations",
    "toggle_automation",
    "delete_automation",
    "search_calendar_events",
    "create_calendar_event",
    "update_calendar_event",
    "delete_calendar_event",
]
TEXT = {"type": "string", "description": "What is meant"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name.replace('_', ' ').capitalize()}.",
            "parameters": {"type": "object", "properties": {"text": TEXT}, "required": []},
        },
    }
    for name in NAMES
]


class OpenWebUI:
    """Its back end, for one user with the auth type `session`: the user's own token of Open WebUI's, and no key."""

    def __init__(self, service: str, user_id: str) -> None:
        claims = {"id": user_id, "exp": int(time.time()) + 4 * 7 * 24 * 3600, "jti": uuid.uuid4().hex}
        token = jwt.encode(claims, SECRET, "HS256")
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        )
        self._url = f"{service}/v1"
        self.model = ""

    async def __aenter__(self) -> "OpenWebUI":
        async with self._session.get(f"{self._url}/models", headers={"X-Conversation-Id": ""}) as response:
            models = (await response.json())["data"]
        self.model = models[0]["id"]
        assert models[0]["name"].startswith("chatapi")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def message(self, messages: list[dict[str, Any]], *, until: str | None = None) -> dict[str, Any]:
        """The message's own request; the answer as the page shows it. With `until` it stops at this text: it hangs up."""
        body = {"stream": True, "model": self.model, "messages": messages, "tools": TOOLS}
        answer: dict[str, Any] = {"content": "", "calls": {}}
        async with self._session.post(
            f"{self._url}/chat/completions", json=body, headers={"X-Conversation-Id": ""}
        ) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    return {**answer, **chunk}
                delta = chunk["choices"][0]["delta"]
                answer["content"] += delta.get("content") or ""
                for call in delta.get("tool_calls", []):
                    answer["calls"][call["index"]] = call
                answer["finish"] = chunk["choices"][0]["finish_reason"]
                if until is not None and until in answer["content"]:
                    return answer
        return answer

    async def task(self, what: str, history: str, **options: Any) -> str:
        """A request beside the chat: its title, tags or follow-ups."""
        prompt = f"### Task:\n{what}\n<chat_history>\n{history}\n</chat_history>"
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": False,
            **options,
        }
        async with self._session.post(f"{self._url}/chat/completions", json=body) as response:
            assert response.status == 200, await response.text()
            content: str = (await response.json())["choices"][0]["message"]["content"]
            return content


@pytest.fixture
def user_id() -> str:
    return f"openwebui-{uuid.uuid4().hex}"


@pytest.fixture
async def webui(service: str, user_id: str) -> AsyncIterator[OpenWebUI]:
    async with OpenWebUI(service, user_id) as webui:
        yield webui


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


async def test_a_first_message_its_title_and_what_follows(
    webui: OpenWebUI, service: str, user_id: str
) -> None:
    question = "say Hello there."
    history = f"USER: {question}\nASSISTANT: "
    title, answer, again = await asyncio.gather(  # beside the message of another tab
        webui.task("Generate a title.", history, max_tokens=1000),
        webui.message([user(question)]),
        webui.message([user(question)]),
    )
    assert "Generate a title." in title
    assert (answer["content"], answer["finish"]) == ("Hello there.", "stop")
    assert again == answer
    for what in ("Suggest follow-ups.", "Generate tags."):
        assert what in await webui.task(what, f"{history}Hello there.")
    async with Client(service, user_id) as native:
        assert (await native.get(native.mine("/conversations"))).json()["items"] == []
        assert (await native.get(native.mine("/tasks"))).json()["items"] == []


async def test_its_tools_are_its_own_to_carry_out(webui: OpenWebUI) -> None:
    question = user('ask update_task {"text": "x"}\nask get_current_timestamp\nwait\nsay Done.')
    asked = await webui.message([question])
    assert (asked["finish"], len(asked["calls"])) == ("tool_calls", 2)
    assert {spec.name for spec in CommandedAgent.specs_seen[-1]} == set(NAMES)
    calls = [
        {"id": call["id"], "type": "function", "function": call["function"]}
        for call in asked["calls"].values()
    ]
    assert calls[0]["function"]["name"] == "update_task"
    outcomes = [
        {"role": "tool", "tool_call_id": call["id"], "content": f'Error: Tool "{name}" not found.'}
        for call in calls
        for name in [call["function"]["name"]]
    ]
    called = {"role": "assistant", "content": "", "tool_calls": calls}
    answer = await webui.message([question, called, *outcomes])
    assert (answer["finish"], answer["content"].endswith("Done.")) == ("stop", True)
    # An answer that failed as a whole is left out of the history, so two questions follow each other.
    later = [question, called, *outcomes, {"role": "assistant", "content": answer["content"]}]
    again = await webui.message([*later, user("lost"), user("say Yes.")])
    assert again["content"].endswith("Yes.")


async def test_an_error_in_the_middle_leaves_what_was_said(webui: OpenWebUI) -> None:
    answer = await webui.message([user("say Half.\nfail")])
    assert (answer["content"], answer["error"]["message"]) == ("Half.", "The model is having a bad day.")


async def test_stop_is_hanging_up(webui: OpenWebUI, user_id: str) -> None:
    answer = await webui.message([user(f"say Half.\nleave {user_id}")], until="Half.")
    assert answer["content"] == "Half."
    await CommandedAgent.gates[f"left {user_id}"].reached.wait()
