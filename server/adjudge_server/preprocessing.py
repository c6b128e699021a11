"""Choices about pictures in which the original's training code and its published snippet differ."""

from typing import Literal

ConvertRgb = Literal["first", "last"]
Exif = Literal["apply", "ignore"]
SeveralPictures = Literal["anyres", "pad"]
