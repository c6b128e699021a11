"""The flags about pictures change what the critic sees, and nothing else does."""

import io

import numpy as np
import pytest
from PIL import Image

from adjudge.v1 import reward_pb2 as pb
from tests.conftest import SEVEN, Launch, stub


def dotted() -> bytes:
    """A bilevel seven of single dots: averaged it is a grey seven, but in its own mode its nearest
    dots are picked, and few are met."""
    ink = np.asarray(Image.open(SEVEN).convert("L").resize((168, 168))) > 100
    dots = np.zeros((168, 168), np.bool_)
    dots[::3, ::3] = ink[::3, ::3]
    return png(Image.fromarray(dots))


def png(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    return png(Image.open(SEVEN).convert("RGB"), exif=exif)


def answer(launch: Launch, pictures: tuple[bytes, ...], **flags: str) -> pb.ScoreCandidatesResponse:
    images = [pb.Part(image=pb.Image(encoded=data)) for data in pictures]
    request = pb.ScoreCandidatesRequest(
        prompt=[pb.Message(role=pb.ROLE_USER, parts=[pb.Part(text="What is this?"), *images])],
        candidates=[pb.Candidate(parts=[pb.Part(text="A handwritten seven.")])],
    )
    with stub(launch(**flags)) as service:
        return service.ScoreCandidates(request)


def reward(launch: Launch, picture: bytes, **flags: str) -> float:
    return answer(launch, (picture,), **flags).outcomes[0].reward.reward


@pytest.mark.parametrize(
    ("picture", "flags"),
    [(dotted(), {"convert_rgb": "last"}), (turned(), {"exif": "ignore"})],
    ids=["convert-rgb", "exif"],
)
def test_a_flag_changes_the_reward_of_the_pictures_it_is_about(
    launch: Launch, picture: bytes, flags: dict[str, str]
) -> None:
    plain = SEVEN.read_bytes()
    assert abs(reward(launch, picture, **flags) - reward(launch, picture)) > 1
    assert reward(launch, plain, **flags) == pytest.approx(reward(launch, plain), abs=1e-4)


def test_several_pictures_are_tiled_or_padded_and_a_single_one_is_not_touched(
    launch: Launch,
) -> None:
    seven = SEVEN.read_bytes()
    padded = {"several_pictures": "pad"}
    one, two = (answer(launch, (seven,) * n).provenance.image_tokens for n in (1, 2))
    assert two == 2 * one
    assert answer(launch, (seven,), **padded).provenance.image_tokens == one
    assert answer(launch, (seven,) * 2, **padded).provenance.image_tokens == 2 * (16 + 1)


@pytest.mark.parametrize("flag", ["convert_rgb", "exif", "several_pictures"])
def test_a_flag_that_makes_no_sense_is_named(launch: Launch, flag: str) -> None:
    with pytest.raises(ValueError, match=f"--{flag.replace('_', '-')} sideways: must be one of"):
        launch(**{flag: "sideways"})
