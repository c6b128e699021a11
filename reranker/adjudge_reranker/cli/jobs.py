"""What the command is asked to judge: one prompt from its arguments, or many from JSON lines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from adjudge_reranker.content import PartLike
from adjudge_reranker.json_lines import parse_json, read_lines


class BadInput(ValueError):
    """The message says where and what."""


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt and the candidates to judge."""

    id: Any
    """Whatever the JSON line says, or else its number from 0. None for the one prompt of the
    arguments."""
    prompt: str
    images: tuple[Path, ...]
    candidates: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...] | None = None
    """Indices into candidates; None for all pairs."""

    @property
    def parts(self) -> list[PartLike]:
        """The prompt as the client takes it: pictures first, as critics read them."""
        return [*self.images, self.prompt]

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


def read_jobs(source: Source) -> list[Job]:
    """All of them, so that a mistake in the last line is found before anything is judged.

    Raises BadInput.
    """
    if source.input_file is not None:
        if source.prompt or source.images or source.candidates or source.candidates_file:
            raise BadInput("--input brings its own prompts and candidates; give nothing else")
        jobs = list(_json_jobs(_read_lines(source.input_file), source.input_file))
        if not jobs:
            raise BadInput(f"{source.input_file}: there are no prompts in it")
        return jobs
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


def _read_lines(path: str) -> list[str]:
    try:
        return read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {error}") from error


def _json_jobs(lines: Sequence[str], path: str) -> Iterator[Job]:
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            yield _json_job(parse_json(line), number)
        except ValueError as error:
            raise BadInput(f"{path}, line {number + 1}: {error}") from error


def _json_job(value: Any, number: int) -> Job:
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    known = {"id", "prompt", "images", "candidates", "pairs"}
    # A misspelt "images" would otherwise be judged without its pictures, and nobody would know.
    if unknown := sorted(value.keys() - known):
        raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    prompt = value.get("prompt")
    if not isinstance(prompt, str):
        raise ValueError('"prompt" must be a string')
    prompt.encode()
    candidates = _strings(value, "candidates")
    if not candidates:
        raise ValueError('"candidates" must have at least one')
    images = tuple(Path(path) for path in _strings(value, "images"))
    for image in images:
        if not image.is_file():
            raise ValueError(f"no such picture: {image}")
    pairs = _pairs(value["pairs"], len(candidates)) if "pairs" in value else None
    return Job(value.get("id", number), prompt, images, candidates, pairs)


def _strings(value: dict[str, Any], key: str) -> tuple[str, ...]:
    strings = value.get(key, [])
    if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
        raise ValueError(f'"{key}" must be a list of strings')
    for one in strings:
        one.encode()  # a lone surrogate is a ValueError here, before anything is judged
    return tuple(strings)


def _pairs(value: Any, num_candidates: int) -> tuple[tuple[int, int], ...]:
    def is_index(index: Any) -> bool:
        return type(index) is int and 0 <= index < num_candidates

    def is_pair(pair: Any) -> bool:
        return isinstance(pair, list) and len(pair) == 2 and all(map(is_index, pair))

    if not isinstance(value, list) or not value or not all(map(is_pair, value)):
        raise ValueError('"pairs" must be a list of [first, second], indices into the candidates')
    return tuple((first, second) for first, second in value)
