"""Things by name: in the house, from an installed package, or of one's own."""

from fedlite.registry.closure import RESERVED, closure, digest_of, stamps
from fedlite.registry.kinds import Registry
from fedlite.registry.names import (
    begin_at,
    file_of,
    is_file,
    is_held,
    is_module,
    is_own,
    label,
    name_of,
    resolve,
    split,
)
from fedlite.registry.own import explain, line_of, place_of

__all__ = [
    "RESERVED",
    "Registry",
    "begin_at",
    "closure",
    "digest_of",
    "explain",
    "file_of",
    "is_file",
    "is_held",
    "is_module",
    "is_own",
    "label",
    "line_of",
    "name_of",
    "place_of",
    "resolve",
    "split",
    "stamps",
]
