"""The network whose tail is most of its work, counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedlite.models import build


def test_the_stem_is_a_small_part_of_the_work() -> None:
    costs = build("vgg", (1, 28, 28), 10, seed=0).costs()
    # 3 x 3 at 14 x 14 places, then at 7 x 7; the tail at 7 x 7, 7 x 7 and 4 x 4.
    assert costs["stem"]["macs"] == 9 * 16 * 196 + 9 * 16 * 32 * 49
    assert costs["tail"]["macs"] == 9 * 96 * (49 * 32 + 49 * 96 + 16 * 96) + 16 * 96 * 10
    assert costs["exit"]["parameters"] == 32 * 9 * 10 + 10
    assert sum(part["parameters"] for part in costs.values()) == 216_884
    assert costs["stem"]["macs"] * 27 < costs["stem"]["macs"] + costs["tail"]["macs"]


def test_its_widths_are_options_and_no_layer_mixes_records() -> None:
    model = build("vgg", (3, 20, 12), 4, seed=0, stem=5, tail=7)
    widths = [one.out_channels for one in model.modules() if isinstance(one, nn.Conv2d)]
    assert widths == [5, 10, 7, 7, 7]
    kinds = {type(one) for one in model.modules() if not list(one.children())}
    assert kinds == {nn.Conv2d, nn.ReLU, nn.AvgPool2d, nn.Flatten, nn.Linear}


def test_what_runs_through_keeps_its_size() -> None:
    """Without a norm PyTorch's own first weights shrink it sixfold a layer."""
    model = build("vgg", (1, 28, 28), 10, seed=0)
    drawn = torch.randn((64, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = model.stem(drawn)
        last = model.tail[:-2](hidden)
    for made in (hidden, last):
        assert 0.3 < made.square().mean() < 3


@pytest.mark.parametrize("width", [0, -1, 100_000])
def test_a_width_that_cannot_be_is_refused(width: int) -> None:
    for name in ("stem", "tail"):
        with pytest.raises(ValueError, match=f"{name} must be from 1 to 1024, got {width}"):
            build("vgg", (1, 28, 28), 10, seed=0, **{name: width})
