"""Choices about pictures: which are read, and where the original's training code and its published
snippet differ."""

from typing import Final, Literal

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Of encoded pictures, as Pillow calls them."""
MAX_SIDE: Final = 65_535
"""Pixels; no JPEG has more. Resizing costs by the row and the column too: a picture of 50 million
pixels, all in one column, took 39 s and 2 GiB, and one of the same number in a square 3 s."""

ConvertRgb = Literal["first", "last"]
Exif = Literal["apply", "ignore"]
SeveralPictures = Literal["anyres", "pad"]
