"""A turn of a user's pydantic-ai agent that waits: each of its ways to put a call off, and ours."""

import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic_ai import Agent, DeferredToolRequests, RunContext, ToolDefinition
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred
from pydantic_ai.messages import ModelMessage, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.toolsets import AbstractToolset, ExternalToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from chatapi.agent.llm import MODEL_REQUESTS
from chatapi.agent.ports import Prompt
from chatapi.agent.pydantic_ai import PydanticAgent
from tests.integration.models.test_conversations import sent
from tests.support.providers.server import Providers
from tests.support.serving import Client, serve, settings_for
from tests.support.sse import chunks_of, resumed, streamed, types_of

CLOCK = {"name": "time_zone", "parameters": {"type": "object", "properties": {}}}
SHELF = ToolDefinition(
    name="shelf",
    parameters_json_schema={
        "type": "object",
        "properties": {"row": {"type": "integer"}},
        "required": ["row"],
    },
)
# Values that pydantic-ai would take for its own when it reads them as JSON.
LIKE_A_RESULT = {"kind": "tool-return", "return_value": 1}
LIKE_A_FILE = [{"kind": "binary", "data": "aGk=", "media_type": "text/plain"}]
Step = list[DeltaToolCall] | str


class Remote(AbstractToolset[Any]):
    """Tools as pydantic-ai has those of an MCP server: their arguments are checked there and not here."""

    def __init__(self, effects: list[Any]) -> None:
        self._effects = effects

    @property
    def id(self) -> str:
        return "remote"

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        schema = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
        return {
            "remove": ToolsetTool(
                toolset=self,
                tool_def=ToolDefinition(name="remove", parameters_json_schema=schema),
                max_retries=1,
                args_validator=SchemaValidator(core_schema.dict_schema()),
            )
        }

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        self._effects.append(("remove", tool_args["path"]))
        return f"removed {tool_args['path']}"


def assistant(model: Any, effects: list[Any]) -> PydanticAgent:
    """An agent with tools of every kind; their effects are noted."""
    agent = Agent(
        model,
        deps_type=Prompt,
        output_type=[str, DeferredToolRequests],
        toolsets=[ExternalToolset([SHELF]), Remote(effects).approval_required()],
    )

    @agent.tool_plain(requires_approval=True)
    async def pay(amount: int) -> int:
        effects.append(("pay", amount))
        return amount

    @agent.tool
    async def refund(ctx: RunContext[Prompt], amount: int) -> str:
        if amount > 10 and not ctx.tool_call_approved:
            raise ApprovalRequired(metadata={"limit": 10})
        effects.append(("refund", amount, ctx.tool_call_metadata))
        return "refunded"

    @agent.tool_plain
    async def print_label(town: str) -> str:
        effects.append(("print_label", town))
        raise CallDeferred

    def not_on_sunday(ctx: RunContext[Any], day: str) -> None:
        if day == "sunday" and not ctx.tool_call_approved:
            raise ApprovalRequired

    @agent.tool_plain(args_validator=not_on_sunday)
    async def deliver(day: str) -> str:
        effects.append(("deliver", day))
        return "delivered"

    @agent.tool_plain(requires_approval=True)
    async def insist() -> str:
        raise ApprovalRequired

    return PydanticAgent(agent)


