"""Which calls of tools need their user's approval (`TOOL_APPROVAL`)."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from msgspec import Struct


class ApprovalPolicy(Struct, frozen=True):
    """`mode` says which calls need approval; with `named`, those of tools whose names match one of the patterns."""

    mode: Literal["off", "destructive", "all", "named"]
    patterns: Sequence[str] = ()

    @classmethod
    def of(cls, setting: str) -> "ApprovalPolicy":
        match setting:
            case "off" | "destructive" | "all":
                return cls(setting)
        return cls("named", [part.strip() for part in setting.split(",")])

    def needed(self, name: str, *, destructive: bool) -> bool:
        match self.mode:
            case "off":
                return False
            case "all":
                return True
            case "destructive":
                return destructive
            case "named":
                return any(fnmatchcase(name, pattern) for pattern in self.patterns)


NO_APPROVAL = ApprovalPolicy("off")
