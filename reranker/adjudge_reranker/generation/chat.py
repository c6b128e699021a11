"""Prompts in the forms in which policies take them."""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from adjudge_reranker.content import Message
from adjudge_reranker.pictures import Image, RawPixels

if TYPE_CHECKING:
    import PIL.Image

_ORIENTATION: Final = 0x0112
_MIME_TYPES: Final = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
}
"""What chat endpoints take, by PIL's names of formats."""
_PNG_MODES: Final = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}


def decoded(image: Image) -> "PIL.Image.Image":
    """The picture as the critic sees it: upright, in mode L, RGB or RGBA if it came as pixels.

    Raises OSError (PIL.UnidentifiedImageError) if the file is no picture.
    """
    import PIL.Image
    import PIL.ImageOps

    if isinstance(image.source, RawPixels):
        pixels = image.source
        return PIL.Image.frombytes(pixels.mode, (pixels.width, pixels.height), pixels.data)
    with PIL.Image.open(io.BytesIO(image.source)) as opened:
        return PIL.ImageOps.exif_transpose(opened)  # a copy in any case


def data_url(image: Image) -> str:
    """The picture as a data URL: the file as it is, or PNG, without loss, if endpoints would not
    take it or would see it lying on its side."""
    import PIL.Image

    if not isinstance(image.source, RawPixels):
        with PIL.Image.open(io.BytesIO(image.source)) as opened:
            mime_type = _MIME_TYPES.get(opened.format or "")
            if mime_type and opened.getexif().get(_ORIENTATION, 1) == 1:
                return _data_url(mime_type, image.source)
    file = io.BytesIO()
    picture = decoded(image)
    if picture.mode not in _PNG_MODES:
        picture = picture.convert("RGB")
    picture.save(file, "PNG")
    return _data_url("image/png", file.getvalue())


def openai_messages(prompt: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages of a chat completion. Without pictures their content is one string, which every
    endpoint takes."""
    return [{"role": message.role.value, "content": _openai_content(message)} for message in prompt]


def template_messages(prompt: Sequence[Message], *, has_pictures: bool) -> list[dict[str, Any]]:
    """Messages for a chat template: content parts for those of processors, which show pictures, and
    strings for those of tokenizers.

    Raises ValueError for a picture where there can be none.
    """
    return [
        {
            "role": message.role.value,
            "content": _parts(message) if has_pictures else _text(message),
        }
        for message in prompt
    ]


def _openai_content(message: Message) -> str | list[dict[str, Any]]:
    if not any(isinstance(part, Image) for part in message.parts):
        return _text(message)
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in message.parts
    ]


def _parts(message: Message) -> list[dict[str, Any]]:
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image", "image": _in_colour(part)}
        for part in message.parts
    ]


def _in_colour(image: Image) -> "PIL.Image.Image":
    # As image processors of vision-language models want it, and not all convert by themselves.
    picture = decoded(image)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _text(message: Message) -> str:
    texts = [part for part in message.parts if isinstance(part, str)]
    if len(texts) < len(message.parts):
        raise ValueError("the prompt has a picture, and this policy's tokenizer takes none")
    return "".join(texts)


def _data_url(mime_type: str, data: bytes) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode('ascii')}"
