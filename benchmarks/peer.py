"""The peer: FastAPI, SQLModel and asyncpg, the way that the plans and the two projects' own documentation have it.

Two tables, a session for each request, the plans' cycle: find the conversation, fetch its history, store the user's
message, ask the assistant, store the answer. Configured as well as it can be without writing it otherwise: the same
pool of 15, uvloop and httptools; nothing expires at a commit and nothing is read again, so that
no connection is held while the assistant thinks. It promises nothing more: no idempotency, no claim on the
conversation, no limits, no audit trail.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

import jwt
from fastapi import Depends, FastAPI, HTTPException
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


async def ask(history: list[dict[str, str]]) -> str:  # noqa: ARG001 - a model would read it
    if THINKS:
        await asyncio.sleep(THINKS)
    return ANSWER


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

    answer = await ask([*history, {"role": "user", "content": request.message}])

    session.add(Message(user_id=user_id, conversation_id=conversation.id, role="assistant", content=answer))
    conversation.updated_at = now()
    session.add(conversation)
    await session.commit()
    return ChatResponse(conversation_id=conversation.id, response=answer)


async def create_tables() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    await engine.dispose()  # its connections belong to this event loop


if __name__ == "__main__":
    import uvicorn

    asyncio.run(create_tables())
    uvicorn.run(app, port=int(os.environ["PORT"]))
