"""Finds the verdict in what the critic wrote. Only to know where to read: the number itself comes
from the log-probabilities there, never from the words."""

import re
from functools import lru_cache

from adjudge_server.templates import Template


def locate(template: Template, text: str, *, ended: bool) -> int | None:
    """Where the first verdict in `text` begins (its opening, in characters), or None.

    While the critic may still write (`ended` false), a score counts only once something that is not
    part of it follows: after "Score: 8" the next token may be "5".
    """
    match = _grammar(template).search(text)
    if match is None or (match.end() == len(text) and not ended):
        return None
    return match.start()


@lru_cache(maxsize=64)
def _grammar(template: Template) -> re.Pattern[str]:
    forms = {form for answer in template.answers for form in answer.forms}
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    alternatives = "|".join(map(re.escape, longest_first))
    return re.compile(f"{re.escape(template.opening)}(?:{alternatives})(?![0-9A-Za-z])")
