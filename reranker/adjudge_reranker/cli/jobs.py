"""What the command is asked to judge: one prompt from its arguments, or many from JSON lines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import grpc

from adjudge_reranker.content import PartLike
from adjudge_reranker.errors import RequestRefused
from adjudge_reranker.evaluation.importers import fields
from adjudge_reranker.evaluation.importers.fields import FieldError, Folder
from adjudge_reranker.evaluation.judge import (
    NOT_AN_IMAGE,
    UNREADABLE_IMAGE,
    NotAnImage,
    read_image,
)
from adjudge_reranker.evaluation.records import BadRecord, Picture
from adjudge_reranker.json_lines import parse_json, read_lines
from adjudge_reranker.pictures import Image, to_image

_KEYS: Final = frozenset({"id", "prompt", "images", "candidates", "pairs"})


class BadInput(ValueError):
    """The message says where and what."""


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt and the candidates to judge."""

    id: Any
    """Whatever the JSON line says, or else its number from 0. None for the one prompt of the
    arguments."""
    prompt: str
    images: tuple[Picture, ...]
    candidates: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...] | None = None
    """Indices into candidates; None for all pairs."""
    is_from_file: bool = False
    """Whether a file names the pictures, and not who runs the command."""

    def parts(self) -> list[PartLike]:
        """The prompt as the client takes it: pictures first, as critics read them. Raises
        RequestRefused, naming the picture, for one that cannot be read, or that a file names and
        that is none by its first bytes."""
        return [*map(self._image, range(len(self.images))), self.prompt]

    def _image(self, index: int) -> Image:
        picture = self.images[index]
        try:
            return read_image(picture) if self.is_from_file else to_image(picture)
        except NotAnImage as error:
            raise _refusal(NOT_AN_IMAGE, index, error) from error
        except (OSError, ValueError) as error:
            raise _refusal(UNREADABLE_IMAGE, index, error) from error

    def compared_pairs(self) -> tuple[tuple[int, int], ...]:
        if self.pairs is not None:
            return self.pairs
        return tuple(combinations(range(len(self.candidates)), 2))


@dataclass(frozen=True, slots=True)
class Source:
    """Where the jobs come from: the options of the command line, as given."""

    prompt: str | None
    images: Sequence[Path]
    candidates: Sequence[str]
    candidates_file: str | None
    """One candidate a line; "-" is standard input."""
    input_file: str | None
    """JSON lines; "-" is standard input."""
    images_folder: Path | None = None
    """Where paths of pictures in the JSON lines start; None: where the file is, or for standard
    input the working directory."""
    images_anywhere: bool = False
    """Whether they may lead out of it."""


def read_jobs(source: Source) -> list[Job]:
    """All of them, so that a mistake in the last line is found before anything is judged.

    Raises BadInput.
    """
    if source.input_file is not None:
        if source.prompt or source.images or source.candidates or source.candidates_file:
            raise BadInput("--input brings its own prompts and candidates; give nothing else")
        return _read_input(source, source.input_file)
    if source.images_folder is not None or source.images_anywhere:
        raise BadInput("--images and --images-anywhere are for the pictures that an --input names")
    if source.prompt is None:
        raise BadInput("give a --prompt with candidates, or an --input of JSON lines")
    if source.candidates and source.candidates_file:
        raise BadInput("give the candidates as arguments or as --candidates, not both")
    candidates = source.candidates
    if source.candidates_file:
        candidates = _read_lines(source.candidates_file)
    if not candidates:
        raise BadInput("there are no candidates to judge")
    try:
        for text in (source.prompt, *candidates):
            text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"not valid UTF-8: {error.reason}") from error
    return [Job(None, source.prompt, tuple(source.images), tuple(candidates))]


def _read_input(source: Source, path: str) -> list[Job]:
    # What is no file, such as a pipe that a shell made, lies nowhere in particular.
    start = source.images_folder or (Path(path).parent if Path(path).is_file() else Path())
    try:
        jobs = list(_json_jobs(_read_lines(path), path, Folder(start, source.images_anywhere)))
    except BadRecord as error:
        raise BadInput(str(error)) from error
    if not jobs:
        raise BadInput(f"{path}: there are no prompts in it")
    return jobs


def _refusal(reason: str, index: int, error: Exception) -> RequestRefused:
    return RequestRefused(
        str(error),
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason=reason,
        metadata={"field": f"images[{index}]"},
    )


def _read_lines(path: str) -> list[str]:
    try:
        return read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {error}") from error


def _json_jobs(lines: Sequence[str], path: str, folder: Folder) -> Iterator[Job]:
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        place = f"line {number + 1}"
        try:
            yield _json_job(parse_json(line), number, folder)
        except FieldError as error:
            raise BadRecord(path, error.problem, place=place, field=error.field) from error
        except ValueError as error:
            raise BadRecord(path, f"not JSON: {error}", place=place) from error


def _json_job(value: Any, number: int, folder: Folder) -> Job:
    if not isinstance(value, dict):
        raise FieldError(None, "not a JSON object")
    # A misspelt "images" would otherwise be judged without its pictures, and nobody would know.
    if unknown := sorted(value.keys() - _KEYS):
        raise FieldError(unknown[0], f"is not known here; known are {', '.join(sorted(_KEYS))}")
    candidates = fields.texts(value, "candidates")
    return Job(
        id=fields.json_value(value, "id", number),
        prompt=fields.text(value, "prompt"),
        images=fields.pictures(value, "images", folder),
        candidates=candidates,
        pairs=_pairs(value["pairs"], len(candidates)) if "pairs" in value else None,
        is_from_file=True,
    )


def _pairs(value: Any, num_candidates: int) -> tuple[tuple[int, int], ...]:
    def is_index(index: Any) -> bool:
        return type(index) is int and 0 <= index < num_candidates

    def is_pair(pair: Any) -> bool:
        return isinstance(pair, list) and len(pair) == 2 and all(map(is_index, pair))

    if not isinstance(value, list) or not value or not all(map(is_pair, value)):
        raise FieldError("pairs", "must be a list of [first, second], indices into the candidates")
    return tuple((first, second) for first, second in value)
