"""Anthropic's Messages: https://docs.anthropic.com/en/api/messages"""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

from tests.support.providers.brain import (
    EMBEDDED,
    Asked,
    Call,
    Refused,
    Reply,
    Text,
    Thought,
    check_embedded,
    thirds,
    words,
)
from tests.support.providers.caches import MARKS

FINISH = {"stop": "end_turn", "calls": "tool_use", "length": "max_tokens", "filter": "refusal"}
ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class Api:
    def __init__(self) -> None:
        self._issued: dict[str, str] = {}  # thoughts by their signatures

    def read(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Asked:
        keys = {headers.get("x-api-key"), headers.get("authorization", "").removeprefix("Bearer ")}
        if "key-of-anthropic" not in keys or "anthropic-version" not in headers:
            raise Refused(401, "invalid x-api-key")
        if "max_tokens" not in body:
            raise Refused(400, "max_tokens: Field required")
        if json.dumps(body).count('"cache_control": {"type": "ephemeral"}') > MARKS:
            raise Refused(400, "A maximum of 4 blocks with cache_control may be provided.")
        steps, message, before = 0, "", "assistant"
        calls: list[str] = []
        for each in body["messages"]:
            if each["role"] == before:
                raise Refused(400, "messages: roles must alternate between user and assistant")
            before = each["role"]
            blocks = blocks_of(each["content"])
            results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
            if sorted(results) != sorted(calls) or any(b["type"] == "text" for b in blocks[: len(results)]):
                raise Refused(400, f"tool_use ids and tool_result blocks do not match: {calls}, {results}")
            calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
            if before == "assistant":
                self._check(blocks)
                steps += 1 if calls else 0
            elif texts := [block.get("text", "") for block in blocks if block["type"] != "tool_result"]:
                steps, message = 0, texts[-1]
        if calls or before != "user":
            raise Refused(400, "tool_use ids were found without tool_result blocks immediately after")
        tools = {tool["name"]: tool["input_schema"] for tool in body.get("tools", [])}
        return Asked(body["model"], message, steps, tools)

    def _check(self, blocks: list[dict[str, Any]]) -> None:
        if blocks[-1]["type"] == "thinking":
            raise Refused(400, "The final block in an assistant message cannot be `thinking`")
        for block in blocks:
            if block["type"] == "thinking" and self._issued.get(block["signature"]) != block["thinking"]:
                raise Refused(400, "Invalid signature in thinking block")
            if block["type"] == "tool_use" and not re.fullmatch(r"[a-zA-Z0-9_-]+", block["id"]):
                raise Refused(400, "tool_use.id: String should match pattern")

    def refusal(self, refused: Refused) -> tuple[dict[str, Any], dict[str, str]]:
        headers = {} if refused.delay is None else {"retry-after": str(int(refused.delay))}
        error = {"type": ERRORS.get(refused.status, "api_error"), "message": refused.message}
        return {"type": "error", "error": error}, headers

    def whole(self, asked: Asked, reply: Reply) -> dict[str, Any]:
        content = [self._block(piece) for piece in reply.pieces]
        usage = {"input_tokens": 10, "output_tokens": 5}
        return {**envelope(asked), "content": content, "stop_reason": FINISH[reply.finish], "usage": usage}

    async def stream(self, asked: Asked, reply: Reply) -> AsyncIterator[str]:
        usage = {"input_tokens": 10, "output_tokens": 1}
        yield event("message_start", message={**envelope(asked), "content": [], "usage": usage})
        yield event("ping")
        for index, piece in enumerate(reply.pieces):
            block = self._block(piece)
            yield event("content_block_start", index=index, content_block=unfilled(block))
            for delta in deltas(block):
                yield event("content_block_delta", index=index, delta=delta)
            yield event("content_block_stop", index=index)
        match reply.finish:
            case "cut" | "drop":
                return
            case "garbage":
                yield "event: message_delta\ndata: {this is no JSON\n\n"
            case "overloaded":
                yield event("error", error={"type": "overloaded_error", "message": "secret-of-the-provider"})
            case finish:
                delta = {"stop_reason": FINISH[finish], "stop_sequence": None}
                yield event("message_delta", delta=delta, usage={"output_tokens": 5})
                yield event("message_stop")

    def _block(self, piece: Thought | Text | Call) -> dict[str, Any]:
        match piece:
            case Thought(text=text):
                signature = f"signature-{len(self._issued) + 1}"
                self._issued[signature] = text
                return {"type": "thinking", "thinking": text, "signature": signature}
            case Text(text=text):
                return {"type": "text", "text": text}
        try:
            return {"type": "tool_use", "id": piece.id, "name": piece.name, "input": piece.decoded}
        except ValueError:
            return {"type": "tool_use", "id": piece.id, "name": piece.name, "input": piece.arguments}


def blocks_of(content: Any) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = (
        [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    )
    if not blocks or any(block["type"] == "text" and not block["text"].strip() for block in blocks):
        raise Refused(400, "messages: text content blocks must be non-empty")
    for block in blocks:
        if block["type"] in {"image", "document"}:
            check_embedded(block["source"]["data"], EMBEDDED[block["source"]["media_type"]])
    return blocks


def unfilled(block: dict[str, Any]) -> dict[str, Any]:
    empty: dict[str, dict[str, Any]] = {
        "text": {"text": ""},
        "thinking": {"thinking": "", "signature": ""},
        "tool_use": {"input": {}},
    }
    return {**block, **empty[block["type"]]}


def deltas(block: dict[str, Any]) -> list[dict[str, Any]]:
    match block["type"]:
        case "text":
            return [{"type": "text_delta", "text": word} for word in words(block["text"])]
        case "thinking":
            return [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": block["signature"]},
            ]
    value = block["input"] if isinstance(block["input"], str) else json.dumps(block["input"])
    return [{"type": "input_json_delta", "partial_json": third} for third in thirds(value)]


def envelope(asked: Asked) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "stop_reason": None,
        "stop_sequence": None,
    }


def event(kind: str, **members: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n"
