"""Google's Agent Development Kit: its API server, with sessions in PostgreSQL.

https://google.github.io/adk-docs/: `POST /run` stores the user's message and each event of the agent in its session.
"""

import os
from collections.abc import AsyncGenerator

import uvicorn
from google.adk.agents import BaseAgent
from google.adk.agents.invocation_context import InvocationContext
from google.adk.cli.fast_api import get_fast_api_app
from google.adk.cli.utils.base_agent_loader import BaseAgentLoader
from google.adk.events import Event
from google.genai import types

ANSWER = os.environ["ANSWER"]
DATABASE_URL = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://")


class Assistant(BaseAgent):
    async def _run_async_impl(self, ctx: InvocationContext) -> AsyncGenerator[Event, None]:
        said = types.Content(role="model", parts=[types.Part(text=ANSWER)])
        yield Event(author=self.name, invocation_id=ctx.invocation_id, content=said)


class Loader(BaseAgentLoader):
    assistant = Assistant(name="assistant")

    def load_agent(self, agent_name: str) -> BaseAgent:  # noqa: ARG002 - there is one
        return self.assistant

    def list_agents(self) -> list[str]:
        return [self.assistant.name]


if __name__ == "__main__":
    app = get_fast_api_app(
        agents_dir=".",
        agent_loader=Loader(),
        session_service_uri=DATABASE_URL,
        session_db_kwargs={"pool_size": 15, "max_overflow": 0},
        use_local_storage=False,
        web=False,
        auto_create_session=True,
    )
    uvicorn.run(app, port=int(os.environ["PORT"]), access_log=False)
