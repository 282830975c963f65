"""A caller's options: each of the four formats passes on what it has, and a turn with another is refused before the call."""

from collections.abc import AsyncIterator
from typing import Any, get_args

import msgspec
import pytest
from pydantic_ai import Agent as PydanticAI
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from chatapi.agent.llm import INSTRUCTIONS, PLAIN_INSTRUCTIONS
from chatapi.agent.loading import load_agent
from chatapi.agent.options import check_options
from chatapi.agent.ports import (
    AgentEvent,
    Finish,
    HistoryMessage,
    JSONFormat,
    OneTool,
    OptionName,
    Options,
    Prompt,
    ProviderState,
    TextDelta,
    ToolCall,
    ToolSpec,
)
from chatapi.agent.pydantic_ai import PydanticAgent
from chatapi.errors.models import ModelTruncated, OptionNotSupported, OptionsRefused
from chatapi.offline.assistant import OfflineAgent
from tests.support.providers.scripted import delta, refused, serve_scripted, streamed
from tests.support.providers.server import Providers
from tests.support.serving import BRIEF_PAUSES, settings_for

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
SPEC = ToolSpec(name="f", description="F.", parameters=SCHEMA, is_callers=True)
GIVEN: dict[OptionName, Options] = {
    "instructions": Options(instructions="Speak like a pirate."),
    "temperature": Options(temperature=0.5),
    "top_p": Options(top_p=0.25),
    "frequency_penalty": Options(frequency_penalty=0.5),
    "presence_penalty": Options(presence_penalty=-0.5),
    "seed": Options(seed=7),
    "max_output_tokens": Options(max_output_tokens=9),
    "stop": Options(stop=["END"]),
    "reasoning_effort": Options(reasoning_effort="low"),
    "verbosity": Options(verbosity="low"),
    "json_object": Options(json=JSONFormat()),
    "json_schema": Options(json=JSONFormat(name="num", schema=SCHEMA, strict=True)),
    "tool_choice": Options(tool_choice=OneTool("f")),
    "parallel_tool_calls": Options(parallel_tool_calls=False),
}
NUM = {"name": "num", "schema": SCHEMA, "strict": True}
CALL_F = {"mode": "ANY", "allowedFunctionNames": ["f"]}
# What arrives for each of `GIVEN`, by the format; an option that is missing here is refused. Instructions are looked at below.
ARRIVES: dict[str, dict[OptionName, dict[str, Any]]] = {
    "openai:gpt-5-mini": {
        "temperature": {"temperature": 0.5},
        "top_p": {"top_p": 0.25},
        "frequency_penalty": {"frequency_penalty": 0.5},
        "presence_penalty": {"presence_penalty": -0.5},
        "seed": {"seed": 7},
        "max_output_tokens": {"max_tokens": 9},
        "stop": {"stop": ["END"]},
        "reasoning_effort": {"reasoning_effort": "low"},
        "verbosity": {"verbosity": "low"},
        "json_object": {"response_format": {"type": "json_object"}},
        "json_schema": {"response_format": {"type": "json_schema", "json_schema": NUM}},
        "tool_choice": {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        "parallel_tool_calls": {"parallel_tool_calls": False},
    },
    "openai-responses:gpt-5-mini": {
        "temperature": {"temperature": 0.5},
        "top_p": {"top_p": 0.25},
        "max_output_tokens": {"max_output_tokens": 9},
        "reasoning_effort": {"reasoning": {"effort": "low"}},
        "verbosity": {"text": {"verbosity": "low"}},
        "json_object": {"text": {"format": {"type": "json_object"}}},
        "json_schema": {"text": {"format": {"type": "json_schema", **NUM}}},
        "tool_choice": {"tool_choice": {"type": "function", "name": "f"}},
        "parallel_tool_calls": {"parallel_tool_calls": False},
    },
    "google:gemini-3-pro": {
        "temperature": {"generationConfig": {"temperature": 0.5}},
        "top_p": {"generationConfig": {"topP": 0.25}},
        "frequency_penalty": {"generationConfig": {"frequencyPenalty": 0.5}},
        "presence_penalty": {"generationConfig": {"presencePenalty": -0.5}},
        "seed": {"generationConfig": {"seed": 7}},
        "max_output_tokens": {"generationConfig": {"maxOutputTokens": 9}},
        "stop": {"generationConfig": {"stopSequences": ["END"]}},
        "reasoning_effort": {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}}},
        "json_object": {"generationConfig": {"responseMimeType": "application/json"}},
        "json_schema": {
            "generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}
        },
        "tool_choice": {"toolConfig": {"functionCallingConfig": CALL_F}},
    },
    "anthropic:claude-test": {
        "temperature": {"temperature": 0.5},
        "top_p": {"top_p": 0.25},
        "max_output_tokens": {"max_tokens": 9},
        "stop": {"stop_sequences": ["END"]},
        "reasoning_effort": {"output_config": {"effort": "low"}},
        "json_schema": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        "tool_choice": {"tool_choice": {"type": "tool", "name": "f"}},
        "parallel_tool_calls": {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    },
}


