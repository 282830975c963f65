"""OpenAI's Responses: https://platform.openai.com/docs/api-reference/responses"""

import json
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any

from tests.support.providers.brain import Asked, Call, Refused, Reply, Text, Thought, thirds, words
from tests.support.providers.openai_chat import text_of

USAGE = {
    "input_tokens": 10,
    "output_tokens": 5,
    "total_tokens": 15,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}


class Api:
    def __init__(self) -> None:
        self._issued: dict[str, dict[str, Any]] = {}  # items by their ids
        self._sealed: set[str] = set()  # encrypted reasoning that was sent out, and may come back

    def read(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Asked:
        if headers.get("authorization") != "Bearer key-of-openai":
            raise Refused(401, "Incorrect API key provided")
        check_thoughts(body["input"])
        steps, message, called = 0, "", False
        calls: set[str] = set()
        for item in body["input"]:
            kind = item.get("type", "message")
            if "id" in item and (body.get("store") is False or item["id"] not in self._issued):
                raise Refused(400, f"Item with id {item['id']!r} not found")
            match kind:
                case "message" if item["role"] == "user":
                    steps, message = 0, text_of(item["content"])
                case "function_call":
                    calls.add(item["call_id"])
                    steps += 0 if called else 1
                case "function_call_output":
                    if item["call_id"] not in calls:
                        raise Refused(400, f"No tool call found for call_id {item['call_id']}")
                    calls.remove(item["call_id"])
                case "reasoning" if item.get("encrypted_content") not in self._sealed:
                    raise Refused(400, "The encrypted content could not be verified")
            called = kind == "function_call"
        if calls:
            raise Refused(400, f"No tool output found for function call {calls}")
        tools = {tool["name"]: tool["parameters"] for tool in body.get("tools", [])}
        return Asked(body["model"], message, steps, tools)

    def refusal(self, refused: Refused) -> tuple[dict[str, Any], dict[str, str]]:
        headers = {} if refused.delay is None else {"retry-after": str(int(refused.delay))}
        return {"error": {"message": refused.message, "type": "error", "param": None, "code": None}}, headers

    def whole(self, asked: Asked, reply: Reply) -> dict[str, Any]:
        return response(asked, reply, [self._item(piece) for piece in reply.pieces])

    async def stream(self, asked: Asked, reply: Reply) -> AsyncIterator[str]:
        number = iter(range(1_000_000))

        def event(kind: str, **members: Any) -> str:
            value = {"type": kind, "sequence_number": next(number), **members}
            return f"event: {kind}\ndata: {json.dumps(value)}\n\n"

        yield event("response.created", response=response(asked, reply, [], "in_progress"))
        output = []
        for index, piece in enumerate(reply.pieces):
            item = self._item(piece)
            output.append(item)
            yield event("response.output_item.added", output_index=index, item=unfilled(item))
            for kind, members in deltas(piece):
                yield event(kind, output_index=index, item_id=item["id"], **members)
            yield event("response.output_item.done", output_index=index, item=item)
        match reply.finish:
            case "cut" | "drop":
                return
            case "garbage":
                yield "event: response.completed\ndata: {this is no JSON\n\n"
            case "overloaded":
                failed = response(asked, reply, output, "failed")
                failed["error"] = {"code": "server_error", "message": "secret-of-the-provider"}
                yield event("response.failed", response=failed)
            case "length" | "filter":
                yield event("response.incomplete", response=response(asked, reply, output, "incomplete"))
            case _:
                yield event("response.completed", response=response(asked, reply, output))

    def _item(self, piece: Thought | Text | Call) -> dict[str, Any]:
        number = len(self._issued) + 1
        item: dict[str, Any]
        match piece:
            case Thought(text=text):
                item = {
                    "type": "reasoning",
                    "id": f"rs_{number}",
                    "summary": [],
                    "encrypted_content": f"sealed {text}",
                }
            case Text(text=text):
                content = [{"type": "output_text", "text": text, "annotations": []}]
                item = {
                    "type": "message",
                    "id": f"msg_{number}",
                    "role": "assistant",
                    "status": "completed",
                    "content": content,
                }
            case Call():
                item = {
                    "type": "function_call",
                    "id": f"fc_{number}",
                    "call_id": piece.id,
                    "name": piece.name,
                    "arguments": piece.arguments,
                    "status": "completed",
                }
        self._issued[item["id"]] = item
        if item["type"] == "reasoning":
            self._sealed.add(item["encrypted_content"])
        return item


def check_thoughts(items: list[dict[str, Any]]) -> None:
    for item, following in pairwise(items):
        is_ours = following.get("role") == "user" or following.get("type") == "function_call_output"
        if item.get("type") == "reasoning" and is_ours:
            raise Refused(400, "'reasoning' was provided without its required following item")


def deltas(piece: Thought | Text | Call) -> Iterator[tuple[str, dict[str, Any]]]:
    match piece:
        case Text(text=text):
            empty = {"type": "output_text", "text": "", "annotations": []}
            yield "response.content_part.added", {"content_index": 0, "part": empty}
            for word in words(text):
                yield "response.output_text.delta", {"content_index": 0, "delta": word, "logprobs": []}
        case Call():
            for third in thirds(piece.arguments):
                yield "response.function_call_arguments.delta", {"delta": third}


def unfilled(item: dict[str, Any]) -> dict[str, Any]:
    empty: dict[str, dict[str, Any]] = {
        "message": {"content": []},
        "function_call": {"arguments": ""},
        "reasoning": {},
    }
    return {**item, **empty[item["type"]]}


def response(
    asked: Asked, reply: Reply, output: list[dict[str, Any]], status: str = "completed"
) -> dict[str, Any]:
    reasons = {"length": "max_output_tokens", "filter": "content_filter"}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "model": asked.model,
        "status": status,
        "output": output,
        "error": None,
        "incomplete_details": {"reason": reasons[reply.finish]} if status == "incomplete" else None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": USAGE,
    }
