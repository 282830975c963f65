"""OpenAI's Chat Completions: https://platform.openai.com/docs/api-reference/chat"""

import json
from collections.abc import AsyncIterator
from typing import Any

from tests.support.providers.brain import Asked, Call, Refused, Reply, Text, check_embedded, thirds, words

LONGEST_ID = 40
FINISH = {"stop": "stop", "calls": "tool_calls", "length": "length", "filter": "content_filter"}
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


class Api:
    def read(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Asked:
        if headers.get("authorization") not in {"Bearer key-of-openai", "Bearer none"}:
            raise Refused(401, "Incorrect API key provided")
        steps, message = 0, ""
        open_calls: list[str] = []
        for each in body["messages"]:
            role = each["role"]
            if open_calls and role != "tool":
                raise Refused(400, f"tool_call_ids did not have response messages: {open_calls}")
            match role:
                case "user":
                    steps, message = 0, text_of(each["content"])
                case "assistant":
                    open_calls = calls_of(each)
                    steps += 1 if open_calls else 0
                case "tool":
                    if each["tool_call_id"] not in open_calls:
                        raise Refused(400, "role 'tool' must be a response to a message with 'tool_calls'")
                    open_calls.remove(each["tool_call_id"])
                case _ if role not in {"system", "developer"}:
                    raise Refused(400, f"Invalid role {role}")
        if open_calls:
            raise Refused(400, f"tool_call_ids did not have response messages: {open_calls}")
        tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in body.get("tools", [])}
        return Asked(body["model"], message, steps, tools)

    def refusal(self, refused: Refused) -> tuple[dict[str, Any], dict[str, str]]:
        headers = {} if refused.delay is None else {"retry-after-ms": str(int(refused.delay * 1000))}
        return {"error": {"message": refused.message, "type": "error", "param": None, "code": None}}, headers

    def whole(self, asked: Asked, reply: Reply) -> dict[str, Any]:
        calls = [tool_call(call, call.arguments) for call in reply.calls]
        text = "".join(piece.text for piece in reply.pieces if isinstance(piece, Text))
        message = {"role": "assistant", "content": text or None, "tool_calls": calls or None}
        return {
            **envelope(asked),
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": FINISH[reply.finish]}],
            "usage": USAGE,
        }

    async def stream(self, asked: Asked, reply: Reply) -> AsyncIterator[str]:
        yield chunk(asked, {"role": "assistant", "content": ""})
        index = 0
        for piece in reply.pieces:
            match piece:
                case Text(text=text):
                    for word in words(text):
                        yield chunk(asked, {"content": word})
                case Call():
                    first = tool_call(piece, "") | {"index": index}
                    yield chunk(asked, {"tool_calls": [first]})
                    for third in thirds(piece.arguments):
                        yield chunk(
                            asked, {"tool_calls": [{"index": index, "function": {"arguments": third}}]}
                        )
                    index += 1
        match reply.finish:
            case "cut" | "drop":
                return
            case "garbage":
                yield "data: {this is no JSON\n\n"
            case "overloaded":
                error = {"message": "secret-of-the-provider", "type": "server_error", "code": "503"}
                yield f"data: {json.dumps({'error': error})}\n\n"
            case finish:
                yield chunk(asked, {}, FINISH[finish])
                yield data(
                    {**envelope(asked), "object": "chat.completion.chunk", "choices": [], "usage": USAGE}
                )
        yield "data: [DONE]\n\n"


def text_of(content: Any) -> str:
    """The text of a message in parts of either API; the others have to hold what they say."""
    if isinstance(content, str):
        return content
    for part in content:
        match part:
            case {"type": "image_url", "image_url": {"url": url}} | {"type": "input_image", "image_url": url}:
                check_embedded(url.removeprefix("data:image/png;base64,"), b"\x89PNG")
            case {"type": "file", "file": {"filename": str(), "file_data": url}} | {
                "type": "input_file",
                "filename": str(),
                "file_data": url,
            }:
                check_embedded(url.removeprefix("data:application/pdf;base64,"), b"%PDF-")
            case {"type": "text" | "input_text" | "output_text", "text": str(text)} if text:
                pass
            case _:
                raise Refused(400, f"Invalid value: {part.get('type')!r}")
    return "".join(part.get("text", "") for part in content)


def calls_of(message: dict[str, Any]) -> list[str]:
    calls = message.get("tool_calls") or []
    if not calls and not message.get("content"):
        raise Refused(400, "content is required unless tool_calls is specified")
    if any(
        len(call["id"]) > LONGEST_ID or not isinstance(call["function"]["arguments"], str) for call in calls
    ):
        raise Refused(400, "Invalid 'messages': a tool call's id or arguments")
    return [call["id"] for call in calls]


def tool_call(call: Call, arguments: str) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def envelope(asked: Asked) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "created": 1_700_000_000, "model": asked.model}


def chunk(asked: Asked, delta: dict[str, Any], finish: str | None = None) -> str:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return data({**envelope(asked), "object": "chat.completion.chunk", "choices": choices})


def data(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
