"""The pictures of a trainer's samples, in the many forms in which data sets hold them."""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adjudge_reranker.pictures import Image, to_image

_PAYLOADS = ("image", "bytes", "path", "image_url", "url", "base64")
"""Where data sets and chat messages keep a picture, the pixels themselves first."""


class PictureReader:
    """Reads each object once, because trainers repeat a row's picture for each of its completions.

    One for each batch: it keeps what it has read.
    """

    def __init__(self) -> None:
        # By identity, and with the object itself, or another could be born with its identity.
        self._read: dict[int, tuple[Any, Image]] = {}

    def column(self, value: Any) -> tuple[Image, ...]:
        """The pictures of one row: of None, one picture, or a list of them."""
        if value is None:
            return ()
        if isinstance(value, list | tuple):
            return tuple(self.picture(one) for one in value if one is not None)
        return (self.picture(value),)

    def picture(self, value: Any) -> Image:
        """The picture that `value` is: what `to_image` takes, a string with a path or a data URL,
        or a mapping that holds one, such as a row of `datasets` that is not decoded.

        Raises TypeError for another type, ValueError if it cannot be sent as it is or would have
        to be fetched, OSError if a file cannot be read.
        """
        known = self._read.get(id(value))
        if known is None:
            known = self._read[id(value)] = value, self._picture(value)
        return known[1]

    def _picture(self, value: Any) -> Image:
        if isinstance(value, str):
            return _from_string(value)
        if isinstance(value, Mapping):
            payload = picture_payload(value)
            if payload is None:
                raise ValueError(f"no picture in a mapping of {', '.join(map(str, value))}")
            return self._picture(payload)
        return to_image(value)


def picture_payload(part: Mapping[str, Any]) -> Any:
    """What holds the picture of a content part or data set row; None for a mere placeholder."""
    for key in _PAYLOADS:
        if part.get(key) is not None:
            if key == "base64":
                return _decoded(part[key])
            return part[key]
    return None


def _from_string(text: str) -> Image:
    # In a column of pictures, unlike anywhere else, a string can mean nothing but where one is.
    if text.startswith("data:"):
        header, _, data = text.partition(",")
        if not header.endswith(";base64"):
            raise ValueError("a data URL of a picture must be base64")
        return Image(_decoded(data))
    if text.startswith(("http://", "https://")):
        raise ValueError("pictures are not fetched from the network: pass the file or its bytes")
    return Image.open(Path(text.removeprefix("file://")))


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError("a picture's base64 is broken") from error
