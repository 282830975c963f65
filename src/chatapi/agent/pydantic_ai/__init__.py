"""Makes a user's own pydantic-ai agent an assistant of the service; only this package knows pydantic-ai.

It is imported only if such an agent is configured.
"""

from chatapi.agent.pydantic_ai.assistant import PydanticAgent

__all__ = ["PydanticAgent"]
