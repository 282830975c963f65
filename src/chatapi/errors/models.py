"""The model did not give an answer."""

from collections.abc import Sequence

from chatapi.errors.base import AppError


class MessageTooLong(AppError):
    status = 422
    type = "message-too-long"
    title = "The message is too long for the model"
    when = "The message is more than the model takes, even without any of the conversation before it"
    remedy = "Send a shorter one"


class OptionNotSupported(AppError):
    """`option` names it as `agent.ports.Options` does."""

    status = 422
    type = "option-not-supported"
    title = "The model cannot be asked for this"
    when = "The request has an option that the configured model's API does not have; `option` names it"
    remedy = "Send the request without it"

    def __init__(self, option: str, model: str) -> None:
        super().__init__(f"{model} does not take {option.replace('_', ' ')}.", option=option)


class OptionsRefused(AppError):
    """The provider does not say which one in a form that programs understand; `options` are all that were sent."""

    status = 422
    type = "options-refused"
    title = "The model's provider refused the options"
    when = "The provider refused a request that had options, such as a temperature that the model does not take; `options` names them"
    remedy = "Send the request without them, or with other values. Operator: the log has the provider's words"

    def __init__(self, options: Sequence[str]) -> None:
        super().__init__(
            f"The model's provider refused the request; it had these options: {', '.join(options)}.",
            options=list(options),
        )


class ModelFailed(AppError):
    """The model's answer did not come or cannot be used; the user's message is kept."""

    status = 502
    type = "model-failed"
    title = "The model failed"
    when = "The assistant failed, or its provider did"
    remedy = "Send the message again; see below"


class ModelEmpty(ModelFailed):
    """The model was asked again before."""

    type = "model-empty"
    title = "The model gave an empty answer"
    when = "The model ended without a word"
    remedy = "Send the message again, or put it otherwise"


class ModelTruncated(ModelFailed):
    type = "model-truncated"
    title = "The model's answer broke off"
    when = "The answer broke off before its end, or in a call of a tool at the model's limit of length"
    remedy = "Send the message again. Operator: see `CHAT_MAX_TOKENS`"


class ModelFiltered(ModelFailed):
    type = "model-filtered"
    title = "The model's provider refused to answer"
    when = "The provider's content filter, or the model itself, refused"
    remedy = "Put it otherwise; the same message will be refused again"


class ModelLooped(ModelFailed):
    type = "model-looped"
    title = "The model did not come to an answer"
    when = "The model asked for tools again and again and never answered"
    remedy = "Look at the tasks: what the tools did is done"


class ModelMisconfigured(ModelFailed):
    """For the operator to mend, and in the log as an error."""

    type = "model-misconfigured"
    title = "The model is not set up rightly"
    when = "The provider refused the service's key or request"
    remedy = "Operator: the log has the provider's words"


class ModelBusy(AppError):
    """`retry_after` is the provider's own delay where it tells one."""

    status = 503
    type = "model-busy"
    title = "The model is busy"
    when = "The provider is overloaded, or limits the service"
    remedy = "Wait for `Retry-After` and send again"


class ModelTooSlow(AppError):
    status = 504
    type = "model-too-slow"
    title = "The model took too long"
    when = "The answer took longer than `CHAT_TIMEOUT`"
    remedy = "Send the message again, or raise `CHAT_TIMEOUT`; see below"
