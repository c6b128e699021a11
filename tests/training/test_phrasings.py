"""The data that says how people put things: clean, and held out where it should be."""

import json
from pathlib import Path

import pytest

from embedded_critic import phrasings
from embedded_critic.rubric import BY_NAME

WRITTEN = sorted(set(BY_NAME) - {"empty"})


@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_held_out_is_trained_on(name: str) -> None:
    trained = {phrasings.key(t) for t in phrasings.training().templates[name]}
    for kept_back in (phrasings.held_out(), phrasings.development()):
        assert kept_back.templates[name]
        if name != "terse":  # a digit and a sign: there are not enough to go round
            assert not trained & {phrasings.key(t) for t in kept_back.templates[name]}


def write_set(folder: Path, templates: dict[str, list[str]]) -> None:
    folder.mkdir(parents=True)
    reasons = {str(d): [] for d in range(10)}
    written = {"categories": templates, "true_reasons": reasons, "false_reasons": reasons}
    (folder / "a.json").write_text(json.dumps(written))


def test_a_held_out_template_is_dropped_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "held_out", {"short": ["it's {a_digit}!"]})
    write_set(tmp_path / "development", {"short": ["Read: {digit}"]})
    write_set(
        tmp_path / "training",
        {"short": ["It's {digit}.", "read {digit}", "It surely is {a_digit}."]},
    )
    monkeypatch.setattr(phrasings, "ROOT", tmp_path)
    for name in ("held_out", "development", "_kept_back"):
        monkeypatch.setattr(phrasings, name, getattr(phrasings, name).__wrapped__)
    assert phrasings.training.__wrapped__().templates["short"] == ("It surely is {a0}.",)


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("short", "It is {digit2}."),
        ("short", "It is {why}."),
        ("vague", "It is {digit}."),
        ("refusal", "{question}"),
        ("hedged_two", "{digit}, {digit2}, {digit3}"),
    ],
)
def test_a_slot_that_the_category_lacks_is_refused(
    tmp_path: Path, name: str, template: str
) -> None:
    write_set(tmp_path / "set", {name: [template]})
    with pytest.raises(ValueError, match=r"a\.json: .* has no slot"):
        phrasings.read([tmp_path / "set/a.json"])


def test_an_unknown_category_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "set", {"shorty": ["It is {digit}."]})
    with pytest.raises(ValueError, match="shorty"):
        phrasings.read([tmp_path / "set/a.json"])


def test_every_digit_has_true_and_false_reasons_in_every_set() -> None:
    for part in (phrasings.training(), phrasings.held_out(), phrasings.development()):
        for true, false in zip(part.true_reasons, part.false_reasons, strict=True):
            assert true and false and not set(true) & set(false)
