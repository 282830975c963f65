"""A turn over HTTP, on both databases."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from uuid import uuid4

import msgspec
import pytest

from chatapi.agent.ports import HistoryMessage
from tests.support.agents import CommandedAgent
from tests.support.factories import ChatRequestFactory
from tests.support.serving import Client, serve, settings_for


class TestChat:
    async def test_begins_a_conversation_and_continues_it(self, alice: Client) -> None:
        first = await alice.said("say Hello.")
        assert first["response"] == "Hello."
        assert first["tool_calls"] == []
        second = await alice.said("history", first["conversation_id"])
        assert second["conversation_id"] == first["conversation_id"]
        assert second["response"] == '[["user", "say Hello."], ["assistant", "Hello."]]'
        stored = await alice.messages(first["conversation_id"])
        assert [(message["role"], message["content"], message["status"]) for message in stored] == [
            ("user", "say Hello.", "completed"),
            ("assistant", "Hello.", "completed"),
            ("user", "history", "completed"),
            ("assistant", second["response"], "completed"),
        ]
        assert stored[1]["id"] == first["message_id"]
        assert stored[1]["turn_id"] == stored[0]["turn_id"] == first["turn_id"]

    async def test_both_routes_are_one(self, alice: Client) -> None:
        first = await alice.said("say One.")
        response = await alice.post(
            "/api/chat", json={"message": "history", "conversation_id": first["conversation_id"]}
        )
        assert response.status_code == 200
        assert "One." in response.json()["response"]

    async def test_null_conversation_is_a_new_one(self, alice: Client) -> None:
        first = await alice.said("say Hello.")
        response = await alice.post("/api/chat", json={"message": "say Hi.", "conversation_id": None})
        assert response.json()["conversation_id"] != first["conversation_id"]

    async def test_tells_tool_calls_and_usage(self, alice: Client) -> None:
        answer = await alice.said('call add_task {"title": "milk"}\ncall complete_task {"task_id": 0}')
        done, failed = answer["tool_calls"]
        assert (done["name"], done["arguments"]) == ("add_task", {"title": "milk"})
        assert done["result"]["title"] == "milk"
        assert "error" not in done
        assert "task_id" in failed["error"]
        assert "result" not in failed
        assert answer["usage"] == {"input_tokens": 0, "output_tokens": 1}
        assert (await alice.messages(answer["conversation_id"]))[1]["tool_calls"] == answer["tool_calls"]

    async def test_tools_do_what_rest_does(self, alice: Client) -> None:
        answer = await alice.said(
            'call add_task {"title": "milk", "description": "oat"}\n'
            'call add_task {"title": "bread"}\n'
            "call list_tasks {}"
        )
        milk, bread, listed = (call["result"] for call in answer["tool_calls"])
        assert listed == {"items": [milk, bread], "next_cursor": None}
        assert (await alice.get(alice.mine("/tasks"))).json() == listed
        await alice.said(
            f'call update_task {{"task_id": {milk["id"]}, "title": "oat milk"}}\n'
            f'call complete_task {{"task_id": {milk["id"]}}}\n'
            f'call delete_task {{"task_id": {bread["id"]}}}'
        )
        (left,) = (await alice.get(alice.mine("/tasks"))).json()["items"]
        assert (left["title"], left["description"], left["completed"]) == ("oat milk", "oat", True)

    async def test_a_tool_cannot_touch_another_users_task(self, alice: Client, bob: Client) -> None:
        task = (await alice.post(alice.mine("/tasks"), json={"title": "milk"})).json()
        for name in ("complete_task", "delete_task", "update_task"):
            answer = await bob.said(f'call {name} {{"task_id": {task["id"]}}}')
            assert answer["tool_calls"][0]["error"] == f"There is no task {task['id']} of yours."
        answer = await bob.said(
            f'call add_task {{"title": "x", "user_id": "{alice.user_id}"}}\ncall no_such_tool {{}}'
        )
        assert [("error" in call) for call in answer["tool_calls"]] == [True, True]
        assert (await alice.get(alice.mine("/tasks"))).json()["items"] == [task]
        assert (await bob.get(bob.mine("/tasks"))).json()["items"] == []

    async def test_a_file_next_to_a_text_is_422_that_says_so(self, alice: Client) -> None:
        turn_id = (await alice.said("say Hello."))["turn_id"]
        body = {"message": "say Hi.", "files": [{"type": "file", "mediaType": "image/png", "url": "data:,"}]}
        for path in ("/chat", f"/turns/{turn_id}/regenerate"):
            response = await alice.post(alice.mine(path), json=body)
            assert response.status_code == 422
            assert response.json()["detail"].startswith("upload files first")

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"message": ""},
            {"message": " \t\n"},
            {"message": "nul\0"},
            {"message": "x" * 10_001},
            {"message": 1},
            *(
                {"message": "x", "conversation_id": text}
                for text in ("", "x", " 1", "+1", "1.0", "\u0661", "1" * 20)
            ),
            {"message": "x", "conversation_id": 1.5},
            {"message": "x", "user_id": "bob"},
            [],
        ],
    )
    async def test_what_is_not_valid_is_422_and_stores_nothing(self, alice: Client, body: object) -> None:
        for path in (alice.mine("/chat"), "/api/chat"):
            response = await alice.post(path, json=body)
            assert (response.status_code, response.json()["type"]) == (
                422,
                "urn:chatapi:problem:validation-failed",
            )
        assert (await alice.get(alice.mine("/conversations"))).json()["items"] == []

    async def test_the_longest_message_is_kept_whole(self, alice: Client) -> None:
        message = "say " + "🦊" * 9_996
        answer = await alice.said(message)
        assert answer["response"] == "🦊" * 9_996
        assert (await alice.messages(answer["conversation_id"]))[0]["content"] == message

    @pytest.mark.parametrize("conversation_id", [0, -1, 2**63 - 1, 2**63, 10**30])
    async def test_a_conversation_that_is_not_there_is_404(self, alice: Client, conversation_id: int) -> None:
        response = await alice.chat("say Hello.", conversation_id)
        assert (response.status_code, response.json()["type"]) == (
            404,
            "urn:chatapi:problem:conversation-not-found",
        )

    async def test_a_conversation_of_another_user_is_404_and_untouched(
        self, alice: Client, bob: Client
    ) -> None:
        conversation_id = (await alice.said("say Hello."))["conversation_id"]
        assert (await bob.chat("say Hello.", conversation_id)).status_code == 404
        assert len(await alice.messages(conversation_id)) == 2

    async def test_a_conversation_may_be_named_by_its_digits_in_text(self, alice: Client) -> None:
        """A page has them from its address. It is the same request, so its key holds for either form."""
        conversation_id = (await alice.said("say 0"))["conversation_id"]
        key = {"Idempotency-Key": uuid4().hex}
        body = {"message": "history", "conversation_id": str(conversation_id)}
        answer = await alice.post("/api/chat", json=body, headers=key)
        assert (answer.status_code, answer.json()["conversation_id"]) == (200, conversation_id)
        again = await alice.post("/api/chat", json=body | {"conversation_id": conversation_id}, headers=key)
        assert again.content == answer.content
        missing = await alice.post("/api/chat", json=body | {"conversation_id": "9" * 19})
        assert missing.status_code == 404

    async def test_any_valid_request_is_answered(self, alice: Client) -> None:
        for request in ChatRequestFactory.batch(5):
            response = await alice.post("/api/chat", content=msgspec.json.encode(request))
            assert response.json()["response"] == request.message.removeprefix("say ")


class TestHistory:
    async def test_is_the_last_turns_whole_and_in_order(self, empty_database_url: str) -> None:
        """Two turns at the most; one in the place of three, so that the next request begins as this one."""
        async with (
            serve(settings_for(empty_database_url, chat_history_limit=5)) as url,
            Client(url, "alice") as alice,
        ):
            conversation_id = (await alice.said("say 0"))["conversation_id"]
            for number in range(1, 4):
                await alice.said(f"say {number}", conversation_id)
            answer = await alice.said("history", conversation_id)
            assert answer["response"] == (
                '[["user", "say 2"], ["assistant", "2"], ["user", "say 3"], ["assistant", "3"]]'
            )

    async def test_grows_to_twenty_messages_by_default_and_falls_to_ten(self, alice: Client) -> None:
        conversation_id = (await alice.said("say 0"))["conversation_id"]
        for number in range(1, 18):
            await alice.said(f"say {number}", conversation_id)
        history = [
            [message.content for message in prompt.history if message.role == "assistant"]
            for prompt in CommandedAgent.seen
            if prompt.user_id == alice.user_id
        ]
        begins = [0] * 11 + [6] * 6 + [12]
        assert history == [[str(n) for n in range(begin, number)] for number, begin in enumerate(begins)]

    async def test_carries_tool_calls_with_their_results(self, alice: Client) -> None:
        first = await alice.said('call add_task {"title": "milk"}')
        await alice.said("say Hello.", first["conversation_id"])
        prompt = CommandedAgent.seen[-1]
        assert isinstance(prompt.history[1], HistoryMessage)
        assert msgspec.to_builtins(prompt.history[1].tool_calls) == first["tool_calls"]
        assert prompt.message == "say Hello."

    async def test_of_another_conversation_is_not_in_it(self, alice: Client) -> None:
        await alice.said("say Hello.")
        assert (await alice.said("history"))["response"] == "[]"


class TestFailedReply:
    @pytest.mark.parametrize(
        ("command", "status", "type_"),
        [("fail", 502, "model-failed"), ("crash", 502, "model-failed"), ("silence", 502, "model-empty")],
    )
    async def test_keeps_the_message_and_marks_the_turn(
        self, alice: Client, command: str, status: int, type_: str
    ) -> None:
        conversation_id = (await alice.said("say Hello."))["conversation_id"]
        response = await alice.chat(command, conversation_id)
        problem = response.json()
        assert (response.status_code, problem["type"]) == (status, f"urn:chatapi:problem:{type_}")
        assert "secret-of-the-agent" not in response.text
        assert problem["conversation_id"] == conversation_id
        *_, last = await alice.messages(conversation_id)
        assert (last["role"], last["content"], last["status"]) == ("user", command, "failed")
        assert last["turn_id"] == problem["turn_id"]

    async def test_is_never_shown_to_the_model_and_the_next_turn_succeeds(self, alice: Client) -> None:
        conversation_id = (await alice.said("say Hello."))["conversation_id"]
        assert (await alice.chat("crash", conversation_id)).status_code == 502
        answer = await alice.said("history", conversation_id)
        assert answer["response"] == '[["user", "say Hello."], ["assistant", "Hello."]]'

    async def test_that_takes_too_long_is_504(self, empty_database_url: str) -> None:
        async with (
            serve(settings_for(empty_database_url, chat_timeout=0.2)) as url,
            Client(url, "alice") as alice,
        ):
            response = await alice.chat("sleep 5")
            assert (response.status_code, response.json()["type"]) == (
                504,
                "urn:chatapi:problem:model-too-slow",
            )
            (message,) = await alice.messages(response.json()["conversation_id"])
            assert message["status"] == "failed"

    async def test_keeps_what_tools_did(self, alice: Client) -> None:
        response = await alice.chat('call add_task {"title": "milk"}\ncrash')
        assert response.status_code == 502
        assert len((await alice.get(alice.mine("/tasks"))).json()["items"]) == 1


class TestConcurrency:
    async def test_fifty_users_wait_for_the_model_at_once_on_two_connections(
        self, new_database: Callable[[], str]
    ) -> None:
        """Held through the reply, two connections would let no more than two wait at once."""
        url = await asyncio.to_thread(new_database)
        gate = CommandedAgent.gates[url]
        async with AsyncExitStack() as stack:
            base_url = await stack.enter_async_context(serve(settings_for(url, db_pool_size=2)))
            clients = [
                await stack.enter_async_context(Client(base_url, f"user-{number}")) for number in range(50)
            ]
            turns = [
                asyncio.create_task(client.said(f"gate {url}\nsay {client.user_id}")) for client in clients
            ]
            while gate.waiting < 50:  # noqa: ASYNC110 - nothing else tells
                await asyncio.sleep(0.01)
            gate.opened.set()
            answers = await asyncio.gather(*turns)
        assert [answer["response"] for answer in answers] == [client.user_id for client in clients]

    async def test_turns_in_one_conversation_never_interleave(self, alice: Client) -> None:
        conversation_id = (await alice.said("say 0"))["conversation_id"]
        responses = await asyncio.gather(
            *(alice.chat(f"sleep 0.1\nsay {number}", conversation_id) for number in range(10))
        )
        accepted = [response for response in responses if response.status_code == 200]
        assert accepted
        for response in responses:
            if response.status_code != 200:
                problem = response.json()
                assert (response.status_code, problem["type"]) == (
                    409,
                    "urn:chatapi:problem:turn-in-progress",
                )
                assert problem["conversation_id"] == conversation_id
                assert isinstance(problem["turn_id"], int)
                assert int(response.headers["Retry-After"]) >= 1
        stored = await alice.messages(conversation_id)
        assert [message["role"] for message in stored] == ["user", "assistant"] * (1 + len(accepted))
        for question, answer in zip(stored[::2], stored[1::2], strict=True):
            assert question["turn_id"] == answer["turn_id"]
            assert question["content"].endswith(f"say {answer['content']}")

    async def test_conversations_of_one_user_go_on_side_by_side(self, alice: Client) -> None:
        answers = await asyncio.gather(*(alice.said(f"sleep 0.2\nsay {number}") for number in range(8)))
        assert len({answer["conversation_id"] for answer in answers}) == 8

    async def test_a_client_that_hangs_up_does_not_end_its_turn(self, alice: Client) -> None:
        conversation_id = (await alice.said("say Hello."))["conversation_id"]
        gate = CommandedAgent.gates[alice.user_id]
        turn = asyncio.create_task(alice.chat(f"gate {alice.user_id}\nsay Done.", conversation_id))
        await gate.reached.wait()
        turn.cancel()  # which closes its connection
        with suppress(asyncio.CancelledError):
            await turn
        await asyncio.sleep(0.1)  # for the service to hear of it
        gate.opened.set()
        while len(messages := await alice.messages(conversation_id)) < 4:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.05)
        assert (messages[-1]["content"], messages[-1]["status"]) == ("Done.", "completed")