class CallersTools:
    """Carries out every call with the result 7."""

    specs = (SPEC,)

    async def call(self, name: str, arguments: dict[str, Any], **_: Any) -> ToolCall:
        return ToolCall(id="c", name=name, arguments=arguments, result=7)


async def asked(
    model: str, providers: Providers, prompt: Prompt
) -> tuple[list[dict[str, Any]], list[AgentEvent]]:
    """The requests that the provider was sent for this prompt, and what the agent told."""
    agent: Any = load_agent(
        settings_for("sqlite:///unused", chat_model=model, **providers.settings), BRIEF_PAUSES
    )
    before = len(providers.requests)
    async with agent:
        told = [event async for event in agent.reply(prompt, CallersTools())]
    return [each.body for each in providers.requests[before:]], told


def prompt_of(options: Options, message: str = "say Yes.", **changes: Any) -> Prompt:
    return Prompt(**{"user_id": "u", "conversation_id": 0, "message": message, "options": options, **changes})


async def test_each_option_arrives_in_the_words_of_the_format_or_is_refused(
    wire: str, providers: Providers
) -> None:
    agent = load_agent(settings_for("sqlite:///unused", chat_model=wire, **providers.settings), BRIEF_PAUSES)
    assert GIVEN.keys() == set(get_args(OptionName))
    for name, options in GIVEN.items():
        assert options.named == [name]
        if name not in ARRIVES[wire] and name != "instructions":
            with pytest.raises(OptionNotSupported) as refusal:
                check_options(agent, options)
            assert refusal.value.document["option"] == name
            continue
        check_options(agent, options)
        (body,), _ = await asked(wire, providers, prompt_of(options))
        for member, value in ARRIVES[wire].get(name, {}).items():
            assert body[member] == value, name
        if name == "instructions":
            assert f"{PLAIN_INSTRUCTIONS}\\n\\nSpeak like a pirate." in str(body).replace("\n", "\\n")
            assert INSTRUCTIONS not in str(body)


IDENTIFIERS: dict[str, Any] = {"user": "u1", "safety_identifier": "s1", "prompt_cache_key": "k1"}
OF_OPENAI = [IDENTIFIERS, {"user": "u1"}]
IDENTIFIED: dict[str, list[dict[str, Any]]] = {
    "openai:gpt-5-mini": OF_OPENAI,
    "openai-responses:gpt-5-mini": OF_OPENAI,
    "google:gemini-3-pro": [{}, {}],
    "anthropic:claude-test": [{"metadata": {"user_id": "s1"}}, {"metadata": {"user_id": "u1"}}],
}


async def test_identifiers_arrive_where_the_format_has_them_and_are_taken_everywhere(
    wire: str, providers: Providers
) -> None:
    """Our own key for OpenAI's cache gives way to the caller's."""
    everywhere = load_agent(settings_for("sqlite:///unused"), BRIEF_PAUSES)
    for given, arrives in zip((IDENTIFIERS, {"user": "u1"}), IDENTIFIED[wire], strict=True):
        options = msgspec.convert(given, Options)
        check_options(everywhere, options)
        (body,), _ = await asked(wire, providers, prompt_of(options))
        found = {name: body[name] for name in (*IDENTIFIERS, "metadata") if name in body}
        if "prompt_cache_key" not in given:
            found.pop("prompt_cache_key", None)
        assert found == arrives


async def test_a_tool_must_be_called_only_once(wire: str, providers: Providers) -> None:
    first, second = (
        await asked(wire, providers, prompt_of(Options(tool_choice="required"), 'call f {"n": 1}'))
    )[0]
    words = {"required", "any", "ANY"}
    assert any(f"'{word}'" in str(first) for word in words)
    assert not any(f"'{word}'" in str(second) for word in words)


async def test_the_operators_limit_of_length_holds_beside_the_callers(providers: Providers) -> None:
    agent: Any = load_agent(
        settings_for("sqlite:///unused", chat_model="openai:m", chat_max_tokens=5, **providers.settings),
        BRIEF_PAUSES,
    )
    async with agent:
        for limit, sent in ((3, 3), (9, 5)):
            prompt = prompt_of(Options(max_output_tokens=limit))
            assert [event async for event in agent.reply(prompt, CallersTools())]
            assert providers.requests[-1].body["max_tokens"] == sent


