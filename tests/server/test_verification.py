"""`adjudge-server verify`: what it says of a sound critic, and of one that is not."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adjudge_server.config import Config
from adjudge_server.loading import load_critic
from adjudge_server.template_sets import templates_of
from adjudge_server.verification import measure, questions
from adjudge_server.verification.report import Fact, Report, Section
from adjudge_server.verification.run import OWN_UNIT, verify
from tests.golden.test_golden import GOLDEN
from tests.server import checkpoints


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "adjudge_server", "verify", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def report() -> Report:
    return verify(Config(max_critique_tokens=48))


def facts(report: Report, title: str) -> dict[str, Fact]:
    (section,) = (s for s in report.sections if s.title.startswith(title))
    return {fact.name: fact for fact in section.facts}


def test_the_embedded_critic_passes(report: Report) -> None:
    assert report.passed
    assert report.as_text().endswith("all is well")
    first = facts(report, "Its first answers")
    assert first["prefers a right answer to a wrong one"].value is True


def test_it_tells_what_was_loaded(report: Report) -> None:
    loaded = facts(report, "What was loaded")
    assert loaded["layout"].value == "transformers"
    assert len(str(loaded["fingerprint"].value)) == 64
    assert loaded["number type"].value == "float32 on cpu"


def test_the_seven_is_judged_in_the_critics_own_words(report: Report) -> None:
    for kind in ("pointwise", "pairwise"):
        (section,) = (s for s in report.sections if s.title == f"The seven, {kind}")
        assert all(isinstance(fact.value, float | bool) for fact in section.facts)
        assert all(written for _, written in section.words)
        assert len(section.words) == 2


def test_the_form_that_the_critic_speaks_is_the_likeliest(report: Report) -> None:
    forms = facts(report, "Which verdict form")
    values = {name[name.index("'") :]: fact.value for name, fact in forms.items()}
    assert set(values) == {
        "'Score: '",
        "'The first response is better'",
        "'The second response is better'",
        "'The two responses are equally good'",
    }
    assert all(isinstance(value, float) and value <= 1e-6 for value in values.values())
    likely = -0.7  # nats: more probable than everything else together
    assert [name for name, value in values.items() if float(str(value)) > likely] == [
        "'Score: '",
        "'The first response is better'",
    ]


def test_both_readouts_of_a_critic_that_speaks_first_agree(report: Report) -> None:
    agreement = facts(report, "Direct against after a critique")
    difference = agreement["largest difference of the two"].value
    assert isinstance(difference, float)
    assert difference < 1e-3


def test_speed_is_told_for_each_number_of_candidates(report: Report) -> None:
    speed = facts(report, "Speed and memory")
    assert all(isinstance(fact.value, float) and fact.value > 0 for fact in speed.values())
    assert len(speed) == 4


def test_the_page_and_the_json_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "verification.json"
    done = run("--max-critique-tokens", "16", "--json", str(path))
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(path.read_text())
    assert told["passed"]
    for section in told["sections"]:
        assert section["title"] in done.stdout
        for fact in section["facts"]:
            assert fact["name"] in done.stdout


def test_weights_that_judge_nothing_fail_and_say_why() -> None:
    done = run("--model", str(GOLDEN.folder / "checkpoint"), "--vision-heads", "4",
               "--max-critique-tokens", "8")  # fmt: skip
    assert done.returncode == 1
    assert "original LLaVA-NeXT" in done.stdout
    assert "FAIL prefers a right answer to a wrong one" in done.stdout
    assert done.stdout.rstrip().endswith("SOMETHING IS WRONG: see the lines marked FAIL")


AFTER = """
[[template]]
name = "mine/{kind}"
version = 1
kind = "{kind}"
text = '''{text}'''
opening = "{opening}"
readouts = ["after-critique"]
terminators = [".", "\\n"]
{answers}
"""


@pytest.fixture
def after(tmp_path: Path) -> Path:
    """The embedded critic's own templates, read after a critique only."""
    pointwise, pairwise = templates_of("embedded")
    tables = [
        AFTER.format(
            kind=template.kind.value,
            text=template.text,
            opening=template.opening,
            answers=answers,
        )
        for template, answers in (
            (pointwise, "scores = {lowest = 0, highest = 100}"),
            (
                pairwise,
                "verdicts = "
                + "{"
                + ", ".join(f"{a.label} = {json.dumps(a.forms)}" for a in pairwise.answers)
                + "}",
            ),
        )
    ]
    path = tmp_path / "after.toml"
    path.write_text("".join(tables), encoding="utf-8")
    return path


