"""What `generate` and `mine` have in common: a file that outlives the runs that write it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

INTERRUPTED: Final = 130
"""The exit status that shells expect of a program that SIGINT ended."""


@dataclass(frozen=True, slots=True)
class Files:
    """What is read and written: the options of the command line, as given."""

    input: Path
    output: Path
    images: Path | None
    images_anywhere: bool
    accept_changes: bool
    restart: bool
