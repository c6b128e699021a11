"""What a judgement was about, as digests: whoever has the inputs can compute them again.

Canonical form: JSON (RFC 8259) of what `json.dumps(value, ensure_ascii=True, separators=(",", ":"),
sort_keys=True)` writes, which is ASCII; a digest is the hexadecimal SHA-256 of its bytes.

A prompt is the object of
    images     wire digests of its pictures in order, hexadecimal: SHA-256 of the file that was
               sent, or of "MODE WIDTH HEIGHT\\n" and the pixels for raw ones (see the contract)
    messages   a list of [role, text], role "system", "user" or "assistant"; the text parts of a
               message put together
    reference  the text, or null
    rubric     the text, or null
    v          1
An item is the object of
    candidates its texts: [candidate], or [first, second] of a pair as it was asked for
    prompt     the digest of the prompt
    v          1

Digests are not secrets' keepers: of a short text, whoever can guess it can confirm the guess.
Needs nothing but the standard library.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

VERSION = 1


def prompt_digest(
    messages: Sequence[tuple[str, str]],
    images: Sequence[bytes] = (),
    reference: str | None = None,
    rubric: str | None = None,
) -> str:
    """64 hexadecimal digits. `messages` are (role, text), `images` 32-byte wire digests."""
    return _digest(
        {
            "images": [digest.hex() for digest in images],
            "messages": [list(message) for message in messages],
            "reference": reference,
            "rubric": rubric,
            "v": VERSION,
        }
    )


def item_digest(prompt: str, candidates: Sequence[str]) -> str:
    """64 hexadecimal digits, of one candidate, or of the two of a pair, given the digest of the
    prompt."""
    return _digest({"candidates": list(candidates), "prompt": prompt, "v": VERSION})


def text_digest(text: str) -> str:
    """64 hexadecimal digits: SHA-256 of the text itself in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(value: dict[str, Any]) -> str:
    canonical = json.dumps(value, ensure_ascii=True, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
