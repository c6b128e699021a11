"""Names of requests, so that a caller's log and the server's can be laid side by side."""

import re
import secrets

HEADER = "x-request-id"
_SANE = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""Nothing that could end a line, a field or a quotation wherever the id is written."""


def request_id(sent: str | bytes | None) -> str:
    """The caller's, if it is sane; otherwise 16 hexadecimal digits made here."""
    if isinstance(sent, str) and _SANE.fullmatch(sent):
        return sent
    return secrets.token_hex(8)
