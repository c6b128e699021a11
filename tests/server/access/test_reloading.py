"""What is read from files follows them, and stays what it was where they make no sense."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_server.access.reloading import Reloaded


class Disk:
    """A file that a test writes, and the time."""

    def __init__(self, contents: bytes | None) -> None:
        self.contents = contents
        self.now = 0.0
        self.reads = 0

    def read(self) -> tuple[bytes, ...]:
        self.reads += 1
        if self.contents is None:
            raise ValueError("the file is gone")
        return (self.contents,)


def parse(contents: tuple[bytes, ...]) -> int:
    try:
        return int(contents[0])
    except ValueError:
        raise ValueError("no number in the file") from None


def reloaded(disk: Disk) -> Reloaded[int]:
    return Reloaded(disk.read, parse, clock=lambda: disk.now)


@given(st.lists(st.sampled_from([b"1", b"2", b"3", b"", b"nonsense", None]), max_size=20))
def test_the_value_is_always_the_last_one_that_made_sense(written) -> None:
    disk = Disk(b"0")
    value = reloaded(disk)
    expected = 0
    for contents in written:
        disk.contents = contents
        disk.now += 1.0
        if contents in (b"1", b"2", b"3"):
            expected = int(contents)
        assert value.get() == expected


@given(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=50))
def test_files_are_looked_at_once_a_second_at_most(pauses: list[float]) -> None:
    disk = Disk(b"0")
    value = reloaded(disk)
    for pause in pauses:
        disk.now += pause
        value.get()
    assert disk.reads - 1 <= disk.now


def test_a_file_that_stays_wrong_is_complained_of_once(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(b"0")
    value = reloaded(disk)
    with caplog.at_level(logging.INFO):
        for contents in (b"x", b"x", b"x", None, None, None, b"7", b"7"):
            disk.contents = contents
            disk.now += 1.0
            value.get()
    assert [record.getMessage() for record in caplog.records] == [
        "no number in the file; what was read before stays in use",
        "the file is gone; what was read before stays in use",
        "7: read again",
    ]


@pytest.mark.parametrize("contents", [b"nonsense", None])
def test_what_is_wrong_from_the_start_is_raised(contents: bytes | None) -> None:
    with pytest.raises(ValueError):
        reloaded(Disk(contents))
