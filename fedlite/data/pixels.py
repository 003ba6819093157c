"""One picture as numbers, whatever its file claims."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

# A picture of a large camera; what a small file unpacks to is known before it is.
MOST_PIXELS = 1 << 26
_FORMATS = ("PNG", "JPEG")
_DEEP = ("I", "I;16", "I;16B", "I;16L")


def size_of(file: str | IO[bytes]) -> tuple[int, int, int]:
    """Return channels (1 or 3), height and width of a PNG or JPEG file; its pixels are not read.

    Raises ValueError where it is none, or has more than MOST_PIXELS pixels.
    """
    with _open(file) as image:
        grey = image.mode in ("1", "L", "LA", *_DEEP)
        return (1 if grey else 3, image.height, image.width)


def pixels(file: str | IO[bytes], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a PNG or JPEG file as float32 `shape`: channels (1 or 3), height, width; 0 to 1.

    It is made grey or coloured as `shape` says, transparency left out, and another size is resized
    bilinearly. Raises ValueError as `size_of` does, and where the file is damaged.
    """
    from PIL import Image

    channels, height, width = shape
    with _open(file) as opened:
        try:
            image, scale = opened, 255.0
            if opened.mode in _DEEP:
                # Its 16 bits would be cut to 8.
                image, scale = opened.convert("F"), 65535.0
            elif opened.mode not in ("L", "RGB"):
                image = opened.convert("L" if opened.mode in ("1", "LA") else "RGB")
            if image.mode != "F":
                image = image.convert("L" if channels == 1 else "RGB")
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            found = np.asarray(image, np.float32) / np.float32(scale)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise ValueError(f"it is damaged ({error})") from error
    rows = found[None] if found.ndim == 2 else found.transpose(2, 0, 1)
    return np.ascontiguousarray(np.broadcast_to(rows, (channels, height, width)))


def _open(file: str | IO[bytes]) -> Any:
    import warnings

    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # What is too large is refused below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError("it has too many pixels") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"it is neither {' nor '.join(_FORMATS)}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"it is damaged ({error})") from error
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise ValueError(f"it has {image.width} x {image.height} pixels")
    return image
