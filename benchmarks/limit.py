"""The limit: the two durable transactions of a turn on chatapi's own tables, and nothing else.

asyncpg by hand below a bare ASGI function: no framework, no sign-in (the path is believed), no validation, no limits, no
logs, no errors. What a turn costs when all else costs nothing, with uvicorn and PostgreSQL as they are.
"""

import asyncio
import os
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec

from benchmarks.assistants import ANSWER

THINKS = float(os.environ.get("LIMIT_SECONDS", "0"))

BEGIN = """
WITH touched AS (
  UPDATE conversations SET updated_at = clock_timestamp() WHERE id = $2 AND user_id = $1 RETURNING id
), turn AS (
  INSERT INTO turns (user_id, conversation_id, status, worker_id, run_id, cancel_requested, model, created_at)
  SELECT $1, id, 'running', 'limit', $3, false, 'limit', clock_timestamp() FROM touched
  ON CONFLICT DO NOTHING RETURNING id
), message AS (
  INSERT INTO messages (user_id, conversation_id, turn_id, role, content, tool_calls, created_at)
  SELECT $1, $2, id, 'user', $4, '[]', clock_timestamp() FROM turn
)
SELECT turn.id, history.role, history.content
FROM turn LEFT JOIN (
  SELECT messages.id, role, content FROM messages JOIN (
    SELECT id, user_id FROM turns WHERE user_id = $1 AND conversation_id = $2 AND status = 'completed'
    ORDER BY id DESC LIMIT 10
  ) AS latest ON messages.turn_id = latest.id AND messages.user_id = latest.user_id
) AS history ON true
ORDER BY history.id
"""
FINISH = """
WITH touched AS (
  UPDATE conversations SET updated_at = clock_timestamp() WHERE id = $2 AND user_id = $1 RETURNING id
), turn AS (
  UPDATE turns SET status = 'completed', finished_at = clock_timestamp() FROM touched
  WHERE turns.id = $3 AND turns.user_id = $1 AND turns.status = 'running' RETURNING turns.id
)
INSERT INTO messages (user_id, conversation_id, turn_id, role, content, tool_calls, created_at)
SELECT $1, $2, id, 'assistant', $4, '[]', clock_timestamp() FROM turn RETURNING id
"""
NEW = """
WITH owner AS (INSERT INTO users (id, created_at) VALUES ($1, clock_timestamp()) ON CONFLICT DO NOTHING)
INSERT INTO conversations (user_id, created_at, updated_at) VALUES ($1, clock_timestamp(), clock_timestamp()) RETURNING id
"""

pool: asyncpg.Pool


class ChatRequest(msgspec.Struct):
    message: str
    conversation_id: int | None = None


decode = msgspec.json.Decoder(ChatRequest).decode


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    if scope["method"] == "GET":
        status, body = 200, b"{}"
        await pool.fetchval("SELECT 1")
    else:
        user_id = scope["path"].split("/")[2]
        status, body = 200, await turn(user_id, decode((await receive())["body"]))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def turn(user_id: str, request: ChatRequest) -> bytes:
    conversation_id = request.conversation_id or await pool.fetchval(NEW, user_id)
    rows = await pool.fetch(BEGIN, user_id, conversation_id, uuid4().hex, request.message)
    turn_id = rows[0][0]
    if THINKS:
        await asyncio.sleep(THINKS)
    message_id = await pool.fetchval(FINISH, user_id, conversation_id, turn_id, ANSWER)
    return msgspec.json.encode(
        {
            "conversation_id": conversation_id,
            "response": ANSWER,
            "tool_calls": [],
            "message_id": message_id,
            "turn_id": turn_id,
        }
    )


async def lifespan(receive: Any, send: Any) -> None:
    global pool  # noqa: PLW0603 - as short as can be
    await receive()
    pool = await asyncpg.create_pool(
        os.environ["LIMIT_DATABASE_URL"],
        min_size=15,
        max_size=15,
        server_settings={"plan_cache_mode": "force_generic_plan"},  # as chatapi has it
    )
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await pool.close()
    await send({"type": "lifespan.shutdown.complete"})


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=int(os.environ["PORT"]), access_log=False)
