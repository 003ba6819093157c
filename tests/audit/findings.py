"""What the tests of the audit share."""

from __future__ import annotations

import json
from pathlib import Path

from fedlite.audit import audit, rules as audit_rules

NEXT_RUN = "00000000000000bb"


def found(*paths: Path) -> set[str]:
    """Return the rules of what makes an audit fail, after checks that hold for every audit."""
    result = audit(list(paths))
    assert result.clean == (not result.findings and not result.unchecked)
    assert ("NOT clean" in result.verdict) == bool(result.findings)
    assert ("NOT closed" in result.verdict) == (not result.findings and bool(result.unchecked))
    json.dumps(result.as_dict(), allow_nan=False)
    for issue in (*result.findings, *result.unchecked, *result.notes):
        assert audit_rules.means(issue.rule) and audit_rules.mend(issue.rule)
    for statement in result.statements:
        assert (": clean." in statement.sentence) == (statement.verdict == "clean")
    return {issue.rule for issue in (*result.findings, *result.unchecked)}


def noted(*paths: Path) -> set[str]:
    return {issue.rule for issue in audit(list(paths)).notes}
