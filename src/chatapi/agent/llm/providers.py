"""From a name such as `google:gemini-2.5-flash` to a model, on the process's one HTTP client."""

from collections.abc import Callable

from httpx2 import AsyncClient
from msgspec import Struct
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings

from chatapi.agent.loading import EXTRAS, extra_missing
from chatapi.settings import Settings, SettingsError

# Retrying is done in one place (`attempts`), which knows what has been said already and what else could be asked.
NO_RETRIES = ModelSettings(max_retries=0)


class Candidate(Struct, frozen=True):
    """A model that may be asked, and its name in `CHAT_MODEL`."""

    name: str
    model: Model


def candidates(names: str, settings: Settings, http: AsyncClient) -> list[Candidate]:
    """The models of a comma-separated list, the first choice first; raises `SettingsError`."""
    return [
        Candidate(name, model_of(name, settings, http)) for each in names.split(",") if (name := each.strip())
    ]


def model_of(name: str, settings: Settings, http: AsyncClient) -> Model:
    provider, _, model_name = name.partition(":")
    if provider not in PROVIDERS or not model_name:
        raise SettingsError(
            f"CHAT_MODEL: {name} is not a provider ({', '.join(PROVIDERS)}) and a model's name"
        )
    try:
        return PROVIDERS[provider](model_name, settings, http)
    except ImportError as error:
        raise extra_missing(name, EXTRAS[provider]) from error


def key(variable: str, value: str | None, name: str) -> str:
    if value is None:
        raise SettingsError(f"{variable}: is needed for CHAT_MODEL={name}")
    return value


def google(name: str, settings: Settings, http: AsyncClient) -> Model:
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.providers.google import GoogleProvider

    api_key = key("GEMINI_API_KEY", settings.gemini_api_key, f"google:{name}")
    provider = GoogleProvider(api_key=api_key, base_url=settings.gemini_base_url, http_client=http)
    return GoogleModel(name, provider=provider, settings=NO_RETRIES)


def openai(name: str, settings: Settings, http: AsyncClient) -> Model:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.profiles.openai import OpenAIModelProfile
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(
        base_url=settings.openai_base_url, api_key=openai_key(settings, f"openai:{name}"), http_client=http
    )
    # Without one, a stream that was cut between two chunks would pass for a whole answer.
    profile = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
    return OpenAIChatModel(name, provider=provider, profile=profile, settings=NO_RETRIES)


def openai_responses(name: str, settings: Settings, http: AsyncClient) -> Model:
    from pydantic_ai.models.openai import OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(
        base_url=settings.openai_base_url,
        api_key=openai_key(settings, f"openai-responses:{name}"),
        http_client=http,
    )
    return OpenAIResponsesModel(name, provider=provider, settings=NO_RETRIES)


def openai_key(settings: Settings, name: str) -> str:
    """A server of one's own needs a key seldom, but the SDK always."""
    if settings.openai_base_url is not None and settings.openai_api_key is None:
        return "none"
    return key("OPENAI_API_KEY", settings.openai_api_key, name)


def anthropic(name: str, settings: Settings, http: AsyncClient) -> Model:
    from anthropic import AsyncAnthropic
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    client = AsyncAnthropic(
        api_key=key("ANTHROPIC_API_KEY", settings.anthropic_api_key, f"anthropic:{name}"),
        base_url=settings.anthropic_base_url,
        http_client=http,
    )
    return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=client), settings=NO_RETRIES)


PROVIDERS: dict[str, Callable[[str, Settings, AsyncClient], Model]] = {
    "google": google,
    "openai": openai,
    "openai-responses": openai_responses,
    "anthropic": anthropic,
}
