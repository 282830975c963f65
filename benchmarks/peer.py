"""The peer: FastAPI, SQLModel and asyncpg, the way that the plans and the two projects' own documentation have it.

Two tables, a session for each request, the plans' cycle: find the conversation, fetch its history, store the user's
message, ask the assistant, store the answer. Configured as well as it can be without writing it otherwise: the same
pool of 15, uvloop and httptools; nothing expires at a commit and nothing is read again, so that
no connection is held while the assistant thinks. It promises nothing more: no idempotency, no claim on the
conversation, no limits, no audit trail.

With PEER_BASE_URL it asks a model's server by the `openai` SDK, with the same instructions and the same tools as chatapi
offers, and the SDK's client may have as many connections as it likes. It streams at a route of its own, and stores the
same two rows. It carries out the two tools that the model of the benchmarks calls, as the SDK's documentation shows it.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

import jwt
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, StringConstraints
from sqlalchemy import BigInteger, DateTime, Identity
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from benchmarks.assistants import ANSWER

HISTORY = 20
SECRET = os.environ["BETTER_AUTH_SECRET"]
THINKS = float(os.environ["PEER_SECONDS"])
BASE_URL = os.environ.get("PEER_BASE_URL")
if BASE_URL:
    import httpx2
    import openai

    INSTRUCTIONS: Any = {"role": "system", "content": os.environ["PEER_INSTRUCTIONS"]}
    TOOLS: Any = [{"type": "function", "function": tool} for tool in json.loads(os.environ["PEER_TOOLS"])]
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    model = openai.AsyncOpenAI(
        base_url=BASE_URL, api_key="none", http_client=openai.DefaultAsyncHttpx2Client(limits=limits)
    )


def now() -> datetime:
    return datetime.now(UTC)


class Conversation(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True, sa_type=BigInteger, sa_column_args=[Identity()])
    user_id: str = Field(index=True)
    created_at: datetime = Field(default_factory=now, sa_type=DateTime(timezone=True))  # type: ignore[call-overload]
    updated_at: datetime = Field(default_factory=now, sa_type=DateTime(timezone=True))  # type: ignore[call-overload]


class Message(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True, sa_type=BigInteger, sa_column_args=[Identity()])
    user_id: str = Field(index=True)
    conversation_id: int = Field(foreign_key="conversation.id", index=True, sa_type=BigInteger)
    role: str
    content: str
    created_at: datetime = Field(default_factory=now, sa_type=DateTime(timezone=True))  # type: ignore[call-overload]


class Task(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True, sa_type=BigInteger, sa_column_args=[Identity()])
    user_id: str = Field(index=True)
    title: str
    completed: bool = False


class ChatRequest(BaseModel):
    message: Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
    conversation_id: int | None = None


class ChatResponse(BaseModel):
    conversation_id: int
    response: str
    tool_calls: list[dict[str, Any]] = []


engine = create_async_engine(os.environ["PEER_DATABASE_URL"], pool_size=15, max_overflow=0)
sessions = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)
app = FastAPI()
bearer = HTTPBearer()


async def get_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


async def get_user(
    user_id: str, credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]
) -> str:
    try:
        claims = jwt.decode(credentials.credentials, SECRET, algorithms=["HS256"])
    except jwt.PyJWTError:
        raise HTTPException(401, "Invalid token") from None
    if claims["sub"] != user_id:
        raise HTTPException(403, "Not your path")
    return user_id


async def ask(messages: list[Any], user_id: str, session: AsyncSession) -> str:
    while BASE_URL:
        completion = await model.chat.completions.create(
            model="benchmark", messages=[INSTRUCTIONS, *messages], tools=TOOLS
        )
        said = completion.choices[0].message.model_dump(exclude_none=True)
        if "tool_calls" not in said:
            return str(said["content"])
        messages.append(said)
        messages += [await carry_out(call, user_id, session) for call in said["tool_calls"]]
    if THINKS:
        await asyncio.sleep(THINKS)
    return ANSWER


async def ask_for_words(messages: list[Any], user_id: str, session: AsyncSession) -> AsyncIterator[str]:
    while True:
        chunks = await model.chat.completions.create(
            model="benchmark",
            messages=[INSTRUCTIONS, *messages],
            tools=TOOLS,
            stream=True,
            stream_options={"include_usage": True},
        )
        calls: dict[int, dict[str, Any]] = {}
        async for chunk in chunks:
            if not chunk.choices:
                continue
            delta = chunk.choices[0].delta
            if delta.content:
                yield delta.content
            for piece in delta.tool_calls or []:
                said: Any = piece.function
                begun = {"id": piece.id, "type": "function", "function": {"name": said.name, "arguments": ""}}
                calls.setdefault(piece.index, begun)["function"]["arguments"] += said.arguments or ""
        if not calls:
            return
        messages.append({"role": "assistant", "tool_calls": list(calls.values())})
        messages += [await carry_out(call, user_id, session) for call in calls.values()]


async def carry_out(call: dict[str, Any], user_id: str, session: AsyncSession) -> dict[str, str]:
    """The outcome of a call, as the model is sent it."""
    if call["function"]["name"] == "add_task":
        task = Task(user_id=user_id, title=json.loads(call["function"]["arguments"])["title"])
        session.add(task)
        await session.commit()
        result: Any = task.model_dump()
    else:
        result = [
            each.model_dump() for each in await session.exec(select(Task).where(Task.user_id == user_id))
        ]
        await session.commit()
    return {"role": "tool", "tool_call_id": call["id"], "content": json.dumps(result)}


@app.get("/health/ready")
async def ready(session: Annotated[AsyncSession, Depends(get_session)]) -> dict[str, str]:
    await session.exec(select(1))
    return {"status": "ready"}


@app.post("/api/{user_id}/chat")
async def chat(
    request: ChatRequest,
    user_id: Annotated[str, Depends(get_user)],
    session: Annotated[AsyncSession, Depends(get_session)],
) -> ChatResponse:
    conversation, messages = await begin(request, user_id, session)
    answer = await ask(messages, user_id, session)
    await finish(conversation, answer, session)
    assert conversation.id is not None
    return ChatResponse(conversation_id=conversation.id, response=answer)


@app.post("/api/{user_id}/chat/stream")
async def chat_stream(
    request: ChatRequest,
    user_id: Annotated[str, Depends(get_user)],
    session: Annotated[AsyncSession, Depends(get_session)],
) -> StreamingResponse:
    conversation, messages = await begin(request, user_id, session)

    async def events() -> AsyncIterator[str]:
        words = []
        async for word in ask_for_words(messages, user_id, session):
            words.append(word)
            yield f"data: {json.dumps({'type': 'text-delta', 'delta': word})}\n\n"
        await finish(conversation, "".join(words), session)  # FastAPI closes it after the last event
        yield f"data: {json.dumps({'type': 'finish', 'conversation_id': conversation.id})}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def begin(
    request: ChatRequest, user_id: str, session: AsyncSession
) -> tuple[Conversation, list[dict[str, str]]]:
    """Store the message; its conversation, and what the model is sent."""
    if request.conversation_id is None:
        conversation = Conversation(user_id=user_id)
        session.add(conversation)
        await session.flush()
    else:
        found = await session.get(Conversation, request.conversation_id)
        if found is None or found.user_id != user_id:
            raise HTTPException(404, "Conversation not found")
        conversation = found
    assert conversation.id is not None
    newest_first = await session.exec(
        select(Message)
        .where(Message.conversation_id == conversation.id)
        .order_by(col(Message.id).desc())
        .limit(HISTORY)
    )
    history = [{"role": message.role, "content": message.content} for message in reversed(newest_first.all())]
    session.add(
        Message(user_id=user_id, conversation_id=conversation.id, role="user", content=request.message)
    )
    await session.commit()
    return conversation, [*history, {"role": "user", "content": request.message}]


async def finish(conversation: Conversation, answer: str, session: AsyncSession) -> None:
    assert conversation.id is not None
    session.add(
        Message(
            user_id=conversation.user_id, conversation_id=conversation.id, role="assistant", content=answer
        )
    )
    conversation.updated_at = now()
    session.add(conversation)
    await session.commit()


async def create_tables() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    await engine.dispose()  # its connections belong to this event loop


if __name__ == "__main__":
    import uvicorn

    asyncio.run(create_tables())
    uvicorn.run(app, port=int(os.environ["PORT"]))
