"""The input of mining: JSON lines, one prompt with its candidates each, read without holding them.

A file is read twice: once to check every line before anything is judged, and once to mine.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adjudge_reranker.evaluation.importers import fields
from adjudge_reranker.evaluation.importers.fields import FieldError, Folder
from adjudge_reranker.evaluation.records import BadRecord
from adjudge_reranker.json_lines import parse_json

_KEYS: Final = frozenset({"id", "prompt", "images", "candidates"})
_ROLES: Final = frozenset({"system", "user", "assistant", "tool"})
"""Those that TRL knows."""

Chat = list[dict[str, Any]]
"""Messages, each with a role and a content: a text, or a list of text and image parts."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One line of the input."""

    number: int
    """Of the line, from 0, blank ones included."""
    id: Any
    """Whatever the line says, or else its number."""
    prompt: str | Chat
    images: tuple[Path, ...]
    candidates: tuple[str | Chat, ...]
    """At least one, or none where they are still to be generated. A chat is one message of the
    assistant, of text only."""

    @property
    def texts(self) -> tuple[str, ...]:
        """What each candidate says."""
        return tuple(
            one if isinstance(one, str) else _joined(one[0]["content"]) for one in self.candidates
        )


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A file in which every line is sound, and what its lines have in common."""

    path: Path
    folder: Folder
    digest: str
    """SHA-256 of the file, hex."""
    num_lines: int
    num_prompts: int
    has_images: bool
    """Whether any prompt has pictures."""
    has_chats: bool
    """Whether any prompt or candidate is a chat."""
    has_parts: bool
    """Whether any message's content is a list of parts."""
    with_candidates: bool = True
    """False of a file whose candidates are still to be generated."""

    @classmethod
    def check(
        cls,
        path: Path,
        images: Path | None = None,
        *,
        images_anywhere: bool = False,
        with_candidates: bool = True,
    ) -> "PromptFile":
        """Reads all of it. Paths of pictures start from `images`, or else from the file's folder,
        and lead out of it only if `images_anywhere`: what they name is sent to the server. Every
        line has candidates, or none has.

        Raises BadRecord, naming the line and the field.
        """
        folder = Folder(images if images is not None else path.parent, images_anywhere)
        digest = hashlib.sha256()
        num_lines = num_prompts = 0
        has_images = has_chats = has_parts = False
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file):
                    digest.update(line)
                    num_lines += 1
                    prompt = _parsed(path, number, line, folder, with_candidates=with_candidates)
                    if prompt is None:
                        continue
                    num_prompts += 1
                    has_images |= bool(prompt.images)
                    chats = [
                        one for one in (prompt.prompt, *prompt.candidates) if isinstance(one, list)
                    ]
                    has_chats |= bool(chats)
                    has_parts |= any(isinstance(m["content"], list) for chat in chats for m in chat)
        except OSError as error:
            raise BadRecord(str(path), f"cannot be read: {error}") from error
        if not num_prompts:
            raise BadRecord(str(path), "there are no prompts in it")
        return cls(
            path,
            folder,
            digest.hexdigest(),
            num_lines,
            num_prompts,
            has_images,
            has_chats,
            has_parts,
            with_candidates,
        )

    def prompts(self) -> Iterator[Prompt]:
        """Each, in order. Raises BadRecord if the file is not what it was, and OSError."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file):
                prompt = _parsed(
                    self.path,
                    number,
                    line,
                    self.folder,
                    with_candidates=self.with_candidates,
                    check_files=False,
                )
                if prompt is not None:
                    yield prompt


def _parsed(
    path: Path,
    number: int,
    line: bytes,
    folder: Folder,
    *,
    with_candidates: bool,
    check_files: bool = True,
) -> Prompt | None:
    """None for a blank line."""
    place = f"line {number + 1}"
    try:
        text = line.decode("utf-8-sig" if number == 0 else "utf-8")
        if not text.strip():
            return None
        value = parse_json(text)
        return _prompt(
            value, number, folder, with_candidates=with_candidates, check_files=check_files
        )
    except FieldError as error:
        raise BadRecord(str(path), error.problem, place=place, field=error.field) from error
    except ValueError as error:
        raise BadRecord(str(path), f"not JSON: {error}", place=place) from error


def _prompt(
    value: Any, number: int, folder: Folder, *, with_candidates: bool, check_files: bool
) -> Prompt:
    if not isinstance(value, dict):
        raise FieldError(None, "not a JSON object")
    # A misspelt "images" would otherwise be judged without its pictures, and nobody would know.
    if unknown := sorted(value.keys() - _KEYS):
        raise FieldError(unknown[0], f"is not known here; known are {', '.join(sorted(_KEYS))}")
    candidates = value.get("candidates", [])
    if not with_candidates and candidates:
        raise FieldError("candidates", "are there already, so none are generated")
    if not isinstance(candidates, list) or (with_candidates and not candidates):
        raise FieldError("candidates", "must be a list of at least one")
    if check_files:
        fields.pictures(value, "images", folder)
    images = tuple(folder.path / one for one in value.get("images") or ())
    prompt = _text_or_chat(value, "prompt")
    if isinstance(prompt, list):
        _check_places(prompt, len(images))
    return Prompt(
        number,
        fields.json_value(value, "id", number),
        prompt,
        images,
        tuple(_candidate(one, f"candidates[{i}]") for i, one in enumerate(candidates)),
    )


def _candidate(value: Any, field: str) -> str | Chat:
    candidate = _text_or_chat({field: value}, field)
    if isinstance(candidate, list):
        if len(candidate) != 1 or candidate[0]["role"] != "assistant":
            raise FieldError(field, "must be a string, or a list of one message of the assistant")
        if _num_images(candidate):
            raise FieldError(field, "must be of text only")
    return candidate


def _text_or_chat(row: fields.Row, field: str) -> str | Chat:
    value = row.get(field)
    if not isinstance(value, list):
        return fields.text(row, field)
    if not value:
        raise FieldError(field, "has no message")
    for index, message in enumerate(value):
        _check_message(message, f"{field}[{index}]")
    return value


def _check_message(message: Any, field: str) -> None:
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        raise FieldError(field, "must be a message: an object with a role and a content")
    if message["role"] not in _ROLES:
        raise FieldError(f"{field}.role", f"must be one of {', '.join(sorted(_ROLES))}")
    content = message["content"]
    if not isinstance(content, list):
        fields.text({f"{field}.content": content}, f"{field}.content")
        return
    for index, part in enumerate(content):
        name = f"{field}.content[{index}]"
        if part == {"type": "image"}:
            continue
        if not isinstance(part, dict) or part.keys() != {"type", "text"} or part["type"] != "text":
            raise FieldError(
                name,
                'must be {"type": "text", "text": ...} or {"type": "image"}, with its picture'
                ' in "images"',
            )
        fields.text({name: part["text"]}, name)


def _check_places(chat: Chat, num_images: int) -> None:
    places = _num_images(chat)
    if places and places != num_images:
        raise FieldError("prompt", f"has {places} image parts for {num_images} pictures")
    if num_images and not places and all(message["role"] != "user" for message in chat):
        raise FieldError("prompt", "has no message of the user to put the pictures in")


def _num_images(chat: Chat) -> int:
    contents = [one["content"] for one in chat if isinstance(one["content"], list)]
    return sum(part["type"] == "image" for content in contents for part in content)


def _joined(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def canonical(value: Any) -> bytes:
    """JSON in one spelling, for digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
