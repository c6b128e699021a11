"""How response templates are written: slots in braces, `{^slot}` where one starts a sentence."""

import re

SLOT = re.compile(r"\{(\^?)(\w+)\}")
_START = re.compile(r"(^|[.!?]\s)(\{)?([a-z0-9])")


def sentence_cased(template: str) -> str:
    """For templates written without capitals: every sentence starts with one, and "i" is "I"."""
    cased = _START.sub(lambda m: m[1] + (f"{{^{m[3]}" if m[2] else m[3].upper()), template)
    return re.sub(r"\bi\b(?!\})", "I", cased)


def slots_cased(template: str) -> str:
    """For templates written with capitals: slots that start a sentence get one.

    A template without a single capital letter was written by somebody who uses none.
    """
    literal = SLOT.sub("", template)
    if literal.lower() == literal and any(c.isalpha() for c in literal):
        return template
    return _START.sub(lambda m: m[0] if not m[2] else f"{m[1]}{{^{m[3]}", template)
