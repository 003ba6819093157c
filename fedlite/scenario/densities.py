"""The text of `uplink.densities`: which tensors are sampled how densely."""

from __future__ import annotations

from collections.abc import Sequence


def densities_of(text: str) -> tuple[tuple[str, float], ...]:
    """Return pairs of how a tensor's name begins and its density, in their order.

    Raises ValueError where the text is not of that form.

    >>> densities_of("exit 0.3, tail 0.02")
    (('exit', 0.3), ('tail', 0.02))
    """
    found = []
    for part in text.split(",") if text.strip() else ():
        name, space, number = part.strip().rpartition(" ")
        if not space or not 0.0 < float(number) <= 1.0:
            raise ValueError(f"must be a name and a density in (0, 1], got {part.strip()!r}")
        found.append((name.strip(), float(number)))
    if len({name for name, _ in found}) != len(found):
        raise ValueError(f"must name each tensor once, got {text!r}")
    return tuple(found)


def of_tensors(names: Sequence[str], text: str, other: float) -> tuple[float, ...]:
    """Return the density of each tensor: of the longest entry that its name begins with.

    other: the density of tensors that no entry fits. Raises ValueError for an entry without tensor.

    >>> of_tensors(["exit.weight", "tail.1.weight"], "exit 0.3", 0.05)
    (0.3, 0.05)
    """
    pairs = densities_of(text)
    for start, _ in pairs:
        if not any(name.startswith(start) for name in names):
            raise ValueError(
                f"densities: every entry must be how a tensor's name begins, got {start!r}; the "
                f"tensors are {', '.join(names)}"
            )
    found = []
    for name in names:
        fitting = [pair for pair in pairs if name.startswith(pair[0])]
        found.append(max(fitting, key=lambda pair: len(pair[0]))[1] if fitting else other)
    return tuple(found)