async def test_a_caller_gets_what_its_own_limit_leaves_of_an_answer(wire: str, providers: Providers) -> None:
    cut = 'call f {"n": 1}\nend length'
    with pytest.raises(ModelTruncated):
        await asked(wire, providers, prompt_of(Options(), cut))
    _, told = await asked(wire, providers, prompt_of(Options(max_output_tokens=9), cut))
    assert Finish("length") in told


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("think Hm.\nend length", 9),
        ("end length", 9),
        ('call f {"n": 1}\nthink Hm.\nend length', 9),
        ("say Half\nthink Hm.\nend length", None),
    ],
)
async def test_an_answer_that_was_cut_off_among_thoughts_stops_nobody_from_going_on(
    wire: str, providers: Providers, message: str, limit: int | None
) -> None:
    """APIs refuse messages that are empty, or end in a thought, also their own."""
    _, told = await asked(wire, providers, prompt_of(Options(max_output_tokens=limit), message))
    state = next(each for each in told if isinstance(each, ProviderState))
    text = "".join(each.text for each in told if isinstance(each, TextDelta))
    history = [
        HistoryMessage(role="user", content=message),
        HistoryMessage(role="assistant", content=text, provider_state=state.data),
    ]
    _, told = await asked(wire, providers, prompt_of(Options(), "say Yes.", history=history))
    assert [each.text for each in told if isinstance(each, TextDelta)] == ["Yes."]


async def test_an_answer_goes_on_after_calls_that_the_caller_has_carried_out(
    wire: str, providers: Providers
) -> None:
    begun = HistoryMessage(
        role="assistant",
        content="One moment.",
        tool_calls=[
            ToolCall(id="c1", name="f", arguments={"n": 1}, result="seven"),
            ToolCall(id="c2", name="f", arguments={"n": 2}, error="broken"),
        ],
    )
    message = 'call f {"n": 1}\nsay And more.'
    _, told = await asked(wire, providers, prompt_of(Options(), message, begun=begun))
    assert "".join(each.text for each in told if isinstance(each, TextDelta)) == "Done."
    assert all(word in providers.requests[-1].text for word in ("One moment.", "seven", "broken"))


async def test_what_a_provider_refuses_of_the_options_is_the_callers_to_mend() -> None:
    refusal = refused(
        400, {"error": {"message": "Unsupported value: 'temperature'", "code": "unsupported_value"}}
    )
    async with serve_scripted(refusal, streamed(delta(content="x"), delta("stop"))) as server:
        settings = settings_for("sqlite:///unused", chat_model="openai:m", openai_base_url=server.base_url)
        agent: Any = load_agent(settings, BRIEF_PAUSES)
        async with agent:
            with pytest.raises(OptionsRefused) as error:
                [event async for event in agent.reply(prompt_of(Options(temperature=2)), CallersTools())]
    assert error.value.document["options"] == ["temperature"]


def test_what_holds_anyway_needs_no_agent_that_takes_options() -> None:
    check_options(OfflineAgent(), Options(tool_choice="auto", parallel_tool_calls=True, presence_penalty=0))
    with pytest.raises(OptionNotSupported, match="offline does not take max output tokens"):
        check_options(OfflineAgent(), Options(temperature=1, max_output_tokens=5))


async def test_an_own_pydantic_ai_agent_passes_options_on_and_may_be_left_its_tools() -> None:
    asked_with: list[AgentInfo] = []

    def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked_with.append(info)
        if len(asked_with) == 1:
            return ModelResponse(parts=[ToolCallPart("f", {"n": 1}, tool_call_id="c")])
        return ModelResponse(parts=[TextPart("Done.")])

    async def streamed_model(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        response = model(messages, info)
        for part in response.parts:
            if isinstance(part, ToolCallPart):
                yield {0: DeltaToolCall(name=part.tool_name, json_args='{"n": 1}', tool_call_id="c")}
            elif isinstance(part, TextPart):
                yield part.content

    inner = PydanticAI(FunctionModel(model, stream_function=streamed_model), instructions="Own.")

    @inner.tool_plain(name="f")
    def own_tool() -> str:
        """Has the name of the caller's."""
        return "own"

    agent = PydanticAgent(inner)
    options = Options(
        temperature=0.5, stop=["END"], max_output_tokens=9, tool_choice="required", instructions="Theirs."
    )
    check_options(agent, options)
    with pytest.raises(OptionNotSupported):
        check_options(agent, Options(verbosity="low"))
    prompt = prompt_of(options, own_tools=False)
    told = [event async for event in agent.reply(prompt, CallersTools())]
    assert "".join(each.text for each in told if isinstance(each, TextDelta)) == "Done."
    first, second = asked_with
    settings = {"temperature": 0.5, "stop_sequences": ["END"], "max_tokens": 9}
    assert first.model_settings == {**settings, "tool_choice": "required"}
    assert second.model_settings == settings
    assert first.instructions == "Own.\n\nTheirs."
    assert [tool.description for tool in first.function_tools] == ["F."]
