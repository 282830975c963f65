"""All tables. Every one carries `user_id` and is indexed for how it is read, owner first.

Ids are identities and never reused; rows of `messages` and `tool_calls` are never rewritten. When a failed turn is
run again, what its earlier run had said is deleted.
"""

from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, TypeVar

from advanced_alchemy.base import DefaultBase, IdentityAuditBase, IdentityBase
from advanced_alchemy.types import DateTimeUTC
from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Date,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    SmallInteger,
    Text,
    UniqueConstraint,
    and_,
    case,
    false,
    literal_column,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, query_expression

TurnStatus = Literal["queued", "running", "waiting", "completed", "failed", "cancelled"]

ItemT = TypeVar("ItemT", Index, ForeignKeyConstraint)

OwnerId = Annotated[str, mapped_column(Text, ForeignKey("users.id", ondelete="CASCADE"))]
TurnId = Annotated[int, mapped_column(BigInteger().with_variant(Integer(), "sqlite"))]


# Part of the statement's text, not a parameter: so a plan made once for all values can use the index of running turns.
RUNNING: ColumnElement[str] = literal_column("'running'", Text())


# The `worker_id` of a turn that waits for answers. Its row in `workers` has a lease without an end, so a replica of a
# version that knows no waiting takes the turn for one that runs, and leaves it alone.
WAITING = "waiting"

# The `worker_id` of a turn that nobody ran: its messages were added to the conversation (`turns.store.added`).
ADDED = "added"


def now() -> datetime:
    return datetime.now(UTC)


# By what SQLAlchemy finds the row of an object: the owner is in every statement, those that it makes itself too.
OWNED: dict[str, Any] = {"primary_key": ["user_id", "id"]}
OWNED_NUMBER: dict[str, Any] = {"primary_key": ["user_id", "turn_id", "number"]}


def only_on(dialect: str, item: ItemT) -> ItemT:
    """An index or a key that the other database has not; `migrations/env.py` compares the models by it."""
    item.info["dialect"] = dialect
    return item.ddl_if(dialect=dialect)


def belongs_to_turn(on_delete: str = "CASCADE") -> tuple[ForeignKeyConstraint, ForeignKeyConstraint]:
    """The foreign key of a `turn_id`. SQLite's is without the owner: its keys cannot be changed (docs/adr/0030)."""
    with_owner = ForeignKeyConstraint(
        ["user_id", "turn_id"], ["turns.user_id", "turns.id"], ondelete=on_delete
    )
    by_id = ForeignKeyConstraint(["turn_id"], ["turns.id"], ondelete=on_delete.partition(" (")[0])
    return only_on("postgresql", with_owner), only_on("sqlite", by_id)


