"""Conversion of images to 8 bits per channel, by a scale that is the same for all images of a kind."""

from __future__ import annotations

import numpy as np
from PIL import Image

BITS_PER_SAMPLE = 258
"""The tag of a TIFF file with the number of bits of a pixel."""

PLAIN_MODES = ("L", "RGB", "RGBA")


def convert_pixels(image: Image.Image) -> Image.Image:
    """Return `image` with 8 bits per channel, as L, RGB or RGBA.

    Grey pixels of 16 bits are divided by 257, floats from 0 to 1 multiplied by 255; Pillow would clip both. Raises
    ValueError, naming the mode, for pixels whose range is not known.
    """
    if image.mode in PLAIN_MODES:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _scale(np.asarray(image).astype(np.float64), 2 ** _get_bits(image) - 1)
    if image.mode == "I":
        raise ValueError("it has 32-bit pixels (mode I), whose range is not known; save it with 8 or 16 bits")
    if image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(
                f"it has float pixels (mode F) from {values.min():g} to {values.max():g}, expected 0 to 1; scale them"
            )
        return _scale(values, 1)
    return image.convert("L" if image.mode in ("LA", "La") else "RGB")


def _get_bits(image: Image.Image) -> int:
    """Return the bits of a grey pixel: 16, or fewer where a TIFF file says so."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITS_PER_SAMPLE, (16,))
    return int(bits[0] if isinstance(bits, tuple) else bits)


def _scale(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], most: float) -> Image.Image:
    return Image.fromarray(np.round(values * (255 / most)).astype(np.uint8))
