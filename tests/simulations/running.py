"""What the tests of runs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedlite.scenario import Scenario

Plan = Callable[..., Scenario]
Outcome = Callable[[Path], tuple[bytes, list[dict[str, Any]]]]
Arm = Callable[[pytest.MonkeyPatch], None]
Killed = Callable[[Callable[[], None], Arm], bool]
Trap = Callable[[Any, str, int, str], Arm]
CSV = "site,a,b,label\n" + "".join(
    f"h{n % 2},{n / 7:.3f},{(n * 37 % 11) / 5},{n // 2 % 2}\n" for n in range(40)
)


def cut(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)
