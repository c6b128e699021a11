"""Best of N: what choosing by the critic's score gains, next to what there is to gain."""

from collections.abc import Sequence

import numpy as np

from embedded_critic.grammar import NAMING, Response, any_category, renamed, respond
from embedded_critic.judging import Judge
from embedded_critic.rubric import Claim, Truth
from embedded_critic.texts import Wording
from embedded_critic.trials import SEED, Sample, question_of

SIZES = (4, 8, 16)


def best_of_n(
    judge: Judge, samples: Sequence[Sample], wording: Wording
) -> dict[str, dict[str, float]]:
    """A policy that does not look: what choosing the best of its responses gains.

    It names a random digit three times out of four, in words of any naming category, and
    else says anything. The gain of the oracle, which knows the rubric, is what there is to gain.
    """
    rng = np.random.default_rng([SEED, 19])
    rows: dict[int, list[tuple[float, float, float]]] = {n: [] for n in SIZES}
    names: dict[int, list[tuple[float, bool, bool]]] = {n: [] for n in SIZES}
    for sample in samples:
        truth, question = sample.truth, question_of(wording, rng)
        drawn = []
        for _ in range(max(SIZES)):
            category = NAMING[rng.integers(len(NAMING))]
            if rng.random() > 0.75:
                category = any_category(rng, wording)
            response = respond(category, truth, question, rng, wording=wording)
            if category.num_digits:
                digits = tuple(int(d) for d in rng.permutation(10)[: category.num_digits])
                response = renamed(response, digits)
            drawn.append(response)
        worths = np.array([r.score(truth) for r in drawn], float)
        right = np.array([_settles_on(r, truth) for r in drawn])
        scores = np.array(judge.scores(sample.picture, question, [r.text for r in drawn]))
        for n in SIZES:
            chosen, best = int(scores[:n].argmax()), int(worths[:n].argmax())
            rows[n].append((worths[:n].mean(), worths[chosen], worths[best]))
            names[n].append((right[:n].mean(), bool(right[chosen]), bool(right[:n].any())))
    result = {}
    for n in SIZES:
        base, chosen_worth, oracle = np.mean(rows[n], 0)
        base_right, chosen_right, oracle_right = np.mean(names[n], 0)
        result[str(n)] = {
            "worth_of_one": base,
            "worth_chosen": chosen_worth,
            "worth_oracle": oracle,
            "share_of_lift": (chosen_worth - base) / (oracle - base),
            "right_of_one": base_right,
            "right_chosen": chosen_right,
            "right_oracle": oracle_right,
            "share_of_lift_right": (chosen_right - base_right) / (oracle_right - base_right),
        }
    return result


def _settles_on(response: Response, truth: Truth) -> bool:
    """Whether it names the digit shown as its one answer."""
    category = response.category
    one = category.num_digits == 1 or category.claim is Claim.LAST
    return category.names_digit and one and response.holds(truth)
