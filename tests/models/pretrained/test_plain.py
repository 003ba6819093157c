"""An encoder cut in two answers as the whole one does that was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedlite.models.pretrained.classifier import Classifier, lora
from tests.models.pretrained.conftest import save, texts


def trained(base: Path, method: str, **options: object) -> Classifier:
    """Return a classifier whose trained values are no longer what they began with."""
    model = lora((2, 12), 3, base=str(base), method=method, rank=2, **options)  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("method", ["both", "sb", "heads"])
@pytest.mark.parametrize(
    ("exit", "read"), [(2, (2, 3, 4)), (1, (4, 2)), (3, (3, 1, 4, 2)), (4, (2,)), (2, ())]
)
def test_in_two_parts_it_answers_as_in_one(
    bert: Path, method: str, exit: int, read: tuple[int, ...]
) -> None:
    model = trained(bert, method, exit=exit, read=read)
    given = texts(20)
    given[3, 1] = 0  # a text without any token
    with torch.no_grad():
        wanted = model(model.prepare(given))
        parts = model.deployed()
        found = parts(parts.prepare(given))
        longer = torch.nn.functional.pad(given, (0, 5))
        again = parts(longer)
    for one, other, wide in zip(found, wanted, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(wide, one, atol=1e-5, rtol=1e-4)
    assert wanted[0].std() > 1e-3 and (wanted[0] - wanted[1]).abs().max() > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_of_the_padding_does_not_matter(bert: Path, side: str) -> None:
    model = trained(bert, "heads")
    given = texts(6, side=side)
    with torch.no_grad():
        wanted, found = model(model.prepare(given)), model.deployed()(given)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_trained_model_is_left_as_it_is(bert: Path) -> None:
    model = trained(bert, "both")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.deployed()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_kind_of_network_is_refused(tmp_path: Path) -> None:
    model = trained(save("llama", tmp_path / "llama"), "heads")
    with pytest.raises(ValueError, match=r"model\.options\.base: must be an encoder of the kind b"):
        model.deployed()
