"""Windowed scattering coefficients of images: fixed wavelet filters under linear heads."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlite.models.branched import Branched
from fedlite.models.fixed import Columns, Scale, zero_head

_CHUNK = 32
_ANGLES = 8


def morlet(size: int, sigma: float, frequency: float) -> Tensor:
    """Return a bank of Morlet wavelets at 8 angles, real parts then imaginary parts.

    Each is a Gaussian envelope (half as narrow across as along the wave) times a plane wave, made
    zero-mean and of L1 norm 1.

    Args:
        size: side of the square kernel, odd.
        sigma: width of the envelope in pixels.
        frequency: of the wave, radians per pixel.

    Returns:
        float32 ``[16, 1, size, size]``.

    Source:
        Bruna and Mallat, "Invariant scattering convolution networks" (2013), section 2.
    """
    half = size // 2
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    bank = []
    for step in range(_ANGLES):
        angle = math.pi * step / _ANGLES
        along = math.cos(angle) * columns + math.sin(angle) * rows
        across = -math.sin(angle) * columns + math.cos(angle) * rows
        envelope = np.exp(-(along**2 + (0.5 * across) ** 2) / (2.0 * sigma**2))
        wave = envelope * np.exp(1j * frequency * along)
        wave = wave - envelope * (wave.sum() / envelope.sum())
        bank.append(wave / np.abs(wave).sum())
    kernels = np.stack([np.real(bank), np.imag(bank)]).reshape(2 * _ANGLES, 1, size, size)
    return torch.from_numpy(kernels.astype(np.float32))


def _modulus(x: Tensor, bank: Tensor) -> Tensor:
    """|x * psi| of ``[n, maps, h, w]``: ``[n, maps * 8, h, w]``, each map under each angle."""
    n, maps, height, width = x.shape
    margin = bank.shape[-1] // 2
    padded = functional.pad(x.reshape(n * maps, 1, height, width), (margin,) * 4, mode="reflect")
    waves = functional.conv2d(padded, bank)
    modulus = torch.sqrt(waves[:, :_ANGLES] ** 2 + waves[:, _ANGLES:] ** 2)
    return modulus.reshape(n, maps * _ANGLES, height, width)


def _standardise(maps: Tensor) -> Tensor:
    """Flatten ``[n, ...]`` and give each record's row mean 0 and variance 1 (0 if it is flat)."""
    flat = maps.flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    # Pixels lie in [0, 1]: a spread below a thousandth is rounding, not a picture.
    return centred / centred.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-3)


class ScatterStem(nn.Module):
    """Zeroth and first order: raw images to ``[n, shallow + carry]``.

    The first ``shallow`` columns are the standardised features of the exit; the rest carries the
    half-size first-order maps, from which ``ScatterTail`` makes the second order.
    """

    fine: Tensor
    coarse: Tensor

    def __init__(self) -> None:
        """Build both banks."""
        super().__init__()
        self.register_buffer("fine", morlet(7, 0.8, 3.0 * math.pi / 4.0), False)
        self.register_buffer("coarse", morlet(11, 1.6, 3.0 * math.pi / 8.0), False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[n, channels, h, w]`` to ``[n, shallow + carry]``."""
        first = functional.avg_pool2d(_modulus(x, self.fine), 2)
        shallow = (
            _standardise(functional.avg_pool2d(x, 4)),
            _standardise(functional.avg_pool2d(first, 2).sqrt()),
            _standardise(functional.avg_pool2d(_modulus(x, self.coarse), 4).sqrt()),
        )
        return torch.cat((*shallow, first.flatten(1)), dim=1)


class ScatterTail(nn.Module):
    """Second order: what ``ScatterStem`` returns to all standardised features ``[n, deep]``."""

    fine: Tensor

    def __init__(self, shallow: int, maps: tuple[int, int, int]) -> None:
        """Keep the column where the carried maps ``(maps, h, w)`` begin."""
        super().__init__()
        self.shallow = shallow
        self.maps = maps
        self.register_buffer("fine", morlet(7, 0.8, 3.0 * math.pi / 4.0), False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map ``[n, shallow + carry]`` to ``[n, deep]``."""
        first = hidden[:, self.shallow :].reshape(-1, *self.maps)
        second = functional.avg_pool2d(_modulus(first, self.fine), 2).sqrt()
        return torch.cat((hidden[:, : self.shallow], _standardise(second)), dim=1)


class Scatter(Branched):
    """Linear heads on windowed scattering coefficients of images.

    Orders 0 and 1 (17 maps per channel, a quarter of the side) feed the exit; order 2 adds 64
    maps for the tail. Pooled moduli are replaced by their square roots, which tames a record's few
    strong edges. Four groups are standardised per record: order 0, order 1 fine, order 1 coarse,
    order 2. Each head sees its columns divided by the root of their number.

    Source:
        Tramer and Boneh, "Differentially private learning needs better features" (2021), for
        linear heads on scattering coefficients under DP-SGD.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        """Build both heads at zero."""
        channels, height, width = shape
        cells = channels * (height // 4) * (width // 4)
        shallow, deep = 17 * cells, 81 * cells
        super().__init__(
            nn.Identity(),
            nn.Sequential(Columns(0, shallow), zero_head(shallow, classes), Scale(shallow**-0.5)),
            nn.Sequential(zero_head(deep, classes), Scale(deep**-0.5)),
            shape=shape,
            classes=classes,
        )
        self.columns = deep
        self.orders01 = ScatterStem()
        self.order2 = ScatterTail(shallow, (8 * channels, height // 2, width // 2))

    def prepare(self, x: Tensor) -> Tensor:
        """Map ``[n, channels, h, w]`` to standardised features ``[n, deep]``, in fixed chunks.

        The last chunk is padded to the same size: kernels of a different batch size round
        differently, and a record's features should not depend on its neighbours.
        """
        prepared = x.new_empty((len(x), self.columns))
        with torch.no_grad():
            for start in range(0, len(x), _CHUNK):
                chunk = x[start : start + _CHUNK]
                full = functional.pad(chunk, (0, 0) * (x.dim() - 1) + (0, _CHUNK - len(chunk)))
                prepared[start : start + _CHUNK] = self.order2(self.orders01(full))[: len(chunk)]
        return prepared

    def deployed(self) -> Branched:
        """Compute order 2 in the tail only; see ``Branched.deployed``."""
        return Branched(
            self.orders01,
            self.exit,
            nn.Sequential(self.order2, self.tail),
            shape=self.shape,
            classes=self.classes,
        )


def scatter(shape: tuple[int, ...], classes: int) -> Branched:
    """Build ``scatter`` for images whose sides are multiples of 4, at least 8."""
    if len(shape) != 3 or min(shape[1:]) < 8 or shape[1] % 4 or shape[2] % 4:
        raise ValueError(
            f"model 'scatter' needs images [channels, h, w] with sides that are multiples of 4, "
            f"at least 8; the data's shape is {list(shape)}; pad the images or take 'cosine'"
        )
    return Scatter((shape[0], shape[1], shape[2]), classes)
