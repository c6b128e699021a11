"""What is freed is kept for the next, and given back when that is asked for."""

import platform
import subprocess
import sys

import pytest

WORK = """
import resource, sys, threading
from adjudge_server import host_memory

BYTES = 8 * 2**20
NUM_PIECES = 6
NUM_ROUNDS = 4
PAGES = BYTES // resource.getpagesize()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def pieces():
    return [bytes([number]) * BYTES for number in range(NUM_PIECES)]

def rounds():
    pieces()  # the first are new memory in any case
    before = faults()
    for _ in range(NUM_ROUNDS):
        pieces()
    print((faults() - before) / (NUM_ROUNDS * NUM_PIECES * PAGES))

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

if sys.argv[1] == "keep":
    host_memory.keep()
worker = threading.Thread(target=rounds)
worker.start()
worker.join()
pieces()
before = resident()
host_memory.give_back()
print((before - resident()) / (NUM_PIECES * PAGES))
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's")


def measured(how: str) -> tuple[float, float]:
    """Faults for each page of a thread's pieces; and the share of another thread's pieces that was
    still held after they were freed, and is given back."""
    command = [sys.executable, "-c", WORK, how]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(told[0]), float(told[1])


def test_what_a_thread_frees_is_there_for_its_next_piece() -> None:
    assert measured("default")[0] > 0.5  # otherwise there is nothing to do
    assert measured("keep")[0] < 0.1


def test_what_is_kept_can_be_given_back() -> None:
    assert measured("keep")[1] > 0.9
