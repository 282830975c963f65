"""The limit on SQLite: the rows of a turn, written with `sqlite3` in the one thread of a bare ASGI function.

The same two durable transactions on chatapi's own tables, with the same PRAGMAs, and nothing else: no sign-in, no
validation, no limits, no logs. Nobody waits for a lock, because the loop's own thread does all the writing.
"""

import os
import sqlite3
import time
from typing import Any
from uuid import uuid4

import msgspec

from benchmarks.assistants import ANSWER
from benchmarks.limit import ChatRequest

TOUCH = "UPDATE conversations SET updated_at = ? WHERE id = ? AND user_id = ?"
NEW_USER = "INSERT INTO users (id, created_at) VALUES (?, ?) ON CONFLICT DO NOTHING"
NEW_CONVERSATION = "INSERT INTO conversations (user_id, created_at, updated_at) VALUES (?, ?, ?)"
NEW_TURN = """
INSERT INTO turns (user_id, conversation_id, status, worker_id, run_id, cancel_requested, model, created_at)
VALUES (?, ?, 'running', 'limit', ?, false, 'limit', ?)
"""
NEW_MESSAGE = """
INSERT INTO messages (user_id, conversation_id, turn_id, role, content, tool_calls, created_at)
VALUES (?, ?, ?, ?, ?, '[]', ?)
"""
HISTORY = """
SELECT role, content FROM messages WHERE user_id = ? AND conversation_id = ? AND turn_id IN (
  SELECT id FROM turns WHERE user_id = ? AND conversation_id = ? AND status = 'completed' ORDER BY id DESC LIMIT 10
) ORDER BY id
"""
END_TURN = "UPDATE turns SET status = 'completed', finished_at = ? WHERE id = ? AND user_id = ? AND status = 'running'"

connection = sqlite3.connect(os.environ["LIMIT_DATABASE"], isolation_level=None)
for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
    connection.execute(f"PRAGMA {pragma}")
decode = msgspec.json.Decoder(ChatRequest).decode


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})
        return
    body = b"{}"
    if scope["method"] == "POST":
        body = turn(scope["path"].split("/")[2], decode((await receive())["body"]))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def turn(user_id: str, request: ChatRequest) -> bytes:
    at = time.strftime("%Y-%m-%d %H:%M:%S.000000", time.gmtime())
    run = connection.execute
    run("BEGIN IMMEDIATE")
    conversation_id = request.conversation_id
    if conversation_id is None:
        run(NEW_USER, (user_id, at))
        conversation_id = run(NEW_CONVERSATION, (user_id, at, at)).lastrowid
    else:
        run(TOUCH, (at, conversation_id, user_id))
    turn_id = run(NEW_TURN, (user_id, conversation_id, uuid4().hex, at)).lastrowid
    run(NEW_MESSAGE, (user_id, conversation_id, turn_id, "user", request.message, at))
    run(HISTORY, (user_id, conversation_id, user_id, conversation_id)).fetchall()
    run("COMMIT")
    run("BEGIN IMMEDIATE")
    run(END_TURN, (at, turn_id, user_id))
    message_id = run(NEW_MESSAGE, (user_id, conversation_id, turn_id, "assistant", ANSWER, at)).lastrowid
    run(TOUCH, (at, conversation_id, user_id))
    run("COMMIT")
    return msgspec.json.encode(
        {
            "conversation_id": conversation_id,
            "response": ANSWER,
            "tool_calls": [],
            "message_id": message_id,
            "turn_id": turn_id,
        }
    )


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=int(os.environ["PORT"]), access_log=False)
