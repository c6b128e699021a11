"""Bearer tokens: a file of them, and whether one that was presented is among them."""

import hashlib
import hmac
import re
from pathlib import Path
from typing import Final

from adjudge_server.access.reloading import Reloaded, read_secret

_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]{16,512}=*")
"""RFC 6750's, of 16 characters at least: a shorter one could be guessed."""


class Tokens:
    """Keeps digests only, so that no dump or repr shows a token."""

    def __init__(self, name: str, contents: bytes) -> None:
        """`contents`: a token a line; empty lines do not count, nor does what follows a "#" that
        begins a line or comes after a space. Raises ValueError, naming the line but not what is on
        it, for what is no token, and if there is none. `name` is what errors call the file."""
        self._name = name
        self._digests = [_digest(token) for token in _tokens(name, contents)]

    def holds(self, presented: bytes) -> bool:
        """Takes equally long whichever it is, and if it is none."""
        digest = _digest(presented)
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found

    def __repr__(self) -> str:
        return f"{self._name}, {len(self._digests)} tokens"


def token_file(path: Path, flag: str) -> Reloaded[Tokens]:
    """Raises ValueError for a file that is unreadable, open to every user, or holds no token."""
    return Reloaded(
        lambda: (read_secret(path, flag),),
        lambda contents: Tokens(f"{flag} {path}", contents[0]),
    )


def _tokens(name: str, contents: bytes) -> list[bytes]:
    tokens = []
    for number, line in enumerate(contents.splitlines(), start=1):
        token = re.split(rb"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if not token:
            continue
        if not _TOKEN.fullmatch(token):
            raise ValueError(
                f"{name}: line {number} is no token: those have 16 to 512 letters, digits or any of"
                ' -._~+/ and no spaces (python -c "import secrets; print(secrets.token_urlsafe())"'
                " makes one)"
            )
        tokens.append(token)
    if not tokens:
        raise ValueError(f"{name}: holds no token")
    return tokens


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
