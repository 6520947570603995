"""What a session of measuring came to, and how it speaks meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Report = Callable[[str, bool], None]
"""(text, passing): a line for the user; a passing one is replaced by the next."""


@dataclass
class Summary:
    """What a session did.

    Attributes
    ----------
    measured, failed : tasks of this session, by file. before : tasks that the folder held already. left : tasks of the
        plan that are still not measured, failures aside. passed_over : failed in an earlier session and not tried.
    seconds : of wall clock. ended : `finished`, `limit`, `interrupted` or `crashes`. message : what there is to say.
    """

    measured: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    before: int = 0
    passed_over: int = 0
    left: int = 0
    seconds: float = 0.0
    ended: str = "finished"
    message: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
