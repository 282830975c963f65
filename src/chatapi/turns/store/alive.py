"""Conditions on turns: whether the process that runs one lives, and whether another may run it."""

from sqlalchemy import and_, exists, or_

from chatapi.db.clock import utc_now
from chatapi.db.models import RUNNING, Turn, Worker

turn_is_alive = exists().where(Worker.id == Turn.worker_id, Worker.lease_until > utc_now())
is_abandoned = and_(Turn.status == RUNNING, ~turn_is_alive)
# An abandoned turn that was asked to end is ended as cancelled, and not run again.
may_run_again = or_(Turn.status == "failed", and_(is_abandoned, Turn.cancel_requested.is_(False)))
