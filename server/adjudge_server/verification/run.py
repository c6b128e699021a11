"""The verification as a whole: from a configuration to a report."""

import platform
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from adjudge_server import loading, self_check
from adjudge_server.config import Config
from adjudge_server.critic import Critic, Query, Reading
from adjudge_server.errors import AdjudgeError
from adjudge_server.misconfigured import Misconfigured
from adjudge_server.planning import plan
from adjudge_server.templates import Kind, Readout, RewardKind, Template
from adjudge_server.verification import measure, questions
from adjudge_server.verification.report import Fact, Report, Section

COMPANY_TOLERANCE = {"float64": 1e-9, "float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
"""Nats (of a scalar head: its units) by which company may change a reading before something is
wrong."""
OWN_UNIT = "of its own unit"
UNITS = {
    RewardKind.EXPECTED: "points",
    RewardKind.LOG_ODDS: "nats",
    RewardKind.SCALAR: OWN_UNIT,
}
COUNTS = (1, 8, 32)
PACKAGES = ("adjudge", "torch", "transformers", "tokenizers", "safetensors", "pillow", "numpy")
MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True)
class _Subject:
    """A critic under verification."""

    critic: Critic[Any]
    max_critique_tokens: int

    @property
    def speaks(self) -> bool:
        """Whether it answers in words, and not by a head of its own."""
        return any(template.answers for template in self.critic.card.templates)

    @property
    def unit(self) -> str:
        """Of what it reads."""
        return "nats" if self.speaks else OWN_UNIT

    def template(self, kind: Kind) -> Template | None:
        return self.critic.card.default_template(kind)


def verify(config: Config) -> Report:
    """Loads the critic and asks it everything. Raises ValueError where it cannot be loaded, and for
    the fake one. What then fails is a failed line of the report."""
    if config.critic == "fake":
        raise Misconfigured("the fake critic has nothing to verify")
    planned = plan(config)
    began = time.perf_counter()
    critic = loading.load_planned(planned)
    seconds = time.perf_counter() - began
    subject = _Subject(critic, config.max_critique_tokens)
    sections = [
        Section("This machine", list(_machine())),
        Section("What was loaded", list(_loaded(planned.directory, critic, seconds))),
        _section("Its first answers", _first_answers(subject)),
        *_sevens(subject),
    ]
    if subject.speaks:
        sections.append(_section("Which verdict form it speaks, likeliest first", _forms(subject)))
        sections.append(_section("Direct against after a critique", _agreement(subject)))
    sections.append(_section("Does company matter?", _company(subject)))
    sections.append(_section("Speed and memory", chain(_speed(subject), _memory(critic))))
    return Report(f"Verification of {critic.card.name}", sections)


def _section(title: str, facts: Iterator[Fact]) -> Section:
    """As far as it can be measured: whatever a model raises, the other sections still come."""
    measured = []
    try:
        for fact in facts:
            measured.append(fact)
    except Exception as error:
        note = f"{type(error).__name__}: {error}"
        measured.append(Fact("could be measured", False, note=note, passed=False))
    return Section(title, measured)


