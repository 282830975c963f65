"""Assistants made of language models, by way of pydantic-ai; the only place that knows it.

`LLMAgent` asks the models that `CHAT_MODEL` or its caller names. `PydanticAgent` makes an assistant of a
pydantic-ai agent of the user's own. Nothing of this is imported unless it is configured.
"""

from chatapi.agent.llm.assistant import INSTRUCTIONS, LLMAgent, PydanticAgent

__all__ = ["INSTRUCTIONS", "LLMAgent", "PydanticAgent"]
