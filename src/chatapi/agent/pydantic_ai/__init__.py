"""A user's own pydantic-ai agent as an assistant of the service; the only place that knows pydantic-ai.

Nothing of this is imported unless it is configured.
"""

from chatapi.agent.pydantic_ai.assistant import PydanticAgent

__all__ = ["PydanticAgent"]
