"""The real Open WebUI, of one version, with this service as its connection: what its users do, and what comes of it.

`python -m tests.outside.open_webui` installs it into a folder that goes at the end: 7 GB, and minutes. `python -m
tests.outside.open_webui ENVIRONMENT` takes a virtual environment in which it is installed. `test_openwebui.py` sends the same
requests in CI.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import venv
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import httpx

from chatapi.agent.ports import AgentEvent, Prompt, TextDelta, Tools
from tests.support.agents import CommandedAgent
from tests.support.serving import SECRET, Client, anybody, serve, settings_for, token_for

VERSION = "0.12.4"
TASKS = {"title_generation": True, "tags_generation": True, "follow_up_generation": True}
KEY_USER = "whoever has the key"
PASSWORD = "a password of 24 letters"


class WebUIAgent(CommandedAgent):
    """Answers Open WebUI's small requests in the form that it asks for, and carries out the commands in any other message."""

    async def reply(self, prompt: Prompt, tools: Tools) -> AsyncIterator[AgentEvent]:
        if not prompt.message.startswith("### Task:"):
            async for event in super().reply(prompt, tools):
                yield event
            return
        self.seen.append(prompt)
        kinds = {'"follow_ups"': ["And then?"], '"tags"': ["Greetings"], '"title"': "A greeting"}
        name = next(name for name in kinds if name in prompt.message)
        yield TextDelta(f"{{{name}: {json.dumps(kinds[name])}}}")


