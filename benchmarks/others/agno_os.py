"""Agno's AgentOS, with sessions in PostgreSQL and the last ten runs as context.

https://docs.agno.com: `POST /agents/{agent_id}/runs` stores the run in its session.
"""

import os
from typing import Any

import uvicorn
from agno.agent import Agent
from agno.db.postgres import AsyncPostgresDb
from agno.models.base import Model
from agno.models.response import ModelResponse
from agno.os import AgentOS
from sqlalchemy.ext.asyncio import create_async_engine

ANSWER = os.environ["ANSWER"]
DATABASE_URL = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://")


class Instant(Model):
    """Answers without streaming, which is all that is asked of it here."""

    async def ainvoke(self, *_: Any, **__: Any) -> ModelResponse:
        return ModelResponse(role="assistant", content=ANSWER)

    def _not_asked(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    invoke = invoke_stream = ainvoke_stream = _not_asked
    _parse_provider_response = _parse_provider_response_delta = _not_asked


if __name__ == "__main__":
    engine = create_async_engine(DATABASE_URL, pool_size=15, max_overflow=0)
    assistant = Agent(
        id="assistant",
        model=Instant(id="instant"),
        db=AsyncPostgresDb(db_engine=engine),
        add_history_to_context=True,
        num_history_runs=10,
        telemetry=False,
    )
    app = AgentOS(agents=[assistant], telemetry=False).get_app()
    uvicorn.run(app, port=int(os.environ["PORT"]), access_log=False)