def scripted(*steps: Step) -> FunctionModel:
    """A model that makes these calls, step by step, and says these texts; a step is known by the requests before it."""

    async def answer(
        messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        done = sum(message.kind == "response" for message in messages)
        step = steps[min(done, len(steps) - 1)]
        if isinstance(step, str):
            yield step
            return
        yield dict(enumerate(step))

    return FunctionModel(stream_function=answer, model_name="scripted")


def call(name: str, id_: str = "", /, **arguments: Any) -> DeltaToolCall:
    return DeltaToolCall(name=name, json_args=json.dumps(arguments), tool_call_id=id_ or f"of_{name}")


@pytest.fixture
def carol(sqlite_url: str) -> Callable[..., Any]:
    user = f"carol-{uuid.uuid4().hex}"

    @asynccontextmanager
    async def talking(agent: PydanticAgent, database_url: str = sqlite_url) -> AsyncIterator[Client]:
        """A client of a service of its own, so that a turn goes on in another one than it began in."""
        settings = settings_for(database_url, tool_approval="delete_*,add_*")
        async with serve(settings, agent) as url, Client(url, user) as client:
            yield client

    return talking


async def answered(client: Client, waiting: dict[str, Any], *given: dict[str, Any]) -> dict[str, Any]:
    answers = [{"id": each["id"], **one} for each, one in zip(waiting["pending"], given, strict=True)]
    response = await client.post(
        client.mine(f"/turns/{waiting['turn_id']}/answers"), json={"answers": answers}
    )
    return {"status_code": response.status_code, **response.json()}


YES = {"approved": True}


@pytest.mark.slow
async def test_every_kind_of_call_waits_and_goes_on_in_another_process(
    carol: Callable[..., Any], database_url: str, providers: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in providers.environ.items():
        monkeypatch.setenv(name, value)
    effects: list[Any] = []
    before = len(providers.requests)
    async with carol(assistant("openai:gpt-5-mini", effects), database_url) as client:
        task = (await client.post(client.mine("/tasks"), json={"title": "milk"})).json()
        message = (
            'say I will see to it.\ncall refund {"amount": 5}\ncall print_label {"town": "Oslo"}\n'
            f'call pay {{"amount": 3}}\ncall delete_task {{"task_id": {task["id"]}}}\ncall shelf {{"row": 2}}\n'
            'call refund {"amount": 50}\ncall remove {"path": "/a"}\ncall remove {"path": 1}\n'
            "call time_zone\nsay All done."
        )
        body = {"message": message, "client_tools": [CLOCK]}
        response = await client.post(client.mine("/chat"), json=body)
        waiting = response.json()
        assert response.status_code == 202, waiting
        shown = (await client.messages(waiting["conversation_id"], format="ui"))[1]
    assert [(each["name"], each["kind"]) for each in waiting["pending"]] == [
        ("print_label", "client-tool"),
        ("pay", "approval"),
        ("delete_task", "approval"),
        ("shelf", "client-tool"),
        ("refund", "approval"),
        ("remove", "approval"),
        ("time_zone", "client-tool"),
    ]
    assert [(each["name"], each.get("error")) for each in waiting["tool_calls"]] == [
        ("refund", None),
        ("remove", "path: 1 is not of type 'string'"),
    ]
    assert effects == [("refund", 5, None), ("print_label", "Oslo")]
    states = [part["state"] for part in shown["parts"] if part["type"] == "dynamic-tool"]
    assert states.count("approval-requested") == 4
    effects.clear()
    async with carol(assistant("openai:gpt-5-mini", effects), database_url) as client:
        given: list[dict[str, Any]] = [
            {"output": LIKE_A_RESULT},
            YES,
            {"approved": False, "reason": "I drink it."},
        ]
        given += [{"error": "The shelf is empty."}, YES, YES, {"output": LIKE_A_FILE}]
        done = await answered(client, waiting, *given)
        after = await client.said("say Bye.", done["conversation_id"])
        assert [each["title"] for each in (await client.get(client.mine("/tasks"))).json()["items"]] == [
            "milk"
        ]
        shown = (await client.messages(waiting["conversation_id"], format="ui"))[1]
        stream = await resumed(client, done["conversation_id"], done["turn_id"])
    assert (done["status_code"], done["response"]) == (200, "I will see to it.\n\nAll done.")
    assert effects == [("pay", 3), ("refund", 50, {"limit": 10}), ("remove", "/a")]
    outcomes = {(each["name"], json.dumps(each["arguments"])): each for each in done["tool_calls"]}
    assert outcomes["print_label", '{"town": "Oslo"}']["result"] == LIKE_A_RESULT
    assert outcomes["time_zone", "{}"]["result"] == LIKE_A_FILE
    assert outcomes["shelf", '{"row": 2}']["error"] == "The shelf is empty."
    assert outcomes["refund", '{"amount": 50}']["result"] == "refunded"
    assert len(done["tool_calls"]) == 9
    assert done["usage"] == {"input_tokens": 20, "output_tokens": 10}
    first, second, third = providers.requests[before:]
    assert [each.refused for each in (first, second, third)] == [None] * 3
    assert sent(second)[: len(sent(first))] == sent(first)
    assert sent(third)[: len(sent(second))] == sent(second)
    told = json.dumps(sent(second)[len(sent(first)) :])
    assert "I drink it." in told
    assert all(part.get("state") != "approval-requested" for part in shown["parts"])
    assert types_of(stream)[-1] == "finish"
    assert after["response"] == "Bye."


async def test_ids_of_calls_need_not_be_distinct(carol: Callable[..., Any]) -> None:
    """A model gives an id twice in one step, and once more in the step after the wait."""
    effects: list[Any] = []
    steps: list[Step] = [
        [call("refund", "x", amount=1), call("pay", "x", amount=2), call("pay", "x", amount=3)],
        [call("refund", "x", amount=4)],
        "Done.",
    ]
    async with carol(assistant(scripted(*steps), effects)) as client:
        waiting = (await client.chat("Go.")).json()
        done = await answered(client, waiting, YES, {"approved": False})
    assert done["response"] == "Done."
    assert effects == [("refund", 1, None), ("pay", 2), ("refund", 4, None)]
    assert len({each["id"] for each in done["tool_calls"]}) == 4


async def test_what_a_run_had_done_is_not_done_again_by_the_next(carol: Callable[..., Any]) -> None:
    """One of two approved calls breaks, which fails the run; the same answers run it again."""
    effects: list[Any] = []
    agent = Agent(
        scripted([call("book", seat=1), call("book", seat=2), call("add_task", title="milk")], "Done.")
    )

    @agent.tool_plain(requires_approval=True)
    async def book(seat: int) -> str:
        effects.append(seat)
        if seat == 2:
            raise ZeroDivisionError
        return f"seat {seat}"

    async with carol(PydanticAgent(agent)) as client:
        waiting = (await client.chat("Go.")).json()
        first = await answered(client, waiting, YES, YES, YES)
        assert first["status_code"] == 502
        second = await answered(client, waiting, YES, YES, YES)
        assert (second["status_code"], second["response"]) == (200, "Done.")
        assert effects == [1, 2]
        one, two, added = second["tool_calls"]
        assert one["result"] == "seat 1"
        assert "whether it took effect is not known" in two["error"]
        assert added["result"]["title"] == "milk"


async def test_a_model_that_asks_for_ever_is_stopped_before_the_last_approval(
    carol: Callable[..., Any],
) -> None:
    effects: list[Any] = []
    async with carol(assistant(scripted([call("pay", amount=1)]), effects)) as client:
        waiting = (await client.chat("Go.")).json()
        for _ in range(MODEL_REQUESTS - 2):
            waiting = await answered(client, waiting, YES)
            assert waiting["status_code"] == 202
        last = await answered(client, waiting, YES)
    assert last["type"] == "urn:chatapi:problem:model-looped"
    assert len(effects) == MODEL_REQUESTS - 1


async def test_a_call_is_asked_about_once_and_not_where_nobody_can_answer(carol: Callable[..., Any]) -> None:
    """A validator puts one off, one insists after its approval, and one has been approved for a tool that is gone."""
    effects: list[Any] = []
    steps: list[Step] = [[call("deliver", day="sunday"), call("insist")], "Done."]
    async with carol(assistant(scripted(*steps), effects)) as client:
        waiting = (await client.chat("Go.")).json()
        assert effects == []
        assert {each["name"] for each in waiting["pending"]} == {"deliver", "insist"}
        done = await answered(client, waiting, YES, YES)
        assert (effects, done["response"]) == ([("deliver", "sunday")], "Done.")
        insisted = next(each for each in done["tool_calls"] if each["name"] == "insist")
        assert "asked for an answer again" in insisted["error"]
        waiting = (await client.chat("Go.")).json()
    async with carol(PydanticAgent(Agent(scripted(*steps)))) as client:
        done = await answered(client, waiting, YES, YES)
    assert {"any more" in each["error"] for each in done["tool_calls"]} == {True}


async def test_the_services_tools_need_not_be_offered_for_the_callers_to_be(
    carol: Callable[..., Any],
) -> None:
    seen: list[set[str]] = []

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        seen.append({tool.name for tool in info.function_tools})
        parts = messages[-1].parts
        if isinstance(parts[-1], ToolReturnPart):
            yield f"It is {parts[-1].content}."
        else:
            yield {0: call("time_zone"), 1: call("refund_all")}

    agent = PydanticAgent(Agent(FunctionModel(stream_function=answer)), task_tools=False)
    async with carol(agent) as client:
        body = {"message": "Go.", "client_tools": [CLOCK]}
        waiting = (await client.post(client.mine("/chat"), json=body)).json()
        done = await answered(client, waiting, {"output": "UTC"})
    assert seen[0] == {"time_zone"}
    assert done["response"].startswith("It is ")


async def test_a_stream_shows_a_call_that_is_put_off_while_it_is_made(carol: Callable[..., Any]) -> None:
    steps: list[Step] = [[call("refund", amount=50), call("print_label", town="Oslo")], "Done."]
    async with carol(assistant(scripted(*steps), [])) as client:
        chunks = await streamed(client, "Go.")
        assert types_of(chunks) == [
            *("start", "start-step", "tool-input-start", "tool-input-available"),
            *("tool-input-start", "tool-input-available", "tool-input-available"),
            *("tool-approval-request", "finish-step", "finish"),
        ]
        assert [chunk.get("providerExecuted") for chunk in chunks[3:7]] == [True, True, True, False]
        ids = chunks[0]["messageMetadata"]
        again = await resumed(client, ids["conversation_id"])
        assert types_of(again)[-3:] == types_of(chunks)[-3:]
        path = client.mine(f"/turns/{ids['turn_id']}/answers")
        waiting = (await client.get(client.mine("/turns"))).json()["items"][0]["pending"]
        answers = [{"id": waiting[0]["id"], "approved": True}, {"id": waiting[1]["id"], "output": 1}]
        async with client.stream(
            "POST", path, json={"answers": answers}, headers={"Accept": "text/event-stream"}
        ) as response:
            rest = [chunk async for chunk in chunks_of(response, goes_on=True)]
        assert types_of(rest)[1:3] == ["tool-output-available"] * 2


async def test_goes_on_with_another_providers_model(
    carol: Callable[..., Any], providers: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in providers.environ.items():
        monkeypatch.setenv(name, value)
    async with carol(assistant("openai:gpt-5-mini", [])) as client:
        waiting = (await client.chat('think Hm.\nsay Let me.\ncall pay {"amount": 1}\nsay Done.')).json()
    async with carol(assistant("anthropic:claude-sonnet-4-6", [])) as client:
        done = await answered(client, waiting, YES)
    assert providers.requests[-1].refused is None
    assert done["response"].startswith("Let me.\n\n")