class OpenWebUI:
    """One of its users, by the routes that its page uses."""

    def __init__(self, client: httpx.AsyncClient, name: str) -> None:
        self._client = client
        self.name = name
        self.id = ""

    async def sign_in(self, *, how: str) -> "OpenWebUI":
        body = {"name": self.name, "email": f"{self.name}@example.org", "password": PASSWORD}
        told = await self.post(f"/api/v1/auths/{how}", body)
        self.id = told["id"]
        self._client.headers["Authorization"] = f"Bearer {told['token']}"
        return self

    async def add(self, other: "OpenWebUI") -> None:
        body = {"name": other.name, "email": f"{other.name}@example.org", "password": PASSWORD}
        await self.post("/api/v1/auths/add", {**body, "role": "user"})

    async def post(self, path: str, body: Any = None) -> Any:
        response = await self._client.post(path, json=body)
        assert response.status_code == 200, (path, response.status_code, response.text)
        return response.json()

    async def get(self, path: str) -> Any:
        response = await self._client.get(path)
        assert response.status_code == 200, (path, response.status_code, response.text)
        return response.json()

    async def send(self, text: str, model: str, chat: dict[str, Any] | None = None) -> tuple[str, str]:
        """Send a message as the page does, in a new chat or behind the last message; returns the chat's id and the answer's."""
        before = [] if chat is None else branch_of(chat)
        parent = before[-1]["id"] if before else None
        question, answer = str(uuid4()), str(uuid4())
        messages = [{"role": each["role"], "content": each["content"]} for each in before]
        told = await self.post(
            "/api/chat/completions",
            {
                "stream": True,
                "model": model,
                "messages": [*messages, {"role": "user", "content": text}],
                "params": {},
                "features": {"memory": True},
                "variables": {},
                "session_id": str(uuid4()),
                "id": answer,
                "parent_id": parent,
                "user_message": {
                    "id": question,
                    "parentId": parent,
                    "childrenIds": [answer],
                    "role": "user",
                    "content": text,
                    "models": [model],
                },
                **({} if chat is None else {"chat_id": chat["id"]}),
                "background_tasks": TASKS if chat is None else {"follow_up_generation": True},
            },
        )
        return told["chat_id"], answer

    async def chat(self, chat_id: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.get(f"/api/v1/chats/{chat_id}"))["chat"]
        return {**found, "id": chat_id}

    async def answered(self, sent: tuple[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The chat and the answer in it, once that has ended."""
        chat_id, message_id = sent

        async def ended() -> bool:
            return bool((await self.chat(chat_id))["history"]["messages"][message_id].get("done"))

        await until(ended, f"the answer to end in {chat_id}")
        chat = await self.chat(chat_id)
        return chat, chat["history"]["messages"][message_id]


def branch_of(chat: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages up to the current one."""
    messages, place, found = chat["history"]["messages"], chat["history"]["currentId"], []
    while place:
        found.append(messages[place])
        place = messages[place]["parentId"]
    return found[::-1]


async def until(what: Callable[[], Awaitable[bool]], said: str, *, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not await what():  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.1)
    print("seen:", said)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def install(into: Path) -> Path:
    venv.create(into, with_pip=True)
    command = [str(into / "bin" / "python"), "-m", "pip", "install", "--quiet", f"open-webui=={VERSION}"]
    subprocess.run(command, check=True)
    return into


@asynccontextmanager
async def running(environment: Path, directory: Path, service: str) -> AsyncIterator[str]:
    """Its back end with the service as its one connection, by a key; ends its process, and no other, at the end."""
    port = free_port()
    with (directory / "open-webui.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            environment / "bin" / "open-webui",
            *("serve", "--host", "127.0.0.1", "--port", str(port)),
            cwd=directory,
            env={
                **{name: value for name, value in os.environ.items() if name in {"PATH", "LANG", "TMPDIR"}},
                "HOME": str(directory),
                "DATA_DIR": str(directory / "data"),
                "WEBUI_SECRET_KEY": SECRET,
                "OPENAI_API_BASE_URLS": f"{service}/v1",
                "OPENAI_API_KEYS": token_for(KEY_USER),
                "ENABLE_OLLAMA_API": "false",
                "OFFLINE_MODE": "true",
                "RAG_EMBEDDING_ENGINE": "openai",  # it would load a model of its own
                "BYPASS_MODEL_ACCESS_CONTROL": "true",
            },
            stdout=log,
            stderr=log,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            async with anybody(url) as client:

                async def is_up() -> bool:
                    assert process.returncode is None, (directory / "open-webui.log").read_text()[-4_000:]
                    try:
                        return (await client.get("/health")).status_code == 200
                    except httpx.TransportError:
                        return False

                await until(is_up, "Open WebUI to start", seconds=300)
            yield url
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 30)
            except TimeoutError:
                process.kill()
                await process.wait()


async def chats(admin: OpenWebUI, service: str) -> None:
    """A first message with its small requests, the next one, its own tools, an error, and Stop."""
    models = {each["id"]: each["name"] for each in (await admin.get("/api/models"))["data"]}
    assert models["commanded"] == "chatapi · commanded", models
    first = await admin.send("say Hello there.", "commanded")
    _, answer = await admin.answered(first)
    assert answer["content"] == "Hello there.", answer

    async def has_all() -> bool:
        found = await admin.chat(first[0])
        tags = [each["name"] for each in await admin.get(f"/api/v1/chats/{first[0]}/tags")]
        follow_ups = found["history"]["messages"][first[1]].get("followUps")
        return (found["title"], tags, follow_ups) == ("A greeting", ["Greetings"], ["And then?"])

    await until(has_all, "title, tags and follow-ups")
    print("tools with a message:", *(spec.name for spec in WebUIAgent.specs_seen[-1]))
    second = await admin.send("history", "commanded", await admin.chat(first[0]))
    _, answer = await admin.answered(second)
    assert json.loads(answer["content"]) == [["user", "say Hello there."], ["assistant", "Hello there."]], (
        answer
    )
    tool = await admin.send("ask get_current_timestamp {}\nwait\nsay Done.", "commanded")
    _, answer = await admin.answered(tool)
    assert answer["content"].strip().endswith("Done."), answer
    failing = await admin.send("say Half.\nfail", "commanded")
    _, answer = await admin.answered(failing)
    assert (answer["content"], "bad day" in str(answer["error"])) == ("Half.", True), answer
    name = uuid4().hex
    stopped = await admin.send(f"say Half.\nleave {name}", "commanded")
    await WebUIAgent.gates[name].reached.wait()
    await asyncio.sleep(1)  # until the half has reached the page
    await admin.post(f"/api/tasks/chat/{stopped[0]}/stop")
    async with asyncio.timeout(30):
        await WebUIAgent.gates[f"left {name}"].reached.wait()
    _, answer = await admin.answered(stopped)
    print("stopped:", answer["content"])
    assert answer["content"] == "Half.", answer
    async with Client(service, KEY_USER) as native:
        assert (await native.get(native.mine("/conversations"))).json()["items"] == []


async def sessions(admin: OpenWebUI, url: str) -> None:
    """With the auth type `session` each of its users is a user here, without any key."""
    config = await admin.get("/openai/config")
    config["OPENAI_API_KEYS"] = [""]
    config["OPENAI_API_CONFIGS"] = {"0": {"enable": True, "auth_type": "session"}}
    await admin.post("/openai/config/update", config)
    async with anybody(url) as client:
        bob = OpenWebUI(client, "bob")
        await admin.add(bob)
        await bob.sign_in(how="signin")
        await bob.get("/api/models")
        for who in (admin, bob):
            _, answer = await who.answered(await who.send(f"say I am {who.id}.", "commanded"))
            assert answer["content"] == f"I am {who.id}.", answer
            asked = [prompt.user_id for prompt in WebUIAgent.seen if f"say I am {who.id}." in prompt.message]
            assert set(asked) == {who.id}, asked
    print("seen: each user is himself, in", len(asked), "requests for a message and what goes with it")


async def main() -> None:
    with TemporaryDirectory() as directory:
        place = Path(directory)
        environment = Path(sys.argv[1]) if len(sys.argv) > 1 else install(place / "environment")
        settings = settings_for(
            f"sqlite+aiosqlite:///{place}/chatapi.db", files_url=str(place / "files"), log_level="ERROR"
        )
        async with (
            serve(settings, WebUIAgent()) as service,
            running(environment.resolve(), place, service) as url,
            anybody(url) as client,
        ):
            admin = await OpenWebUI(client, "alice").sign_in(how="signup")
            try:
                await chats(admin, service)
                await sessions(admin, url)
            except BaseException:
                print((place / "open-webui.log").read_text()[-6_000:])
                raise
    print("Open WebUI", VERSION, "works.")


if __name__ == "__main__":
    asyncio.run(main())
