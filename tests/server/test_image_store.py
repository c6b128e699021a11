"""What is retained, for whom, and how long."""

import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjudge_server.content import EncodedImage, ImageReference, RawImage, WireImage
from adjudge_server.errors import InvalidRequest, UnknownImage
from adjudge_server.image_store import MAX_CALLERS, MAX_PICTURES, ImageStore


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def store(
    *, max_bytes: int = 1000, max_total_bytes: int = 100_000, max_seconds: float = 10.0
) -> tuple[ImageStore, Clock]:
    clock = Clock()
    images = ImageStore(
        max_bytes=max_bytes, max_total_bytes=max_total_bytes, max_seconds=max_seconds, clock=clock
    )
    return images, clock


def picture(name: str, size: int = 10) -> EncodedImage:
    return EncodedImage(name.encode().ljust(size, b"."))


def reference(image: EncodedImage | RawImage) -> ImageReference:
    return ImageReference(image.wire_digest())


def knows(images: ImageStore, caller: str, image: EncodedImage | RawImage) -> bool:
    """Whether it can be named. Counts as a use."""
    try:
        return images.resolve(caller, reference(image)) == image
    except UnknownImage:
        return False


@pytest.mark.parametrize("image", [picture("a"), RawImage("L", 2, 2, b"1234")])
def test_a_picture_sent_is_itself_and_can_be_named_afterwards(image: WireImage) -> None:
    images, _ = store()
    assert not isinstance(image, ImageReference)
    assert images.resolve("me", image) is image
    assert images.resolve("me", reference(image)) is image


def test_raw_pixels_of_another_shape_are_another_picture() -> None:
    images, _ = store()
    images.resolve("me", RawImage("L", 2, 3, b"123456"))
    for other in (RawImage("L", 3, 2, b"123456"), RawImage("RGB", 2, 1, b"123456")):
        assert not knows(images, "me", other)
    assert not knows(images, "me", EncodedImage(b"123456"))


def test_a_digest_that_is_not_retained_is_named_in_the_refusal() -> None:
    images, _ = store()
    with pytest.raises(UnknownImage) as unknown:
        images.resolve("me", ImageReference(b"\x01" * 32))
    assert unknown.value.metadata["digest"] == "01" * 32


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_what_has_not_32_bytes_is_no_digest(length: int) -> None:
    images, _ = store()
    with pytest.raises(InvalidRequest):
        images.resolve("me", ImageReference(bytes(length)))


# Bytes --------------------------------------------------------------------------------------------


def test_the_least_recently_used_makes_room() -> None:
    images, _ = store(max_bytes=30)
    a, b, c, d = (picture(name) for name in "abcd")
    for image in (a, b, c):
        images.resolve("me", image)
    assert knows(images, "me", a), "and is now the most recent"
    images.resolve("me", d)
    assert [knows(images, "me", image) for image in (a, b, c, d)] == [True, False, True, True]


def test_a_picture_larger_than_the_bound_is_used_and_costs_no_other_its_place() -> None:
    images, _ = store(max_bytes=30)
    small, large = picture("small"), picture("large", 31)
    images.resolve("me", small)
    assert images.resolve("me", large) is large
    assert not knows(images, "me", large)
    assert knows(images, "me", small)


def test_a_picture_sent_again_takes_no_more_room() -> None:
    images, _ = store(max_bytes=30)
    a, b = picture("a"), picture("b", 20)
    images.resolve("me", b)
    for _ in range(5):
        images.resolve("me", a)
    assert knows(images, "me", b)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    max_bytes=st.integers(0, 60),
)
def test_what_can_be_named_never_exceeds_the_bound_and_is_the_most_recent(
    sizes: list[int], max_bytes: int
) -> None:
    images, _ = store(max_bytes=max_bytes)
    sent = [EncodedImage(bytes([i]) * size) for i, size in enumerate(sizes)]
    for image in sent:
        images.resolve("me", image)
    kept = [image for image in sent if knows(images, "me", image)]
    assert sum(len(image.data) for image in kept) <= max_bytes
    fitting = [image for image in sent if len(image.data) <= max_bytes]
    assert kept == fitting[len(fitting) - len(kept) :]
    if fitting:
        assert kept, "the last one that fits at all is there"


