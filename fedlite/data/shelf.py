"""Base models of one's own, put into the cache under a name: copied from a folder, or from a hub.

So a real site has one that no catalog names: its operator puts his own copy there, and a bundle
says the name and the digest (`fedlite.data.bases.check_pin`). Nothing is put there while a model
trains, and of a hub only safetensors and JSON are taken.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

from fedlite.data.bases import BASES, MANIFEST, SHELF, TOKENIZER, Base, is_name, shelved
from fedlite.data.cache import cache_folder, locked
from fedlite.data.room import check_disk
from fedlite.data.text.tokens import open_tokenizer
from fedlite.data.weights import CONFIG, WEIGHTS, check_folder
from fedlite.storage import content_digest, write_atomic

NEEDED = (CONFIG, WEIGHTS, TOKENIZER)
# What a tokenizer's padding may stand in.
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json")
_HUB = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([\w./-]{1,100}))?")


def put(name: str, folder: Path, *, origin: str = "", licence: str = "the folder's own") -> Base:
    """Copy a base model's folder into the cache, and return it under its name.

    A name stands for one content for ever. Links are followed: it is their content that is copied
    and pinned. Raises ValueError for a name that is taken by another content or cannot be one, for
    a folder that is no base (`check_folder`, `open_tokenizer`), and where the disk has no room.
    """
    if name in BASES or not is_name(name):
        raise ValueError(
            f"NAME: must be letters, digits and . _ - from a letter or digit on, and none of "
            f"{', '.join(BASES)}, got {name!r}; choose another"
        )
    lacks = [file for file in NEEDED if not (folder / file).is_file()]
    if lacks:
        raise ValueError(
            f"{folder}: must hold {', '.join(NEEDED)}, lacks {lacks[0]}; save it there by "
            "transformers, model and tokenizer, each by save_pretrained"
        )
    check_folder(folder)
    open_tokenizer(str(folder.absolute()))
    files = [*NEEDED, *(file for file in _BESIDE if (folder / file).is_file())]
    pins = {file: content_digest(folder / file) for file in files}
    place = cache_folder() / SHELF / name
    with locked(place.parent):
        there = shelved(name)
        if there is not None:
            if dict(there.files) != pins:
                raise ValueError(
                    f"NAME: {name!r} is another base already, sha256 {there.identity} (rule: a "
                    f"name stands for one content); choose another, or remove {place}"
                )
            return there
        check_disk(place, sum((folder / file).stat().st_size for file in files), name)
        part = place.with_name(f".{name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for file in files:
            shutil.copyfile(folder / file, part / file)
        told = {"files": pins, "origin": origin or "copied from a folder", "licence": licence}
        write_atomic(part / MANIFEST, json.dumps(told, indent=2, sort_keys=True).encode())
        shutil.rmtree(place, ignore_errors=True)
        part.rename(place)
    found = shelved(name)
    if found is None:
        raise ValueError(f"{place}: must be there, and has gone; put it there again")
    # What was copied is what was looked at.
    found.folder()
    return found


def is_hub(name: str) -> bool:
    """Whether a name is that of a hub's model: ORG/NAME, or ORG/NAME@REVISION.

    >>> is_hub("org/name"), is_hub("org/name@v1"), is_hub("minilm"), is_hub("../mine")
    (True, True, False, False)
    """
    return _HUB.fullmatch(name) is not None


def fetch(spec: str, name: str = "") -> Base:
    """Bring a model from the Hugging Face hub into the cache, and return it under its name.

    spec: ORG/NAME, or ORG/NAME@REVISION. name: "" is the last part of NAME. The revision is held
    to the commit that it is now, which is written down beside the SHA-256 of what came.

    Raises ConnectionError telling what the hub answered, ValueError as `put` does, or where the
    extra is missing.
    """
    match = _HUB.fullmatch(spec)
    if match is None:
        raise ValueError(f"NAME: must be ORG/NAME or ORG/NAME@REVISION, got {spec!r}; correct it")
    try:
        from huggingface_hub import HfApi, hf_hub_download
    except ImportError as error:
        raise ValueError(
            f'{spec}: needs huggingface_hub ({error}); pip install "fedlite[lora]"'
        ) from None
    repo, revision = match[1], match[2]
    shelf, hub = cache_folder() / SHELF, os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    shelf.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=shelf, prefix=".hub-") as work:
        try:
            about = HfApi(hub).model_info(repo, revision=revision, files_metadata=True)
        except Exception as error:  # the library has errors of a dozen kinds for a network
            raise _unreachable(spec, error) from None
        found = {one.rfilename: one.size or 0 for one in about.siblings or ()}
        if lacks := [file for file in NEEDED if file not in found]:
            raise ValueError(
                f"{spec}: must hold {', '.join(NEEDED)} (rule: no pickle is read, and weights are "
                f"one file), lacks {lacks[0]}; take another model"
            )
        wanted = [*NEEDED, *(file for file in _BESIDE if file in found)]
        # Once as it comes, once as it is put.
        check_disk(shelf, 2 * sum(found[file] for file in wanted), spec)
        try:
            for file in wanted:
                # By the commit, so that all files are of one.
                hf_hub_download(repo, file, revision=about.sha, local_dir=work, endpoint=hub)
        except Exception as error:
            raise _unreachable(spec, error) from None
        return put(
            name or repo.rpartition("/")[2],
            Path(work),
            origin=f"{hub}/{repo}@{about.sha}",
            licence=str(getattr(about.card_data, "license", None) or "not told"),
        )


def _unreachable(spec: str, error: Exception) -> ConnectionError:
    said = " ".join(str(error).split())[:200]
    return ConnectionError(
        f"{spec} could not be fetched: the hub answered {type(error).__name__}: {said}; call it "
        "again with a network, or put a folder of yours there with `fedlite data add NAME FOLDER`"
    )