class User(DefaultBase):
    """A user of the service; `id` is the token's subject, opaque."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(DateTimeUTC(timezone=True), default=now)


class Conversation(IdentityAuditBase):
    """A conversation. `titled_at`: when its title was set or taken away; by whom does not matter.

    `title_due`: from when on a process may ask a model for a title in place of the first words; see `turns.titles`.
    `source`: how it was made, if not by our own routes (`conversations.schemas.Source`).
    `window_after`: the last turn that models are not shown any more (`turns.store.window`).
    """

    __tablename__ = "conversations"

    user_id: Mapped[OwnerId]
    title: Mapped[str | None] = mapped_column(Text)
    archived: Mapped[bool] = mapped_column(server_default=false())
    pinned: Mapped[bool] = mapped_column(server_default=false())
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSON, server_default="{}")
    titled_at: Mapped[datetime | None] = mapped_column(DateTimeUTC(timezone=True))
    title_due: Mapped[datetime | None] = mapped_column(DateTimeUTC(timezone=True))
    source: Mapped[str | None] = mapped_column(Text)
    window_after: Mapped[int | None] = mapped_column(BigInteger)
    summarized_until: Mapped[int | None] = query_expression()  # by `conversations.summaries`

    __table_args__ = (
        Index(
            "ix_conversations_title_due",
            "title_due",
            postgresql_where=text("title_due IS NOT NULL"),
            sqlite_where=text("title_due IS NOT NULL"),
        ),
        Index("ix_conversations_list", "user_id", "archived", "pinned", "updated_at", "id"),
        # Only the version before reads it. Drop it concurrently in the version after this one.
        Index("ix_conversations_activity", "user_id", "updated_at", "id"),
        UniqueConstraint("user_id", "id", name="uq_conversations_owner"),  # for the turns' foreign key
        {"sqlite_autoincrement": True},
    )


class Turn(IdentityBase):
    """One exchange: a user's message and what became of it.

    `worker_id` names the process that runs it (see `Worker`). `run_id` is new for each run: every
    write to a running turn names its run, so that a process taken for dead cannot write over its successor.
    If the turn answers earlier ones anew, `alternative_of` is the first of these.
    `finish_reason` says why a completed turn's answer ended, if not by itself (`agent.ports.FinishReason`).
    `asked` is there if the turn began through OpenAI's API: a `turns.schemas.Asked` for each request that it has answered,
    by the number of the wait from which it then went on, 0 for its beginning.
    """

    __tablename__ = "turns"

    user_id: Mapped[str] = mapped_column(Text)
    conversation_id: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(Text)
    worker_id: Mapped[str] = mapped_column(Text)
    run_id: Mapped[str] = mapped_column(Text, unique=True)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    idempotency_key: Mapped[str | None] = mapped_column(Text)
    request_hash: Mapped[str | None] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    usage: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    finish_reason: Mapped[str | None] = mapped_column(Text)
    alternative_of: Mapped[int | None] = mapped_column(BigInteger)
    asked: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(DateTimeUTC(timezone=True), default=now)
    finished_at: Mapped[datetime | None] = mapped_column(DateTimeUTC(timezone=True))

    __mapper_args__ = OWNED

    @property
    def waits(self) -> bool:
        return self.status == "running" and self.worker_id == WAITING

    @property
    def was_added(self) -> bool:
        return self.worker_id == ADDED

    __table_args__ = (
        ForeignKeyConstraint(
            ["user_id", "conversation_id"], ["conversations.user_id", "conversations.id"], ondelete="CASCADE"
        ),
        UniqueConstraint("user_id", "idempotency_key", name="uq_turns_idempotency_key"),
        Index(
            "uq_turns_running",
            "user_id",
            "conversation_id",
            unique=True,
            postgresql_where=text("status = 'running'"),
            sqlite_where=text("status = 'running'"),
        ),
        Index("ix_turns_conversation", "user_id", "conversation_id", "id"),
        Index(
            "ix_turns_alternatives",
            "user_id",
            "alternative_of",
            postgresql_where=text("alternative_of IS NOT NULL"),
            sqlite_where=text("alternative_of IS NOT NULL"),
        ),
        # For the foreign keys to turns. By id first: all new rows are at its end.
        only_on("postgresql", Index("uq_turns_owner", "id", "user_id", unique=True)),
        {"sqlite_autoincrement": True},
    )


# The status that callers see.
SHOWN_STATUS = case(
    (and_(Turn.status == RUNNING, Turn.worker_id == WAITING), "waiting"), else_=Turn.status
).label("status")


class Message(IdentityBase):
    """`files` says what a user's message was sent with (`files.schemas.FileRef`), also after these files' deletion.

    `provider_state` of a user's message is what its caller sent before it, if anything (`turns.store.history.Before`).
    """

    __tablename__ = "messages"

    user_id: Mapped[str] = mapped_column(Text)
    conversation_id: Mapped[int] = mapped_column(BigInteger)
    turn_id: Mapped[TurnId]
    role: Mapped[str] = mapped_column(Text)
    content: Mapped[str] = mapped_column(Text)
    tool_calls: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    parts: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON(none_as_null=True))  # see `chatapi.parts`
    provider_state: Mapped[Any | None] = mapped_column(
        JSON(none_as_null=True),
        deferred=True,
        deferred_raiseload=True,  # large, and for the model alone
    )
    files: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(DateTimeUTC(timezone=True), default=now)

    __table_args__ = (
        Index("ix_messages_conversation", "user_id", "conversation_id", "id"),
        # Not owner first, because the deletion of a turn uses this index, too.
        Index("ix_messages_turn", "turn_id", "user_id"),
        *belongs_to_turn(),
        {"sqlite_autoincrement": True},
    )


class Feedback(DefaultBase):
    """A user's rating of an answer. It goes with the conversation, and with an answer that a retry takes the place of."""

    __tablename__ = "feedback"

    user_id: Mapped[str] = mapped_column(Text, primary_key=True)
    conversation_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    message_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    rating: Mapped[str] = mapped_column(Text)
    comment: Mapped[str | None] = mapped_column(Text)
    updated_at: Mapped[datetime] = mapped_column(DateTimeUTC(timezone=True), default=now)

    __table_args__ = (
        ForeignKeyConstraint(
            ["user_id", "conversation_id"], ["conversations.user_id", "conversations.id"], ondelete="CASCADE"
        ),
    )


class SearchText(DefaultBase):
    """What is searched of a message: its text, folded (`conversations.search.folding`), in one row or several.

    It is written with the message and goes with the conversation. A title's row hangs on the conversation's first message; if
    there is none yet, its `message_id` is 0. On PostgreSQL the key's index holds `words`, too, so that
    a search reads nothing else; on SQLite the table is that index.
    """

    __tablename__ = "search_text"

    user_id: Mapped[str] = mapped_column(Text, primary_key=True)
    conversation_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    message_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    part: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    words: Mapped[str] = mapped_column(Text)

    __table_args__ = (
        ForeignKeyConstraint(
            ["user_id", "conversation_id"], ["conversations.user_id", "conversations.id"], ondelete="CASCADE"
        ),
        {"sqlite_with_rowid": False},
    )


