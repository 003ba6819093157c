"""What a check found: its verdict, its bound, and what it takes for granted and cannot see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Outcome = Literal["pass", "fail", "not checked"]
Kind = Literal["bound", "estimate", "test"]


@dataclass(frozen=True)
class Finding:
    """One check of an audit.

    check: its name. outcome: "fail" where it contradicts the claim. found: what was measured, in
    words. kind: a lower "bound" on epsilon that holds with `confidence`, an "estimate" that nothing
    proves, or a "test" of a promise without an epsilon. epsilon: None for a test. assumes, blind:
    what it takes for granted, and what it cannot see. figures: numbers for the JSON object.
    """

    check: str
    outcome: Outcome
    found: str
    kind: Kind = "test"
    epsilon: float | None = None
    confidence: float | None = None
    assumes: str = ""
    blind: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """A whole audit of one scenario's mechanism.

    unit: what is protected; proven: the epsilon that the plan claims at `delta`. roc: (false
    positive rate, true positive rate) of the step's canaries, mu: 1 / sigma of a step as claimed.
    """

    scenario: str
    unit: str
    proven: float
    delta: float
    confidence: float
    findings: tuple[Finding, ...]
    roc: Sequence[tuple[float, float]] = ()
    mu: float = 0.0
    seconds: float = 0.0

    @property
    def measured(self) -> float:
        """The step audit's lower bound; the others stand beside it.

        Not the largest of all: that would hold with less confidence than each of them.
        """
        steps = [f for f in self.findings if f.check == STEP and f.epsilon is not None]
        return steps[0].epsilon or 0.0 if steps else 0.0

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that contradict the claim."""
        return tuple(f.check for f in self.findings if f.outcome == "fail")

    @property
    def sentence(self) -> str:
        """The result in one line; the measured end is rounded down, the proven one up."""
        low, high = math.floor(self.measured * 100) / 100, math.ceil(self.proven * 100 - 1e-9) / 100
        if self.failed:
            return f"The claim of epsilon {high:.2f} does NOT hold: {', '.join(self.failed)}."
        return (
            f"epsilon in [{low:.2f} measured, {high:.2f} proven] at delta {self.delta:g}, "
            f"for one {self.unit}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of the command."""
        return {
            "format": 1,
            "scenario": self.scenario,
            "unit": self.unit,
            "delta": self.delta,
            "confidence": self.confidence,
            "epsilon": {"measured": self.measured, "proven": self.proven},
            "holds": not self.failed,
            "failed": list(self.failed),
            "verdict": self.sentence,
            "checks": [asdict(finding) for finding in self.findings],
            "seconds": self.seconds,
        }


STEP = "step"


def judge(epsilon: float, claimed: float) -> Outcome:
    """Return "fail" where a lower bound is above the claim, rounding aside."""
    return "fail" if epsilon > claimed * (1 + 1e-6) else "pass"
