"""What somebody probably meant: names near a wrong one, and files of another kind."""

from __future__ import annotations

import re
import unicodedata

_UNPACK = "unpack it"
# The first bytes of what people have in place of a text, what it is, and the mend.
_FORMATS = (
    (b"PAR1", "a Parquet file", 'set name = "parquet"'),
    (b"ARROW1", "an Arrow file", "save it as Parquet, by pandas.read_feather(...).to_parquet(...)"),
    (b"\x1f\x8b", "a gzip file", "unpack it by gzip -d"),
    (b"PK\x03\x04", "a spreadsheet or a zip archive", "save its table as CSV, or unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old spreadsheet", "save its table as CSV"),
    (b"BZh", "a bzip2 file", _UNPACK),
    (b"\xfd7zXZ", "an xz file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", _UNPACK),
    (b"SQLite format 3", "an SQLite database", "export its table as CSV"),
    (b"\x89HDF", "an HDF5 file", "save its table as CSV"),
    (b"\x93NUMPY", "a NumPy array", 'save it by numpy.savez(..., x=..., y=...); name = "npz"'),
    (b"\x89PNG", "a picture", 'name the folder of its class folders, and set name = "images"'),
    (b"\xff\xd8\xff", "a picture", 'name the folder of its class folders; name = "images"'),
    (b"\xff\xfe", "text in UTF-16", "save it in UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it in UTF-8"),
)


def foreign(content: bytes, source: str = "csv") -> tuple[str, str] | None:
    """Return what a file is that is known to be no UTF-8 text, and the mend; None otherwise.

    source: the data source that was asked to read it.

    >>> foreign(b"PAR1..."), foreign(b"a,b,label"), foreign(b'{"a": 1}')
    (('a Parquet file', 'set name = "parquet"'), None, ('JSON', 'set name = "jsonl"'))
    """
    for magic, kind, mend in _FORMATS:
        if content.startswith(magic):
            return kind, mend
    if source == "csv" and content.lstrip().startswith(b'{"'):
        return "JSON", 'set name = "jsonl"'
    return None


def near_name(text: str) -> str:
    """Return a site's name like `text`, of ASCII letters, digits and `-` and at most 64 characters.

    >>> near_name("Zürich"), near_name("Haus 1/a"), near_name("Straße"), near_name("東京")
    ('zurich', 'haus-1-a', 'strasse', 'site-01')
    """
    letters = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(c for c in letters if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:64].strip("-") or "site-01"


def differs_in_case(name: str, names: list[str]) -> str:
    """Return the first of `names` that is `name` but for capitals and blanks; "" for none.

    >>> differs_in_case("site", ["Site", "age"]), differs_in_case("site", ["site", "age"])
    ('Site', '')
    """
    found = (one for one in names if one.strip().casefold() == name.strip().casefold())
    return next(found, "") if name not in names else ""
