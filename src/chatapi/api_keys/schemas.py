"""API keys as their owners see them."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from chatapi.text import NOT_BLANK

KeyName = Annotated[str, Meta(min_length=1, max_length=100, pattern=NOT_BLANK, examples=["Open WebUI"])]
Expiry = Annotated[datetime, Meta(tz=True, examples=["2027-11-29T00:00:00Z"])]


class NewAPIKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to make; without `expires_at` it holds until it is revoked."""

    name: KeyName
    expires_at: Expiry | None = None


class APIKey(Struct, frozen=True, kw_only=True):
    """`prefix` is how the key begins. `last_used_at` is the hour of its last use, in UTC."""

    id: int
    name: str
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None

    @property
    def subject(self) -> dict[str, int]:
        return {"key_id": self.id}


class MadeAPIKey(APIKey, frozen=True, kw_only=True):
    """`key` is shown this once: only its hash is stored."""

    key: str
