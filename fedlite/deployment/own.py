"""The user's own files in a bundle: which may travel, and that a person can read them.

They lie below `own/` as they lie below the scenario's folder, and the settings name them there.
Nothing is imported or run here. What is refused would let one thing be shown and another be run:
a coding other than UTF-8, characters that turn or hide text (Boucher and Anderson 2021, Trojan
Source), names of letters that look like others, names of modules that mean something else.
"""

from __future__ import annotations

import io
import tokenize
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from fedlite.data.bases import BASES, is_name, shelved
from fedlite.registry import RESERVED, closure, file_of, is_file, is_own, split
from fedlite.scenario import CODE, Scenario, own_code
from fedlite.settings import Value, read_options

FOLDER = "own"
MAX_FILES = 50
# A person has to read it.
MAX_FILE = 100_000
# What Unicode lets no screen show though Python calls it printable: selectors of a glyph's variant,
# of which 256 can write any bytes unseen, joiners, and blanks that are letters or symbols.
_UNSEEN = frozenset(
    {*map(chr, range(0xFE00, 0xFE10)), *map(chr, range(0xE0100, 0xE01F0))}
    | set("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
)
# Letters and digits that a screen writes from the right, with all that stands between two of them.
_TURNING = ("R", "AL", "AN")
# What is at a site is named by its operator, never by who sends code.
AT_SITES = ("data.name", "data.partition", "data.redactor")
_TOKENIZER = "data.tokenizer"
_MEND = "offer it by an entry point of a package that coordinator and sites install"


def problem(key: str, name: str) -> str:
    """Return why code of one's own may not travel under this name, with the mend; "" if it may.

    key: the setting, `section.key`. name: what it says, whatever it is.
    """
    if not is_own(name):
        return ""
    if key in AT_SITES:
        return (
            f"{key}: must be a name in a deployment (rule: which records a site has is said by "
            f"its operator, and no code that is sent reads them for him), got {name!r}; name what "
            "the sites have"
        )
    if not is_file(name):
        return (
            f"{key}: must be file.py:function in a deployment, or a name that is installed (rule: "
            f"what a site runs its operator can read before), got {name!r}; put it into a file "
            f"beside the scenario, or {_MEND}"
        )
    return ""


def begins(start: str) -> str:
    """Return why no bundle may name a file of weights to begin with, with the mend; "" for none."""
    if not start:
        return ""
    return (
        "model.start: must be empty in a deployment (rule: what is in no bundle is at no site, a "
        f"bundle holds no weights, and it opens no file of a site's machine), got {start!r}; leave "
        "it out"
    )


_BASES = (_TOKENIZER, "data.base_sha256", "data.perplexity_base", "model.options")


def base_problem(tokenizer: str, pin: str, decoder: str, options: str) -> str:
    """Return why a base may not be named so in a deployment, with the mend; "" if it may.

    All as the settings say: pin is `data.base_sha256`, decoder `data.perplexity_base`, options
    `model.options`, JSON text, whatever it says.
    """
    if tokenizer and tokenizer not in BASES:
        if not is_name(tokenizer):
            return (
                f"{_TOKENIZER}: must be the name of a base model in a deployment (rule: nothing "
                f"that a coordinator sends names a file of a site), got {tokenizer!r}; name one "
                "from `fedlite data list`, or put yours there by `fedlite data add NAME FOLDER`"
            )
        if not pin:
            return (
                f"data.base_sha256: must be set for {tokenizer!r}, which no catalog has (rule: a "
                "site's copy is held against it); submit it with fedlite server submit"
            )
    if decoder and decoder not in (*BASES, tokenizer):
        return (
            "data.perplexity_base: must be data.tokenizer or a base model of the catalog in a "
            "deployment (rule: nothing that a coordinator sends names a file of a site), got "
            f"{decoder!r}; leave it out"
        )
    try:
        base = read_options(options).get("base", tokenizer)
    except (ValueError, TypeError):
        return ""  # what reads the settings says so
    if base == tokenizer or (isinstance(base, str) and base in BASES):
        return ""
    return (
        "model.options.base: must be data.tokenizer or a base model of the catalog in a "
        "deployment (rule: nothing that a coordinator sends names a file of a site), got "
        f"{base!r}; leave it out"
    )


def _pinned(scenario: Scenario) -> Scenario:
    """Return the scenario with the digest of a base that was put into this machine's cache."""
    data = scenario.data
    base = None if data.base_sha256 or data.tokenizer in BASES else shelved(data.tokenizer)
    if base is None:
        return scenario
    return replace(scenario, data=replace(data, base_sha256=base.identity))


def refused(scenario: Scenario) -> list[str]:
    """Return why a scenario may not run at real sites, a line for each setting that names a file.

    Its own files must be named as in a bundle.
    """
    found = [why] if (why := begins(scenario.model.start)) else []
    data = scenario.data
    named = data.tokenizer, data.base_sha256, data.perplexity_base, scenario.model.options
    why = base_problem(*named)
    found += [why] if why else []
    for key, name in own_code(scenario).items():
        if why := problem(key, name):
            found.append(why)
        elif not name.startswith(f"{FOLDER}/"):
            found.append(
                f"{key}: must be a file that the bundle brings below {FOLDER}/ (rule: a site runs "
                f"what its operator approved, and no other file of his machine), got {name!r}; "
                "submit it with fedlite server submit"
            )
    return found


def pack(scenario: Scenario, folder: Path) -> tuple[Scenario, dict[str, bytes]]:
    """Return the scenario with its own files named as in a bundle, and these files by name.

    folder: the scenario's; only what lies in it travels. Raises ValueError, naming the file, for
    one that lies elsewhere or cannot be read by a person, and for a name that cannot travel.
    """
    files: dict[str, bytes] = {}
    scenario = _pinned(scenario)
    for key, name in own_code(scenario).items():
        if why := problem(key, name):
            raise ValueError(why)
        file, (section, _, field) = file_of(name), key.partition(".")
        if file is None or not file.is_file():
            raise ValueError(f"{key}: {file}: no such file; check the name")
        for one in closure(file):
            files[_placed(key, one, folder)] = one.read_bytes()
        placed = f"{_placed(key, file, folder)}:{split(name)[1]}"
        table = replace(getattr(scenario, section), **{field: placed})
        scenario = replace(scenario, **{section: table})
    for name, content in files.items():
        if why := unreadable(name, content):
            raise ValueError(f"{folder / name.removeprefix(f'{FOLDER}/')}: {why}")
    if len(files) > MAX_FILES:
        raise ValueError(f"{folder}: must bring at most {MAX_FILES} files, got {len(files)}")
    return scenario, files


def _placed(key: str, file: Path, folder: Path) -> str:
    """Return the name that a file has in the bundle."""
    top, real = folder.resolve(), file.resolve()
    if not real.is_relative_to(top) or top / file.relative_to(_same(file, folder)) != real:
        raise ValueError(
            f"{key}: {file}: must be a file in the scenario's folder, {folder}, and no link (rule: "
            "a bundle brings what lies beside its scenario, and nothing else of this machine); "
            "move it there"
        )
    return (PurePosixPath(FOLDER) / real.relative_to(top).as_posix()).as_posix()


def _same(file: Path, folder: Path) -> Path:
    """Return the folder as the file's own path writes it, or `/` where it is not in it."""
    here = (parent for parent in file.parents if parent.resolve() == folder.resolve())
    return next(here, Path(file.anchor))


def unreadable(name: str, content: bytes) -> str:
    """Return why a file of the user's may not travel, with the mend; "" where it may.

    name: as in the bundle.
    """
    for part in PurePosixPath(name).parts[1:]:
        if (stem := part.removesuffix(".py")).lower() in RESERVED or not stem.isidentifier():
            return (
                f"must be named by letters, digits and _, and not as a module of Python, fedlite "
                f"or what it is built of, got {part!r}; rename it"
            )
    if not name.endswith(".py"):
        return "must be a .py file; leave it out"
    return otherwise_run(content)


def otherwise_run(content: bytes) -> str:
    """Return why Python may run other text than a person sees, with the mend; "" where not."""
    if len(content) > MAX_FILE:
        return f"must have at most {MAX_FILE:,} bytes, got {len(content):,}; shorten it"
    try:
        coding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        text = content.decode("utf-8")
    except (SyntaxError, UnicodeDecodeError):
        coding = "another"
    if coding != "utf-8":
        return f"must be UTF-8 and say no other coding, got {coding}; save it as UTF-8"
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        for one in line:
            if one != "\t" and _hides(one):
                return (
                    f"line {number}: must hold no character that hides or turns text, got "
                    f"{one.encode('unicode_escape').decode()}; write it as an escape or leave it "
                    "out"
                )
    return _odd_name(content)


def _hides(one: str) -> bool:
    turns = not one.isascii() and unicodedata.bidirectional(one) in _TURNING
    return turns or one in _UNSEEN or not one.isprintable()


def _odd_name(content: bytes) -> str:
    try:
        for token in tokenize.tokenize(io.BytesIO(content).readline):
            where, what = f"line {token.start[0]}", f"{token.string[:80]!a}"
            # A letter that this module does not know to be one is an error to it, not to Python.
            if token.type in (tokenize.NAME, tokenize.ERRORTOKEN) and not token.string.isascii():
                return (
                    f"{where}: must have names of ASCII letters, got {what} (rule: letters that "
                    "look alike are not the same name); rename it"
                )
            if token.type == tokenize.STRING and _may_name(token.string):
                return (
                    f"{where}: must have f-strings of ASCII letters, got {what} (rule: there may "
                    "be names in them); write the others as escapes"
                )
    except (tokenize.TokenError, SyntaxError) as error:
        return f"must be Python ({error}); mend it"
    return ""


def _may_name(string: str) -> bool:
    """Return whether it is an f-string with letters beyond ASCII, which may be in a name.

    Before Python 3.12 an f-string is one token; from then on the names in it are their own.
    """
    prefix = string[: string.find(string[-1])]
    return "f" in prefix.lower() and any(
        not one.isascii() and f"_{one}".isidentifier() for one in string
    )


def check(entries: Mapping[str, bytes], settings: Mapping[str, Value]) -> dict[str, str]:
    """Return what is wrong with the user's files in a bundle, by name: a rule and the mend.

    entries: all its files. settings: all its settings, by dotted key, whatever they say.
    """
    wrong = {}
    own = own_files(entries)
    for name in own:
        if not name.startswith(f"{FOLDER}/"):
            wrong[name] = f"must lie below {FOLDER}/, in this spelling; rename it"
        elif why := unreadable(name, entries[name]):
            wrong[name] = why
    if len(own) > MAX_FILES:
        wrong[FOLDER] = f"must have at most {MAX_FILES} files, got {len(own)}; send fewer"
    if why := begins(str(settings.get("model.start", ""))):
        wrong["model.start"] = why
    if why := base_problem(*(str(settings.get(key, "")) for key in _BASES)):
        wrong[why.partition(":")[0]] = why
    for key in (f"{section}.{key}" for section, key in CODE):
        said = str(settings.get(key, ""))
        if why := problem(key, said):
            wrong[key] = why
        elif is_file(said) and split(said)[0] not in own:
            wrong[key] = f"must name a file of the bundle below {FOLDER}/, got {said!r}; send it"
    return wrong


def own_files(names: Mapping[str, object]) -> list[str]:
    """Return those of a bundle's names that are the user's own files, sorted."""
    return sorted(name for name in names if name.lower().startswith(f"{FOLDER}/"))
