"""A site's folder: made once with safe modes, and a commitment that only its secret opens."""

from __future__ import annotations

import hashlib
import hmac
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedlite.data import Dataset
from fedlite.guard import folder as home, policy_file
from fedlite.guard.policy import SitePolicy

DATA = Dataset(np.arange(12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 0, 1]))


def opened(path: Path, dataset: str = "digits") -> home.Home:
    return home.open_home(path, "site-01", dataset, SitePolicy(site="site-01", epsilon=2.0))


def test_a_home_is_made_once_and_its_policy_is_then_the_operators(tmp_path: Path) -> None:
    place = opened(tmp_path / "h")
    assert place.policy() == SitePolicy(site="site-01", epsilon=2.0)
    policy_file.write(place.path / "site.toml", SitePolicy(site="site-01", epsilon=0.5))
    assert opened(tmp_path / "h").policy().epsilon == 0.5
    (place.path / "site.toml").write_text("[budget]\nepsilom = 9\n")
    with pytest.raises(ValueError, match=r"budget\.epsilom.*epsilon"):
        opened(tmp_path / "h").policy()


def test_keys_and_secret_are_the_owners_alone_and_stay(tmp_path: Path) -> None:
    place = opened(tmp_path / "h")
    commitment = place.commitment(DATA)
    key = place.key().private_bytes_raw()
    for name in ("ledger.pem", "data.secret"):
        assert stat.S_IMODE((place.path / "keys" / name).stat().st_mode) == 0o600
    again = opened(tmp_path / "h")
    assert (again.key().private_bytes_raw(), again.commitment(DATA)) == (key, commitment)


def test_the_commitment_is_to_these_records_under_this_secret(tmp_path: Path) -> None:
    place = opened(tmp_path / "h")
    digest = hashlib.sha256()
    digest.update(b"<f4(4, 3)" + DATA.x.tobytes() + b"<i8(4,)" + DATA.y.tobytes())
    secret = (place.path / "keys" / "data.secret").read_bytes() if place.commitment(DATA) else b""
    expected = hmac.new(secret, digest.digest(), hashlib.sha256).hexdigest()
    assert place.commitment(DATA) == expected
    changed = DATA.x.copy()
    changed[0, 0] += 1
    assert place.commitment(replace(DATA, x=changed)) != expected
    # The same records at another site: nobody can tell that they are the same.
    assert opened(tmp_path / "other").commitment(DATA) != expected
