"""A `Database` like the service's, for a test that looks into the database directly."""

from chatapi.db.database import Database
from chatapi.metrics import Metrics
from chatapi.patience import Patience
from chatapi.settings import Settings
from chatapi.tracing import Tracing


def open_database(settings: Settings, patience: Patience | None = None) -> Database:
    return Database(settings, patience or Patience(), unread_metrics(), Tracing())


def unread_metrics() -> Metrics:
    return Metrics("1.0", None)