class SearchBackfill(DefaultBase):
    """How far the messages from before `SearchText` have been made searchable: one row, with `id` 1.

    `place` is the last message looked at in this pass over all of them. The next batch is due at `due_at`.
    """

    __tablename__ = "search_backfill"

    id: Mapped[int] = mapped_column(primary_key=True)
    passes_left: Mapped[int] = mapped_column(SmallInteger)
    place: Mapped[int] = mapped_column(BigInteger)
    due_at: Mapped[datetime] = mapped_column(DateTimeUTC(timezone=True))


class Summary(DefaultBase):
    """What a conversation's turns up to `turn_id` are summed up to, for its model alone; see `turns.summaries`.

    Each extends the one before it. A row without `content` is one that is to be written: at `due_at` any process may ask a
    model for it, and moves that moment first. `turn_id` is then the turn up to which it is wanted.
    """

    __tablename__ = "summaries"

    user_id: Mapped[str] = mapped_column(Text, primary_key=True)
    conversation_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    turn_id: Mapped[int] = mapped_column(BigInteger)
    content: Mapped[str | None] = mapped_column(Text)
    model: Mapped[str | None] = mapped_column(Text)
    failures: Mapped[int] = mapped_column(SmallInteger, default=0)
    due_at: Mapped[datetime | None] = mapped_column(DateTimeUTC(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTimeUTC(timezone=True), default=now)

    __table_args__ = (
        ForeignKeyConstraint(
            ["user_id", "conversation_id"], ["conversations.user_id", "conversations.id"], ondelete="CASCADE"
        ),
        Index(
            "ix_summaries_due",
            "due_at",
            postgresql_where=text("due_at IS NOT NULL"),
            sqlite_where=text("due_at IS NOT NULL"),
        ),
    )


class TurnChunk(DefaultBase):
    """Events of a running turn (`turns.log`), for readers elsewhere; deleted when the turn ends."""

    __tablename__ = "turn_chunks"

    turn_id: Mapped[TurnId] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(Text, primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(Text)
    events: Mapped[list[dict[str, Any]]] = mapped_column(JSON)

    __table_args__ = belongs_to_turn()


class ToolCallEntry(DefaultBase):
    """The journal: a tool's effect and its entry here are written in one transaction."""

    __tablename__ = "tool_calls"

    turn_id: Mapped[TurnId] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(Text)
    call_id: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    arguments: Mapped[dict[str, Any]] = mapped_column(JSON)
    result: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTimeUTC(timezone=True), default=now)

    __table_args__ = (Index("ix_tool_calls_owner", "user_id", "turn_id"), *belongs_to_turn())


class Wait(DefaultBase):
    """A turn's wait for answers. It is open until `ended_at`; the row stays, for a run that goes on from it again.

    `calls` are what is asked (`turns.schemas.Pending`), `answers` what has been answered, by the ids of these. `events` is
    all that the turn had said and done before, and `usage` what it had used; `state` is the agent's. `run_id` is the run
    that began it.
    """

    __tablename__ = "waits"

    turn_id: Mapped[TurnId] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(Text)
    conversation_id: Mapped[int] = mapped_column(BigInteger)
    run_id: Mapped[str] = mapped_column(Text)
    calls: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    answers: Mapped[dict[str, Any]] = mapped_column(JSON)
    keys: Mapped[dict[str, str]] = mapped_column(JSON)  # the fingerprints of answers, by idempotency key
    events: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    state: Mapped[Any | None] = mapped_column(JSON(none_as_null=True))
    client_tools: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    usage: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    began_at: Mapped[datetime] = mapped_column(DateTimeUTC(timezone=True))
    expires_at: Mapped[datetime] = mapped_column(DateTimeUTC(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTimeUTC(timezone=True))
    ended_by: Mapped[str | None] = mapped_column(Text)  # `turns.store.waits.WaitEnd`

    __mapper_args__ = OWNED_NUMBER

    __table_args__ = (
        Index("ix_waits_owner", "user_id", "turn_id"),
        *belongs_to_turn(),
        Index(
            "ix_waits_open",
            "expires_at",
            postgresql_where=text("ended_at IS NULL"),
            sqlite_where=text("ended_at IS NULL"),
        ),
    )


class File(IdentityBase):
    """An uploaded file, whose bytes are the object `key` of the storage (`files.service`).

    Without foreign key to the user: the row outlives the user's until its object is deleted.
    """

    __tablename__ = "files"

    user_id: Mapped[str] = mapped_column(Text)
    # The turn that it was sent with, the last one if there were several.
    turn_id: Mapped[TurnId | None]
    key: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    media_type: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTimeUTC(timezone=True), default=now)
    stored_at: Mapped[datetime | None] = mapped_column(DateTimeUTC(timezone=True))
    sent_at: Mapped[datetime | None] = mapped_column(DateTimeUTC(timezone=True))

    __table_args__ = (
        Index("ix_files_owner", "user_id", "id"),
        Index("ix_files_turn", "turn_id"),  # for the deletion of a turn
        *belongs_to_turn("SET NULL (turn_id)"),
        Index(
            "ix_files_without_turn",
            "created_at",
            postgresql_where=text("turn_id IS NULL"),
            sqlite_where=text("turn_id IS NULL"),
        ),
        {"sqlite_autoincrement": True},
    )


class APIKey(IdentityBase):
    """A key that acts for its user (`auth.api_keys`). Of the key itself there is its SHA-256 alone, and its first letters."""

    __tablename__ = "api_keys"

    user_id: Mapped[OwnerId]
    name: Mapped[str] = mapped_column(Text)
    prefix: Mapped[str] = mapped_column(Text)
    hash: Mapped[str] = mapped_column(Text, unique=True)
    created_at: Mapped[datetime] = mapped_column(DateTimeUTC(timezone=True), default=now)
    expires_at: Mapped[datetime | None] = mapped_column(DateTimeUTC(timezone=True))
    last_used_at: Mapped[datetime | None] = mapped_column(DateTimeUTC(timezone=True))  # to the hour

    __table_args__ = (Index("ix_api_keys_owner", "user_id", "id"), {"sqlite_autoincrement": True})


class QueuedTurn(DefaultBase):
    """A turn that has not begun: one before it is under way. It then becomes a row of `turns`, with the same id.

    `request` is the message (`turns.schemas.ChatRequest`), and `run_id` names the try to store it. A turn that was taken
    out leaves its row behind if it had a key, so that the same request sent again does not bring it back.
    """

    __tablename__ = "queued_turns"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    user_id: Mapped[str] = mapped_column(Text)
    conversation_id: Mapped[int] = mapped_column(BigInteger)
    run_id: Mapped[str] = mapped_column(Text)
    idempotency_key: Mapped[str | None] = mapped_column(Text)
    request_hash: Mapped[str | None] = mapped_column(Text)
    request: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(DateTimeUTC(timezone=True), default=now)
    taken_out_at: Mapped[datetime | None] = mapped_column(DateTimeUTC(timezone=True))

    __mapper_args__ = OWNED

    __table_args__ = (
        ForeignKeyConstraint(
            ["user_id", "conversation_id"], ["conversations.user_id", "conversations.id"], ondelete="CASCADE"
        ),
        UniqueConstraint("user_id", "idempotency_key", name="uq_queued_turns_idempotency_key"),
        Index("ix_queued_turns_conversation", "user_id", "conversation_id", "id"),
    )


class Task(IdentityAuditBase):
    __tablename__ = "tasks"

    user_id: Mapped[OwnerId]
    title: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    completed: Mapped[bool] = mapped_column(default=False)

    __table_args__ = (Index("ix_tasks_owner", "user_id", "id"), {"sqlite_autoincrement": True})


class Used:
    """Columns of what answers of models used. `turns` that began before are not counted again.

    `cost_picodollars` adds the answers that have a price (`chatapi.budgets`), and `unpriced` counts the others.
    """

    turns: Mapped[int] = mapped_column(BigInteger)
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_input_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    cost_picodollars: Mapped[int] = mapped_column(BigInteger)
    unpriced: Mapped[int] = mapped_column(BigInteger)


class UsageDay(Used, DefaultBase):
    """What a user used of a model on a day, by UTC. Budgets add these rows: there are few, however many turns there are."""

    __tablename__ = "usage_days"

    user_id: Mapped[str] = mapped_column(
        Text, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, sort_order=-3
    )
    day: Mapped[date] = mapped_column(Date, primary_key=True, sort_order=-2)
    model: Mapped[str] = mapped_column(Text, primary_key=True, sort_order=-1)


class UsageConversation(Used, DefaultBase):
    """What a conversation used on a day. It stays when the conversation is deleted."""

    __tablename__ = "usage_conversations"

    user_id: Mapped[str] = mapped_column(
        Text, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, sort_order=-3
    )
    day: Mapped[date] = mapped_column(Date, primary_key=True, sort_order=-2)
    conversation_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, sort_order=-1)


class Worker(DefaultBase):
    """A process that runs turns. Its turns are abandoned once `lease_until` has passed by the database's clock."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    lease_until: Mapped[datetime] = mapped_column(DateTimeUTC(timezone=True))
