"""The table of providers; turns a name such as `google:gemini-2.5-flash` into a model that can be asked."""

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from chatapi.agent.context import Context
from chatapi.agent.inputs import READS, of_kinds, taken_by
from chatapi.agent.ports import ModelUsage
from chatapi.agent.wire.anthropic import Messages
from chatapi.agent.wire.chat_completions import ChatCompletions
from chatapi.agent.wire.formats import Format
from chatapi.agent.wire.gemini import GenerateContent
from chatapi.agent.wire.responses import Responses
from chatapi.settings import Settings, SettingsError


class Provider(Struct, frozen=True, kw_only=True):
    """`prefix` stands before the colon in `CHAT_MODEL`; `telemetry` is its name in OpenTelemetry's conventions.

    `maker` is whose models there are at its own address (`agent.inputs`), and `takes` are the media types that its format
    can carry. `key` and `base_url` are names of settings; an address of the operator's own needs no key. `models` is the path that
    lists a server's models. `format` makes the wire format from a model, a key, and whether the address is the
    provider's own.
    """

    prefix: str
    telemetry: str
    maker: str
    takes: frozenset[str]
    key: str
    base_url: str
    address: str
    models: str
    format: Callable[[str, str | None, bool], Format]


OPENAI = "https://api.openai.com/v1"
PROVIDERS = {
    provider.prefix: provider
    for provider in (
        Provider(
            prefix="google",
            telemetry="gcp.gemini",
            maker="google",
            takes=READS - {"image/gif"},
            key="gemini_api_key",
            base_url="gemini_base_url",
            address="https://generativelanguage.googleapis.com",
            models="/v1beta/models",
            format=lambda _, key, __: GenerateContent(key),
        ),
        Provider(
            prefix="openai",
            telemetry="openai",
            maker="openai",
            takes=READS,
            key="openai_api_key",
            base_url="openai_base_url",
            address=OPENAI,
            models="/models",
            format=lambda _, key, is_own: ChatCompletions(key, is_openai=is_own),
        ),
        Provider(
            prefix="openai-responses",
            telemetry="openai",
            maker="openai",
            takes=READS,
            key="openai_api_key",
            base_url="openai_base_url",
            address=OPENAI,
            models="/models",
            format=lambda model, key, is_own: Responses(model, key, is_openai=is_own),
        ),
        Provider(
            prefix="anthropic",
            telemetry="anthropic",
            maker="anthropic",
            takes=READS,
            key="anthropic_api_key",
            base_url="anthropic_base_url",
            address="https://api.anthropic.com",
            models="/v1/models",
            format=lambda _, key, __: Messages(key),
        ),
    )
}


class Candidate:
    """A model that may be asked. `origin` is the API and the address that write its messages.

    `takes` are the media types that it is shown as they are. `context` is how much it takes, as far as this process knows. `thinks_first`: this process has learned that its answers begin with reasoning that no tag opens.
    """

    def __init__(self, name: str, provider: Provider, settings: Settings) -> None:
        address: str | None = getattr(settings, provider.base_url)
        key: str | None = getattr(settings, provider.key)
        if key is None and address is None:
            raise SettingsError(f"{provider.key.upper()}: is needed for CHAT_MODEL={name}")
        self.name = name
        self.provider = provider
        self.model = name.partition(":")[2]
        self.base_url = (address or provider.address).rstrip("/")
        self.format = provider.format(self.model, key, address is None)
        self.origin = f"wire {provider.prefix} {self.base_url}"
        self.secrets = [key] if key else []
        kinds = settings.input_kinds
        # Other servers that speak OpenAI's API have models of all makers.
        is_elsewhere = address is not None and provider.maker == "openai"
        known = taken_by("" if is_elsewhere else provider.maker, self.model)
        self.takes = provider.takes & (known if kinds is None else of_kinds(kinds))
        self.thinks_first = False
        self.context = Context(name, configured=settings.chat_context_tokens, is_own=address is None)

    def used(self, usage: ModelUsage | None) -> ModelUsage:
        """The tokens of one of its answers; None is a server that did not tell them."""
        usage = usage or ModelUsage(input_tokens=0, output_tokens=0)
        return replace(usage, model=self.name, base_url=self.base_url)


def candidates(names: str, settings: Settings) -> list[Candidate]:
    """The models of a comma-separated list, the first choice first; raises `SettingsError`."""
    return [candidate(name, settings) for each in names.split(",") if (name := each.strip())]


def candidate(name: str, settings: Settings) -> Candidate:
    prefix, _, model = name.partition(":")
    if prefix not in PROVIDERS or not model:
        raise SettingsError(
            f"CHAT_MODEL: {name} is not a provider ({', '.join(PROVIDERS)}) and a model's name"
        )
    return Candidate(name, PROVIDERS[prefix], settings)