def _machine() -> Iterator[Fact]:
    yield Fact(
        "system", f"{platform.system()} {platform.release()}, Python {sys.version.split()[0]}"
    )
    for package in PACKAGES:
        try:
            yield Fact(package, version(package))
        except PackageNotFoundError:
            yield Fact(package, None, note="not installed as a package")
    import torch

    yield Fact("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else "none")


def _loaded(directory: Path, critic: Critic[Any], seconds: float) -> Iterator[Fact]:
    card = critic.card
    files = sorted(directory.glob("*.safetensors"))
    yield Fact("family", card.family)
    yield Fact("layout", loading.layout_of(directory))
    yield Fact("fingerprint", card.fingerprint)
    yield Fact("weights", sum(f.stat().st_size for f in files) / MEBIBYTE, "MiB", _plural(files))
    yield Fact("tensors missing, unexpected or mis-shaped", 0, passed=True)
    yield Fact("loading", seconds, "s", "fingerprint included")
    yield Fact("number type", f"{card.dtype} on {card.device}")
    yield Fact("input", card.max_input_tokens, "tokens at most")
    yield Fact("templates", ", ".join(f"{t.name} v{t.version}" for t in card.templates))


def _plural(files: Sequence[Path]) -> str:
    return f"{len(files)} file{'s' if len(files) != 1 else ''}"


def _first_answers(subject: _Subject) -> Iterator[Fact]:
    checked = self_check.check(subject.critic)
    yield Fact("every number is finite", True, passed=True)
    yield Fact("batched against single", checked.batched_difference, subject.unit)
    yield Fact("noise floor of margins", checked.noise_floor, subject.unit)
    title = "prefers a right answer to a wrong one"
    if not self_check.read_directly(subject.critic.card):
        yield Fact(title, None, note="all templates are read after a critique only: see below")
        return
    off_format = "off the format of its templates" if checked.prefers_right is None else ""
    yield Fact(title, checked.prefers_right, note=off_format, passed=bool(checked.prefers_right))


def _sevens(subject: _Subject) -> Iterator[Section]:
    for kind in Kind:
        if template := subject.template(kind):
            yield _seven(subject, template)


def _seven(subject: _Subject, template: Template) -> Section:
    """What it says of the known question, and in which words. What cannot be read directly is read
    from its critique."""
    critic, is_direct = subject.critic, Readout.DIRECT in template.readouts
    queries = _known_queries(critic, template)
    asked = [] if not template.answers else queries[:2] if is_direct else queries
    critiques = [measure.critique(critic, query, subject.max_critique_tokens) for query in asked]
    readings: Sequence[Reading | AdjudgeError]
    readings = measure.readings(critic, queries) if is_direct else [c.reading for c in critiques]
    values = [measure.reward(template, reading) for reading in readings]
    facts = [
        _fact(f"{template.name}: {_short(query)}", value, _unit(template))
        for query, value in zip(queries, values, strict=True)
    ]
    title = "the right answer is preferred to the wrong one"
    better, worse = values[:2]
    if isinstance(better, float) and isinstance(worse, float):
        how = "" if is_direct else "read after its critiques"
        facts.append(Fact(title, better > worse, note=how, passed=better > worse))
    else:
        facts.append(Fact(title, None, note="not read", passed=False))
    words = [(_short(q), c.text) for q, c in zip(queries[:2], critiques, strict=False)]
    name = questions.known(critic.card).name.capitalize()
    return Section(f"{name}, {template.kind.value}", facts, words)


def _known_queries(critic: Critic[Any], template: Template) -> list[Query]:
    """About the known question; the first of them is to win over the second."""
    known = questions.known(critic.card)
    if template.kind is Kind.POINTWISE:
        return questions.score_queries(critic.card, template, known.answers)
    pairs = [(known.right, known.wrong), (known.wrong, known.right)]
    return questions.pair_queries(critic.card, template, pairs)


def _unit(template: Template) -> str:
    """Of what `measure.reward` gives."""
    return "nats" if template.kind is Kind.PAIRWISE else UNITS[template.reward]


def _fact(name: str, value: float | AdjudgeError, unit: str) -> Fact:
    if isinstance(value, AdjudgeError):
        return Fact(name, None, note=value.message)
    return Fact(name, value, unit)


def _short(query: Query) -> str:
    return " / ".join(f"{c[:24]}…" if len(c) > 25 else repr(c) for c in query.candidates)


def _forms(subject: _Subject) -> Iterator[Fact]:
    """Each template by itself: under another prompt the same words have another probability."""
    for template in subject.critic.card.templates:
        if not template.answers:
            continue
        for rank, form in enumerate(measure.forms(subject.critic, template)):
            is_other = rank == 0 and template.opening and form.text != repr(template.opening)
            yield Fact(
                f"{template.name if rank == 0 else '':<28} {form.text}",
                form.log_probability,
                "nats",
                f"likelier than {template.opening!r}, which is prefilled" if is_other else "",
            )


def _agreement(subject: _Subject) -> Iterator[Fact]:
    """Rewards by both readouts, of the first pointwise template that offers both."""
    critic = subject.critic
    both = (
        template
        for template in critic.card.templates
        if template.kind is Kind.POINTWISE and set(Readout) <= set(template.readouts)
    )
    template = next(both, None)
    if template is None:
        yield Fact("rewards by both readouts", None, note="no template offers both")
        return
    queries = _known_queries(critic, template)
    differences = []
    for query, reading in zip(queries, measure.readings(critic, queries), strict=True):
        direct = measure.reward(template, reading)
        written = measure.critique(critic, query, subject.max_critique_tokens)
        after = measure.reward(template, written.reading)
        yield _fact(f"after {written.num_tokens} tokens: {_short(query)}", after, _unit(template))
        if isinstance(after, float) and isinstance(direct, float):
            differences.append(abs(after - direct))
    if differences:
        yield Fact("largest difference of the two", max(differences), _unit(template))


def _company(subject: _Subject) -> Iterator[Fact]:
    critic = subject.critic
    queries = [query for t in critic.card.templates for query in _known_queries(critic, t)]
    difference = measure.company(critic, queries)
    tolerance = COMPANY_TOLERANCE.get(critic.card.dtype, 1e-3)
    yield Fact(
        f"largest change of {'a log-probability' if subject.speaks else 'a reward'}",
        difference,
        subject.unit,
        f"{len(queries)} queries, alone and in batches; at most {tolerance:g}",
        passed=bool(np.isfinite(difference)) and difference <= tolerance,
    )


def _speed(subject: _Subject) -> Iterator[Fact]:
    template = subject.template(Kind.POINTWISE)
    if template is None:
        return
    for count in COUNTS:
        seconds = measure.seconds_per_candidate(subject.critic, template, count)
        name = f"{count} candidate{'s' if count > 1 else ''} of one prompt"
        yield Fact(name, 1000 * seconds, "ms each")


def _memory(critic: Critic[Any]) -> Iterator[Fact]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    yield Fact("memory of the process, peak", peak / MEBIBYTE, "MiB")
    if critic.card.device.startswith("cuda"):
        import torch

        yield Fact("memory of the GPU, peak", torch.cuda.max_memory_allocated() / MEBIBYTE, "MiB")
