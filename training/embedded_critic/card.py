"""Writes the card of a checkpoint from its evaluation: `python -m embedded_critic.card DIR`.

Text and figures in `DIR/README.md` come from `card.md` beside this file and `DIR/evaluation.json`,
so that no figure is copied by hand.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedded_critic.grammar import UNFAMILIAR, UNFAMILIAR_EMPTY
from embedded_critic.rubric import CATEGORIES
from embedded_critic.texts import Wording

TEXT = Path(__file__).with_name("card.md")
Figures = dict[str, Any]
PARTS = {
    "phrasings": "held out",
    "trained": "trained",
    "redrawn": "held out, redrawn",
}
ROWS = (
    ("pairwise accuracy, both orders averaged", "pairwise", "accuracy"),
    ("… one order", "pairwise", "accuracy_one_order"),
    ("… any two responses", "pairwise_any_two", "accuracy"),
    ("… only the digit decides", "pairwise_digit_decides", "accuracy"),
    ("the two orders agree", "pairwise", "order_consistent"),
    ("three-way, ties among them, any two responses", "three_way", "accuracy"),
    ("ties called ties", "three_way", "ties_called_ties"),
    ("unequal responses called ties", "three_way", "unequal_called_ties"),
    ("calibration error of the preference", "preference", "calibration_error"),
    ("position bias, nats: mean", "preference", "position_bias_mean"),
    ("… standard deviation", "preference", "position_bias_sd"),
    ("score against rubric: Pearson", "pointwise", "pearson"),
    ("… Spearman", "pointwise", "spearman"),
    ("… mean absolute error, points", "pointwise", "mean_absolute_error"),
    ("… calibration error, points", "pointwise", "calibration_error"),
    ("same text, two pictures: the right one scores higher", "same_text_two_images", "pointwise"),
    ("… wins", "same_text_two_images", "pairwise"),
    ("control, a picture that shows neither digit: pairwise", "wrong_image_control", "accuracy"),
    ("… Pearson", "wrong_image_control", "pearson"),
    ("blind, another digit's picture: pairwise, any two responses", "blind", "accuracy"),
    ("… Pearson", "blind", "pearson"),
    ("readings the server would refuse as off format", "off_format", "share"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    folder = parser.parse_args().checkpoint
    figures = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    if figures["wording"] != Wording.HELD_OUT.value:
        raise SystemExit("a card takes the figures of `evaluate --exam`")
    (folder / "README.md").write_text(card(figures), encoding="utf-8")


def card(figures: Figures) -> str:
    text = TEXT.read_text(encoding="utf-8")
    parts = {
        "images": str(figures["images"]),
        "rubric": rubric(),
        "phrasings": phrasings(figures),
        "worst": worst(figures["phrasings"]["by_category"]),
        "pictures": pictures(figures["pictures"]),
        "attacks": attacks(figures["attacks"]["wrong_above"]),
        "best_of_n": best_of_n(figures["best_of_n"]),
        "shapes": shapes(figures["shapes"]),
        "seven": seven(figures["seven"]),
    }
    for name, part in parts.items():
        text = text.replace(f"<!-- {name} -->", part)
    return text


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rubric() -> str:
    rows = []
    for category in (*CATEGORIES, UNFAMILIAR, UNFAMILIAR_EMPTY):
        right = str(category.right)
        if category.half_right:
            right += f" ({category.half_right} if only the digit is right)"
        wrong = str(category.wrong) if category.wrong != category.right else ""
        rows.append((category.description, right, wrong))
    return table(("response", "right", "wrong"), rows)


def phrasings(figures: Figures) -> str:
    chosen = {title: figures[name] for name, title in PARTS.items()}
    rows = []
    for title, group, name in ROWS:
        counted = f"{title} (n = {next(iter(chosen.values()))[group]['n']})"
        rows.append((counted, *(_figure(part[group][name]) for part in chosen.values())))
    return table(("", *chosen), rows)


def worst(by_category: Figures) -> str:
    errors = sorted(by_category.items(), key=lambda kv: -kv[1]["mean_absolute_error"])[:8]
    return ", ".join(f"{name} {part['mean_absolute_error']:.0f}" for name, part in errors)


def pictures(kinds: Figures) -> str:
    rows = [
        (kind, str(part["pictures"]), _figure(part["accuracy"]), _figure(part["pointwise"]))
        for kind, part in kinds.items()
    ]
    return table(("pictures", "n", "pairwise", "right text scores higher"), rows)


def attacks(part: Figures) -> str:
    return (
        f"{part['pointwise']:.1%} of {part['n']} by score, {part['pairwise']:.1%} in a comparison"
    )


def best_of_n(sizes: Figures) -> str:
    rows = [
        (
            n,
            *(f"{part[k]:.1f}" for k in ("worth_of_one", "worth_chosen", "worth_oracle")),
            f"{part['share_of_lift']:.1%}",
            *(f"{part[k]:.1%}" for k in ("right_of_one", "right_chosen", "right_oracle")),
            f"{part['share_of_lift_right']:.1%}",
        )
        for n, part in sizes.items()
    ]
    header = ("N", "worth of one", "chosen", "oracle", "share of the lift",
              "one is right", "chosen is", "oracle's is", "share of the lift")  # fmt: skip
    return table(header, rows)


def shapes(part: Figures) -> str:
    rows = [
        ("pairwise accuracy, any two answers", part["pairwise_any_two"]["accuracy"]),
        ("… one word decides", part["pairwise_word_decides"]["accuracy"]),
        ("same picture, same two answers, two questions", _exchanged(part)),
        ("three-way, any two answers", part["three_way"]["accuracy"]),
        ("score against rubric: Pearson", part["pointwise"]["pearson"]),
        ("… Spearman", part["pointwise"]["spearman"]),
    ]
    return table(("", "held out"), [(title, _figure(value)) for title, value in rows])


def _exchanged(part: Figures) -> float:
    return float(part["same_answers_two_questions"]["pairwise"])


def seven(part: Figures) -> str:
    rows = []
    for text, score in part["scores"].items():
        rival = part["margins_of_the_first"].get(text)
        margins = f"{rival['given_order']:+.1f} / {rival['swapped_order']:+.1f}" if rival else ""
        shown = (text if len(text) < 70 else text[:60] + "…") or "(empty)"
        rows.append((shown, f"{score:.1f}", margins))
    return table(("answer", "score", "margins"), rows)


def _figure(value: float) -> str:
    return f"{value:.4f}" if 0 < value < 0.001 else f"{value:.3f}"


if __name__ == "__main__":
    main()