def test_what_is_read_after_a_critique_only_is_read_from_its_critiques(
    after: Path, report: Report
) -> None:
    told = verify(Config(templates=after, max_critique_tokens=48))
    assert told.passed
    directly = facts(report, "The seven, pointwise")
    for kind, num_values in (("pointwise", 5), ("pairwise", 2)):
        read = facts(told, f"The seven, {kind}")
        assert len(read) == num_values + 1
        assert all(isinstance(fact.value, float | bool) for fact in read.values())
        right = read["the right answer is preferred to the wrong one"]
        assert right.value is True and "critique" in right.note
    for name, fact in facts(told, "The seven, pointwise").items():
        expected = directly[name.replace("mine/", "embedded/")].value
        assert fact.value == pytest.approx(expected, abs=1e-3), "it speaks first, so it is the same"
    assert facts(told, "Its first answers")["prefers a right answer to a wrong one"].value is True
    agreement = facts(told, "Direct against after a critique")
    assert "largest difference of the two" in agreement, "of another template, which offers both"


def test_a_critic_that_never_comes_to_its_verdict_is_told_from_one_off_its_format() -> None:
    told = verify(Config(template_set="r1-reward", max_critique_tokens=4))
    preference = facts(told, "Its first answers")["prefers a right answer to a wrong one"]
    assert (preference.value, preference.passed) == (None, None)
    assert "after a critique only" in preference.note
    seven = facts(told, "The seven, pairwise")
    right = seven.pop("the right answer is preferred to the wrong one")
    assert not told.passed and right.passed is False
    assert all("before the verdict" in fact.note for fact in seven.values())
    (company,) = facts(told, "Does company matter?").values()
    assert company.passed, "pairs are asked in company too"


def test_a_scalar_head_is_measured_in_its_own_unit(tmp_path: Path) -> None:
    told = verify(Config(model=checkpoints.write_text_model(tmp_path / "rm", scalar=True)))
    units = {
        fact.name: fact.unit
        for title in ("Its first answers", "The sum, pointwise", "Does company matter?")
        for fact in facts(told, title).values()
        if isinstance(fact.value, float)
    }
    assert len(units) == 2 + 5 + 1
    assert set(units.values()) == {OWN_UNIT}
    assert not any("log-probability" in name for name in units)


@pytest.mark.parametrize("path", ["missing/x.json", "."])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    path: str, tmp_path: Path
) -> None:
    done = run("--model", str(tmp_path / "nothing"), "--json", str(tmp_path / path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "--json cannot be written" in done.stderr


def test_a_verification_that_comes_to_nothing_leaves_no_file(tmp_path: Path) -> None:
    path, there = tmp_path / "new.json", tmp_path / "there.json"
    there.write_text("mine")
    for file in (path, there):
        assert run("--critic", "fake", "--json", str(file)).returncode == 2
    assert not path.exists() and there.read_text() == "mine"


def test_what_cannot_be_loaded_is_an_error_on_one_line(tmp_path: Path) -> None:
    done = run("--model", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("adjudge-server verify: --model ")
    assert "Traceback" not in done.stderr


def test_one_failed_fact_fails_the_report() -> None:
    sound = Section("a", [Fact("x", 1.0, passed=True), Fact("y", None, note="not measured")])
    assert Report("r", [sound]).passed
    broken = Section("b", [Fact("z", 2.0, passed=False)])
    assert not Report("r", [sound, broken]).passed
    assert "FAIL z" in Report("r", [sound, broken]).as_text()


def test_a_number_that_is_none_does_not_pass_for_no_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    critic = load_critic(Config(critic="fake"))
    template = critic.card.templates[0]
    queries = questions.score_queries(critic.card, template, questions.known(critic.card).answers)
    assert measure.company(critic, queries) == 0
    forward = type(critic).forward

    def broken_in_company(self: Any, batch: Any) -> Any:
        readings = forward(self, batch)
        if len(batch) > 1:
            readings[-1].answer_log_probs[3] = float("nan")
        return readings

    monkeypatch.setattr(type(critic), "forward", broken_in_company)
    assert math.isnan(measure.company(critic, queries))


def test_the_fake_critic_is_not_verified() -> None:
    done = run("--critic", "fake")
    assert done.returncode == 2
    assert "nothing to verify" in done.stderr


def test_what_a_model_raises_fails_a_line_and_not_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(measure, "company", raises)
    broken = verify(Config(max_critique_tokens=4))
    assert not broken.passed
    (failed,) = facts(broken, "Does company matter?").values()
    assert "out of memory" in failed.note
    assert facts(broken, "Speed and memory")
