"""Gemini's generateContent: https://ai.google.dev/api/generate-content

Thought signatures: https://ai.google.dev/gemini-api/docs/thought-signatures
"""

import base64
import json
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
    words,
)

FINISH = {
    "stop": "STOP",
    "calls": "STOP",
    "length": "MAX_TOKENS",
    "filter": "SAFETY",
    "malformed": "MALFORMED_FUNCTION_CALL",
}
USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
UNKNOWN_ORIGIN = base64.b64encode(
    b"skip_thought_signature_validator"
).decode()  # Google's word for foreign calls
STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    429: "RESOURCE_EXHAUSTED",
}


class Api:
    def __init__(self) -> None:
        self._issued: dict[str, str] = {}  # signed values, by signature

    def read(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Asked:
        if headers.get("x-goog-api-key") != "key-of-gemini":
            raise Refused(401, "API key not valid")
        steps, message, before = 0, "", "model"
        calls: list[str] = []
        for content in body["contents"]:
            parts, role = content["parts"], content["role"]
            responses = [part["functionResponse"]["name"] for part in parts if "functionResponse" in part]
            if not parts or (calls or responses) != responses or sorted(calls) != sorted(responses):
                raise Refused(
                    400, "the number of function response parts must equal the function calls before"
                )
            if role == before and not responses:
                raise Refused(400, "Please ensure that user and model turns alternate")
            calls = [part["functionCall"]["name"] for part in parts if "functionCall" in part]
            if role == "model":
                self._check_signatures(parts)
                steps += 1 if calls else 0
            elif not responses:
                for part in parts:
                    if "inlineData" in part:
                        check_embedded(part["inlineData"]["data"], EMBEDDED[part["inlineData"]["mimeType"]])
                steps, message = 0, "".join(part.get("text", "") for part in parts)
            before = role
        if calls:
            raise Refused(400, "a function call turn must be followed by a function response turn")
        functions = [each for tool in body.get("tools", []) for each in tool["functionDeclarations"]]
        tools = {
            each["name"]: each.get("parameters_json_schema") or each["parametersJsonSchema"]
            for each in functions
        }
        return Asked(path.rpartition("/")[2].partition(":")[0], message, steps, tools)

    def _check_signatures(self, parts: list[dict[str, Any]]) -> None:
        first = next((part for part in parts if "functionCall" in part), None)
        for part in parts:
            signature = part.get("thoughtSignature")
            if signature is None and part is first:
                raise Refused(400, "Function call is missing a thought_signature in functionCall parts")
            if signature in {None, UNKNOWN_ORIGIN}:
                continue
            if self._issued.get(signature) != signed(part):
                raise Refused(400, "Thought signature is not valid")

    def refusal(self, refused: Refused) -> tuple[dict[str, Any], dict[str, str]]:
        details = []
        if refused.delay is not None:
            details = [
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{refused.delay}s"}
            ]
        status = STATUS.get(refused.status, "UNAVAILABLE" if refused.status == 503 else "INTERNAL")
        error = {"code": refused.status, "message": refused.message, "status": status, "details": details}
        return {"error": error}, {}

    def whole(self, asked: Asked, reply: Reply) -> dict[str, Any]:
        parts = [part for piece in reply.pieces for part in self._parts(piece)]
        return chunk(asked, parts, FINISH[reply.finish])

    async def stream(self, asked: Asked, reply: Reply) -> AsyncIterator[str]:
        for piece in reply.pieces:
            for part in self._parts(piece):
                yield data(chunk(asked, [part]))
        match reply.finish:
            case "cut" | "drop":
                return
            case "garbage":
                yield "data: {this is no JSON\r\n\r\n"
            case "overloaded":
                yield data(self.refusal(Refused(503, "secret-of-the-provider: overloaded"))[0])
            case "filter" if not reply.pieces:
                blocked = {"blockReason": "PROHIBITED_CONTENT"}
                yield data({"promptFeedback": blocked, "usageMetadata": USAGE, "modelVersion": asked.model})
            case finish:
                yield data(chunk(asked, [{"text": ""}], FINISH[finish]))

    def _parts(self, piece: Thought | Text | Call) -> list[dict[str, Any]]:
        match piece:
            case Thought(text=text):
                return [{"text": text, "thought": True}]
            case Text(text=text):
                return [{"text": word} for word in words(text)]
        part = {"functionCall": {"name": piece.name, "args": piece.decoded}}  # without an id, like Gemini's
        signature = base64.b64encode(f"signature {len(self._issued) + 1}".encode()).decode()
        self._issued[signature] = signed(part)
        return [{**part, "thoughtSignature": signature}]


def signed(part: dict[str, Any]) -> str:
    call = part.get("functionCall", {})
    return json.dumps([call.get("name"), call.get("args")], sort_keys=True)


def chunk(asked: Asked, parts: list[dict[str, Any]], finish: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "usageMetadata": USAGE,
        "modelVersion": asked.model,
        "responseId": "response-1",
    }


def data(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\r\n\r\n"
