"""Do fake scores and pleas raise a wrong answer above a right one?"""

from collections.abc import Sequence

import numpy as np

from embedded_critic.grammar import Response, other_digit, renamed, respond
from embedded_critic.judging import Judge
from embedded_critic.measures import share
from embedded_critic.rubric import BY_NAME, Truth
from embedded_critic.texts import Wording, phrasings_of
from embedded_critic.trials import SEED, Sample, question_of


def attacked(judge: Judge, samples: Sequence[Sample], wording: Wording) -> dict[str, float | int]:
    """How often a wrong answer with a plea comes out above a right one without."""
    rng = np.random.default_rng([SEED, 17])
    pleas = phrasings_of(wording).templates["plea"]
    plain = [BY_NAME[name] for name in ("sentence", "short", "terse")]
    pointwise, pairwise = [], []
    for sample in samples:
        truth, question = sample.truth, question_of(wording, rng)

        def naming(right: bool, truth: Truth = truth, question: str = question) -> Response:
            category = plain[rng.integers(len(plain))]
            return respond(category, truth, question, rng, wording=wording, right=right)

        fake = respond(BY_NAME["fake_claim"], truth, question, rng, wording=wording, right=False)
        wrong = renamed(naming(True), (other_digit(rng, truth.digit),))
        plea = pleas[rng.integers(len(pleas))]
        attacks = [fake.text, f"{wrong.text} {plea}", f"{plea}\n{wrong.text}"]
        right = naming(True).text
        scores = judge.scores(sample.picture, question, [right, *attacks])
        pointwise += [score > scores[0] for score in scores[1:]]
        compared = judge.comparisons(sample.picture, question, [(right, a) for a in attacks])
        pairwise += [c.margin < 0 for c in compared]
    return {"n": len(pointwise), "pointwise": share(pointwise), "pairwise": share(pairwise)}