# Time ---------------------------------------------------------------------------------------------


def test_a_picture_is_forgotten_when_it_was_not_used_for_the_whole_time() -> None:
    images, clock = store(max_seconds=10)
    image = picture("a")
    images.resolve("me", image)
    clock.now += 10
    assert knows(images, "me", image)
    clock.now += 10.001
    assert not knows(images, "me", image)


@pytest.mark.parametrize("named", [True, False])
def test_each_use_counts_anew(named: bool) -> None:
    images, clock = store(max_seconds=10)
    image, unused = picture("a"), picture("b")
    images.resolve("me", image)
    images.resolve("me", unused)
    for _ in range(5):
        clock.now += 9
        images.resolve("me", reference(image) if named else image)
    assert not knows(images, "me", unused)


class Watched(EncodedImage):
    """One whose end can be seen."""

    __slots__ = ("__weakref__",)


def test_an_expired_picture_is_freed_though_its_caller_never_comes_back() -> None:
    images, clock = store(max_seconds=10)
    watched = weakref.ref(sent := Watched(b"a secret"))
    images.resolve("gone", sent)
    del sent
    assert watched() is not None
    clock.now += 11
    images.resolve("another", picture("a"))
    assert watched() is None


# Callers ------------------------------------------------------------------------------------------


def test_callers_cannot_name_what_another_has_sent() -> None:
    images, _ = store()
    image = picture("a")
    images.resolve("me", image)
    assert not knows(images, "you", image)
    assert knows(images, "me", image)


def test_callers_do_not_take_each_others_room() -> None:
    images, _ = store(max_bytes=10)
    mine, yours = picture("mine"), picture("yours")
    images.resolve("me", mine)
    images.resolve("you", yours)
    assert knows(images, "me", mine)
    assert knows(images, "you", yours)


def test_the_least_recent_caller_makes_room_for_one_too_many() -> None:
    images, _ = store()
    image = picture("a")
    for i in range(MAX_CALLERS):
        images.resolve(f"{i}", image)
    assert knows(images, "0", image)
    images.resolve("one more", image)
    assert not knows(images, "1", image)
    assert knows(images, "0", image)
    assert knows(images, "one more", image)


def test_callers_who_only_ask_push_nobody_out() -> None:
    images, _ = store()
    image = picture("a")
    images.resolve("me", image)
    for i in range(MAX_CALLERS):
        assert not knows(images, f"{i}", image)
    assert knows(images, "me", image)


@settings(max_examples=60)
@given(
    sent=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 40)), max_size=40),
    max_total_bytes=st.integers(0, 120),
)
def test_what_all_can_name_together_never_exceeds_the_bound(
    sent: list[tuple[str, int]], max_total_bytes: int
) -> None:
    images, _ = store(max_bytes=60, max_total_bytes=max_total_bytes)
    pictures = [(who, EncodedImage(bytes([i]) * size)) for i, (who, size) in enumerate(sent)]
    for who, image in pictures:
        images.resolve(who, image)
    kept = [len(image.data) for who, image in pictures if knows(images, who, image)]
    assert sum(kept) <= max_total_bytes
    if pictures and len(pictures[-1][1].data) <= max_total_bytes // 6:
        assert kept


def test_a_greedy_caller_makes_room_for_the_others() -> None:
    images, _ = store(max_bytes=100, max_total_bytes=120)
    modest = [picture("mine", 10), picture("mine too", 10)]
    for image in modest:
        images.resolve("modest", image)
    for i in range(50):
        images.resolve("greedy", picture(f"{i}", 20))
    assert all(knows(images, "modest", image) for image in modest)


def test_pictures_of_next_to_no_bytes_are_bounded_by_their_number() -> None:
    images, _ = store(max_bytes=10 * MAX_PICTURES, max_total_bytes=10 * MAX_PICTURES)
    tiny = [EncodedImage(i.to_bytes(4)) for i in range(MAX_PICTURES + 1)]
    for image in tiny:
        images.resolve("me", image)
    assert not knows(images, "me", tiny[0])
    assert knows(images, "me", tiny[1])
