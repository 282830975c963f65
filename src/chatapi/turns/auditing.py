"""The audit trail of a turn: that it begins, and how it ends."""

from typing import Literal

from chatapi.audit import audit
from chatapi.turns.store import Run


class Audited:
    """A block that is a turn, or a completion that is no turn: audits its beginning and its end, by ids alone."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def __enter__(self) -> None:
        self._audit("begun", "success")

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            self._audit("ended", "success")
        else:
            self._audit("ended", "failure", reason=getattr(error, "type", type(error).__name__))

    def _audit(self, what: str, outcome: Literal["success", "failure"], **details: str) -> None:
        run = self._run
        kind = "turn" if run.turn_id else "completion"
        ids = {"turn_id": run.turn_id, "conversation_id": run.conversation_id} if run.turn_id else {}
        audit(f"{kind}.{what}", outcome, **details, user_id=run.user_id, **ids)
