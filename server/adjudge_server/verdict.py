"""Finds the verdict in what the critic wrote. Only to know where to read: the number itself comes
from the log-probabilities there, never from the words."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from adjudge_server.critic import Written
from adjudge_server.templates import Template, VerdictPlace

_LOOKBEHIND = 2
"""Characters before a verdict that decide whether it is one."""


@dataclass(frozen=True, slots=True)
class Located:
    """Where a verdict stands."""

    start: int
    """Where its opening begins, in characters of the critique."""
    opening: str
    """Which of the template's openings it is."""


class Locator:
    """Finds the verdict while the critic writes, in time linear in what it writes.

    A verdict is one of the template's openings and one of its forms. It is no part of a longer word
    or number ("Score: 8.5" is no 8) and stands after the template's `after`, if there is one. Of
    several that share characters, the one that begins first counts, then the one with the longer
    opening, then with the longer form. So a verdict is known only once what follows can change none
    of that: the next character is there, or two if that is a full stop after a digit, and no other
    verdict that begins where it does or before is half written; or the critic has ended.
    """

    def __init__(self, template: Template) -> None:
        self._grammar = _grammar(template)
        self._place = template.verdict
        self._awaited = template.after
        self._text = ""
        """The end of what was written, long enough to hold a verdict that is not complete."""
        self._before = 0
        """Characters written before `_text`."""
        self._searched = 0
        """Up to here no further verdict begins, in characters of the critique."""
        self._found: Located | None = None
        self._over = False
        """Whether the critique has begun with something else than a verdict, where one must."""

    def feed(self, text: str) -> Located | None:
        """Takes the next piece. Returns the verdict if it is known now; where the last verdict
        counts, it is not before the end."""
        self._text += text
        self._search(ended=False)
        return None if self._place is VerdictPlace.LAST else self._found

    def end(self) -> Located | None:
        """The verdict, now that the critic has ended its turn."""
        self._search(ended=True)
        return self._found

    def _search(self, *, ended: bool) -> None:
        if not self._past_awaited():
            return
        if self._place is VerdictPlace.START:
            self._look_at_start(ended=ended)
            return
        while self._found is None or self._place is VerdictPlace.LAST:
            # The first characters are there to be looked back at, unless they are the critique's.
            start = max(self._searched - self._before, _LOOKBEHIND if self._before else 0)
            match = self._grammar.pattern.search(self._text, start)
            if match is None or not (ended or self._is_decided(match, start)):
                break
            self._found = Located(self._before + match.start(), match.group(1))
            self._searched = self._before + match.end()
        self._forget(self._grammar.reach)

    def _look_at_start(self, *, ended: bool) -> None:
        if self._over or self._found:
            return
        start = max(self._searched - self._before, 0)
        start += len(self._text[start:]) - len(self._text[start:].lstrip())
        match = self._grammar.pattern.match(self._text, start)
        if match and (ended or self._is_decided(match, start)):
            self._found = Located(self._before + match.start(), match.group(1))
        self._over = ended or len(self._text) - start >= self._grammar.reach

    def _past_awaited(self) -> bool:
        if self._awaited:
            place = self._text.find(self._awaited)
            if place < 0:
                self._forget(len(self._awaited))
                return False
            self._searched = self._before + place + len(self._awaited)
            self._awaited = ""
        return True

    def _is_decided(self, match: re.Match[str], start: int) -> bool:
        following = self._text[match.end() : match.end() + 2]
        may_be_decimals = following == "." and match.group()[-1].isdigit()
        if not following or may_be_decimals:
            return False
        earliest = max(start, len(self._text) - self._grammar.longest)
        rivals = range(earliest, match.start() + 1)
        return not any(self._grammar.is_half(self._text[place:]) for place in rivals)

    def _forget(self, keep: int) -> None:
        surplus = max(len(self._text) - keep, 0)
        self._text = self._text[surplus:]
        self._before += surplus


def boundary(written: Sequence[Written], start: int) -> tuple[int, int]:
    """How many tokens lie before a place in the text, and how many characters they hold.

    The last end of a token at or before the place; never within a character whose bytes are spread
    over several tokens.
    """
    tokens = characters = total = 0
    for count, step in enumerate(written, 1):
        total += len(step.text)
        if total > start:
            break
        if step.text:
            tokens, characters = count, total
    return tokens, characters


@dataclass(frozen=True, slots=True)
class _Grammar:
    """What the verdicts of a template look like."""

    pattern: re.Pattern[str]
    """A verdict; its group is the opening."""
    openings: tuple[str, ...]
    half_forms: frozenset[str]
    """Every beginning of a form that is not all of it."""
    longest: int
    """Characters of the longest verdict."""

    @property
    def reach(self) -> int:
        """Characters that decide whether a verdict begins at a place, two after it among them."""
        return _LOOKBEHIND + self.longest + 2

    def is_half(self, text: str) -> bool:
        """Whether all of the text is the beginning of a longer verdict."""
        return any(
            opening.startswith(text)
            or (text.startswith(opening) and text[len(opening) :] in self.half_forms)
            for opening in self.openings
        )


@lru_cache(maxsize=64)
def _grammar(template: Template) -> _Grammar:
    forms = {form for answer in template.answers for form in answer.forms}
    pattern = re.compile(
        r"(?:(?![0-9A-Za-z])|(?<![0-9A-Za-z])(?<![0-9]\.))"
        rf"({_alternatives(set(template.openings))})(?:{_alternatives(forms)})"
        r"(?![0-9A-Za-z])(?!(?<=[0-9])\.[0-9])"
    )
    return _Grammar(
        pattern=pattern,
        openings=template.openings,
        half_forms=frozenset(form[:n] for form in forms for n in range(len(form))),
        longest=max(map(len, template.openings)) + max(map(len, forms), default=0),
    )


def _alternatives(texts: set[str]) -> str:
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return "|".join(map(re.escape, longest_first))
