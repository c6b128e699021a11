"""A prompt and its pictures, as they may be sent to others."""

from collections.abc import Sequence

from adjudge_reranker.content import Message
from adjudge_reranker.evaluation.judge import NOT_AN_IMAGE, UNREADABLE_IMAGE, is_image
from adjudge_reranker.mining.prompts import Prompt
from adjudge_reranker.pictures import Image
from adjudge_reranker.trainers.pictures import PictureReader
from adjudge_reranker.trainers.samples import read_prompt


class CannotShow(ValueError):
    """A picture that cannot be sent, or may not be."""

    def __init__(self, reason: str, error: Exception) -> None:
        super().__init__(str(error))
        self.reason = reason
        """UNREADABLE_IMAGE or NOT_AN_IMAGE."""
        self.error = error


def shown(prompt: Prompt) -> tuple[Sequence[Message], Sequence[Image]]:
    """The messages, and the pictures that are in them. Raises CannotShow."""
    try:
        pictures = [Image.open(path) for path in prompt.images]
        messages = read_prompt(prompt.prompt, pictures, PictureReader())
    except (OSError, ValueError) as error:
        raise CannotShow(UNREADABLE_IMAGE, error) from error
    for path, picture in zip(prompt.images, pictures, strict=True):
        # It may be a file that is not for others to see, whoever wrote the input.
        if isinstance(picture.source, bytes) and not is_image(picture.source):
            raise CannotShow(NOT_AN_IMAGE, ValueError(f"not a picture: {path}"))
    return messages, pictures
