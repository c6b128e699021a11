"""How strong each candidate is, from comparisons of some pairs of them. Knows no critic.

The model of Bradley and Terry (1952): P(i beats j) = 1 / (1 + exp(s_j - s_i)), with strengths s in
nats. A preference p counts as p wins of the one and 1 - p of the other, a tie thus as half a win
each. Hunter, "MM algorithms for generalized Bradley-Terry models" (Annals of Statistics 32, 2004),
says when the likelihood has one maximum; this finds it by Newton's method, which also yields the
information matrix.

Who wins everything would be infinitely strong. Therefore a fraction of a tied comparison is added
to each pair that was compared, after Conner and Grant (European Journal of Applied Mathematics 11,
2000) and, for compared pairs only, Yan (arXiv:1411.1168): strengths stay finite, whatever the
preferences, and candidates that no chain of comparisons connects stay unconnected. For two
candidates, one whole tied comparison would be Firth's (1993) correction.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

DEFAULT_PRIOR: Final = 0.1

_MAX_STEPS = 200
_TOLERANCE = 1e-10  # nats
_SMALLEST_STEP = 2.0**-30

_Floats: TypeAlias = NDArray[np.float64]
_Indices: TypeAlias = NDArray[np.int64]


class Difference(NamedTuple):
    """By how much one candidate is stronger than another."""

    nats: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class BradleyTerry:
    """Strengths of the candidates that comparisons connect with each other.

    Standard errors are those of the observed information at the maximum, as if each comparison were
    one independent trial with two ends. A critic that gives probabilities scatters less than that,
    so they are on the safe side for its noise; they know nothing of its bias.
    """

    connected: tuple[int, ...]
    """The candidates that have a strength, ascending: the largest set that is connected, of equally
    large ones that with the lowest index. Empty if nothing was compared."""
    strengths: tuple[float, ...]
    """Nats, in the order of `connected`; they sum to 0."""
    covariance: tuple[tuple[float, ...], ...]
    """Of the strengths, in nats squared; each row sums to 0."""

    def strength(self, index: int) -> float | None:
        """Nats; None for a candidate that is not connected to the others."""
        return self.strengths[self.connected.index(index)] if index in self.connected else None

    def standard_error(self, index: int) -> float | None:
        """Of the strength, in nats, measured from the mean of the connected candidates."""
        if index not in self.connected:
            return None
        place = self.connected.index(index)
        return math.sqrt(self.covariance[place][place])

    def difference(self, first: int, second: int) -> Difference | None:
        """Strength of the first minus that of the second; None unless both are connected.

        Not what two standard errors would give: strengths of one fit are correlated.
        """
        if first not in self.connected or second not in self.connected:
            return None
        i, j = self.connected.index(first), self.connected.index(second)
        cov = self.covariance
        variance = cov[i][i] + cov[j][j] - 2 * cov[i][j]
        return Difference(self.strengths[i] - self.strengths[j], math.sqrt(max(variance, 0.0)))


def fit_bradley_terry(
    num_candidates: int,
    pairs: Sequence[tuple[int, int]],
    preferences: Sequence[float | None],
    *,
    prior: float = DEFAULT_PRIOR,
) -> BradleyTerry:
    """Fits strengths to preferences in [0, 1], above ½ for the first of the pair.

    A preference that is None or NaN is a comparison that is missing. A pair may come more than
    once, in either order. `prior` is the weight of the tied comparison added to each compared pair,
    in comparisons, in (0, 1]: with one comparison a pair and the default, two candidates are at
    most log(1.05 / 0.05) = 3.0 nats apart.

    Raises ValueError if a pair is not two candidates, or a preference or the prior is out of range.
    """
    require_prior(prior)
    wins = _wins(num_candidates, pairs, preferences)
    connected = _largest_component(wins + wins.T > 0)
    if len(connected) < 2:
        return BradleyTerry((), (), ())
    wins = wins[np.ix_(connected, connected)]
    wins += np.where(wins + wins.T > 0, prior / 2, 0.0)
    strengths = _maximum(wins)
    covariance = _covariance(_information(wins, strengths))
    return BradleyTerry(
        tuple(connected.tolist()),
        tuple(strengths.tolist()),
        tuple(tuple(row) for row in covariance.tolist()),
    )


def require_prior(prior: float) -> None:
    """Raises ValueError if there would be no maximum, or more ties than comparisons."""
    if not 0 < prior <= 1:
        raise ValueError(f"prior must be in (0, 1], not {prior}")


def _wins(
    num_candidates: int, pairs: Iterable[tuple[int, int]], preferences: Iterable[float | None]
) -> _Floats:
    """How often each (row) was preferred to each other (column), in fractions: (n, n)."""
    wins = np.zeros((num_candidates, num_candidates))
    for (first, second), preference in zip(pairs, preferences, strict=True):
        if first == second or not all(0 <= i < num_candidates for i in (first, second)):
            raise ValueError(f"({first}, {second}) is no pair of {num_candidates} candidates")
        if preference is None or math.isnan(preference):
            continue
        if not 0 <= preference <= 1:
            raise ValueError(f"preferences must be in [0, 1], not {preference}")
        wins[first, second] += preference
        wins[second, first] += 1 - preference
    return wins


def _largest_component(compared: NDArray[np.bool_]) -> _Indices:
    """Ascending indices, of equally large components those with the lowest; `compared` is (n, n)
    and symmetric."""
    largest: set[int] = set()
    unseen = set(range(len(compared)))
    while unseen:
        reached: set[int] = set()
        frontier = {min(unseen)}
        while frontier:
            reached |= frontier
            found = np.flatnonzero(compared[list(frontier)].any(axis=0))
            frontier = set(found.tolist()) - reached
        unseen -= reached
        if len(reached) > len(largest):
            largest = reached
    return np.array(sorted(largest), dtype=np.int64)


def _maximum(wins: _Floats) -> _Floats:
    """Strengths (n,) of mean 0 that maximise the log-likelihood, which is concave."""
    strengths = np.zeros(len(wins))
    likelihood = _log_likelihood(wins, strengths)
    for _ in range(_MAX_STEPS):
        expected = (wins + wins.T) * _win_probabilities(strengths)
        gradient = (wins - expected).sum(axis=1)
        # Shifting all strengths changes nothing, so the information is singular in that one
        # direction; adding to it there makes it solvable and moves nothing else.
        step = np.linalg.solve(_information(wins, strengths) + 1 / len(wins), gradient)
        if np.abs(step).max() < _TOLERANCE:
            return np.asarray(strengths - strengths.mean())
        fraction = 1.0
        while fraction > _SMALLEST_STEP:
            stepped = strengths + fraction * step
            new = _log_likelihood(wins, stepped)
            if new > likelihood:
                break
            fraction /= 2
        else:  # as far up as floating point goes
            return np.asarray(strengths - strengths.mean())
        strengths, likelihood = stepped, new
    raise ArithmeticError(f"the Bradley-Terry fit did not converge in {_MAX_STEPS} steps")


def _covariance(information: _Floats) -> _Floats:
    """The pseudo-inverse, whose one singular direction is known: a general one must guess from
    rounding errors which eigenvalue is 0, and inverts it where it guesses wrong."""
    size = len(information)
    scale = np.trace(information) / size
    inverse = np.linalg.inv(information + scale / size)
    return np.asarray(inverse - 1 / (scale * size))


def _log_likelihood(wins: _Floats, strengths: _Floats) -> float:
    differences: Any = strengths[:, None] - strengths[None, :]
    return float(-(wins * np.logaddexp(0.0, -differences)).sum())


def _win_probabilities(strengths: _Floats) -> _Floats:
    """P(row beats column): (n, n)."""
    differences: Any = strengths[:, None] - strengths[None, :]
    return np.asarray(np.exp(-np.logaddexp(0.0, -differences)))


def _information(wins: _Floats, strengths: _Floats) -> _Floats:
    """Minus the second derivatives of the log-likelihood: (n, n), each row sums to 0."""
    probabilities = _win_probabilities(strengths)
    weights = (wins + wins.T) * probabilities * probabilities.T
    return np.asarray(np.diag(weights.sum(axis=1)) - weights)
