"""The database is away, or does not do what is asked of it."""

from chatapi.errors.base import AppError


class DatabaseUnavailable(AppError):
    status = 503
    type = "database-unavailable"
    title = "The database is away"
    when = "The database is away, restarting or overloaded"
    remedy = (
        "Wait for `Retry-After` and send again. A turn may have begun: look at the conversation "
        "before you send a message again"
    )

    def __init__(
        self,
        detail: str = "The database does not answer; try again shortly.",
        *,
        retry_after: int | None = 1,
    ) -> None:
        super().__init__(detail, retry_after=retry_after)


class DatabaseReadOnly(DatabaseUnavailable):
    type = "database-read-only"
    title = "The database takes no writes"
    when = (
        "The database takes no writes: a standby, a switch-over, an operator's order, "
        "a file that may not be written"
    )
    remedy = "Wait for `Retry-After` and send again. Reading may work"

    def __init__(self) -> None:
        super().__init__("The database takes no writes at the moment; reading may work.", retry_after=5)


class DatabaseFull(DatabaseUnavailable):
    type = "database-full"
    title = "The database has no room left"
    when = "The database has no room left"
    remedy = "Operator: make room; the service goes on by itself. Nothing that was answered is lost"

    def __init__(self) -> None:
        super().__init__(
            "The database's disk is full, so nothing can be stored; reading works.", retry_after=30
        )


class DatabaseUntrusted(DatabaseUnavailable):
    type = "database-untrusted"
    title = "The database's certificate does not hold"
    when = "The database's certificate is not what `sslmode` asks for; nothing was sent to it"
    remedy = "Operator: the log has the reason; see [Neon](neon.md#encryption)"

    def __init__(self) -> None:
        super().__init__(
            "The database's certificate does not hold; the service's log says why.", retry_after=30
        )


class SchemaOutdated(AppError):
    status = 503
    type = "schema-outdated"
    title = "The database schema is not the one this version needs"
    when = "The database's tables are not those that this version needs"
    remedy = "Operator: run `chatapi database upgrade --no-prompt`; the service notices by itself"
