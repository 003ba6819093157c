"""How many lines of code a text has: what somebody had to write."""

from __future__ import annotations

import ast
import io
import tokenize

_NOTHING = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
)


def lines_of(source: str) -> int:
    """Return the lines of Python that hold code: no blank ones, comments or docstrings.

    >>> lines_of('"A docstring."\\n\\n# why\\nx = (1,\\n     2)  # end\\n')
    2
    """
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NOTHING:
            code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        if documented and isinstance(first.value.value, str) and first.end_lineno:  # type: ignore[union-attr]
            code -= set(range(first.lineno, first.end_lineno + 1))
    return len(code)


def lines_of_toml(text: str) -> int:
    """Return the lines of TOML that say something: no blank ones and no comments."""
    stripped = (line.strip() for line in text.splitlines())
    return sum(bool(line) and not line.startswith("#") for line in stripped)
