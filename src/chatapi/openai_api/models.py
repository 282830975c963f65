"""The models that OpenAI's API shows: the service's own, and the same without our tools."""

from collections.abc import Sequence
from typing import Literal

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Struct

from chatapi.agent.ports import Agent
from chatapi.agent.providers import PROVIDERS
from chatapi.errors.openai_api import ModelNotFound
from chatapi.openai_api.errors import errors
from chatapi.openapi import OPENAI_TAG

NO_TOOLS = ":no-tools"


class Model(Struct, frozen=True, kw_only=True):
    """`created` is 0: nobody tells when a model was made."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str
    name: str


class ModelList(Struct, frozen=True):
    data: Sequence[Model]
    object: Literal["list"] = "list"


class Served(Struct, frozen=True, kw_only=True):
    """The model of a request. Without `tools` it is told of none of ours."""

    id: str
    tools: bool


class Models:
    """The two models of an agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def find(self, asked: str) -> Served:
        """The model of this id, with its provider's prefix or without; raises `ModelNotFound`."""
        for served in self._served():
            if asked in {served.id, without_provider(served.id)}:
                return served
        raise ModelNotFound(asked)

    def all(self) -> list[Model]:
        return [self.describe(served) for served in self._served()]

    def describe(self, served: Served) -> Model:
        model = self._agent.model
        prefix = model.partition(":")[0]
        return Model(
            id=served.id,
            owned_by=prefix if prefix in PROVIDERS else "chatapi",
            name=f"chatapi · {model}{'' if served.tools else ' without tools'}",
        )

    def _served(self) -> tuple[Served, Served]:
        model = self._agent.model
        return Served(id=model, tools=True), Served(id=model + NO_TOOLS, tools=False)


def without_provider(model: str) -> str:
    """The name that the provider has for it. A list of models, of which the second stands in for the first, has none."""
    prefix, _, name = model.partition(":")
    return name if prefix in PROVIDERS and "," not in model else model


class ModelController(Controller):
    path = "/models"
    tags = (OPENAI_TAG,)

    @get(operation_id="listModels", summary="List models", responses=errors())
    async def list_models(self, models: NamedDependency[Models]) -> ModelList:
        """The service's model, and the same one without our tools: for other programs' own small requests."""
        return ModelList(models.all())

    @get("/{model_id:path}", operation_id="readModel", summary="Read a model", responses=errors(404))
    async def read_model(self, models: NamedDependency[Models], model_id: FromPath[str]) -> Model:
        """An id may have slashes in it, as they are or encoded."""
        return models.describe(models.find(model_id.removeprefix("/")))
