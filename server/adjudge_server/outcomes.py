"""Stage 6 of a request: from the readings of each item to what its caller is told of it."""

from collections.abc import Sequence

from adjudge.v1 import reward_pb2 as pb
from adjudge_server import readout, wire
from adjudge_server.critic import Reading
from adjudge_server.critiques import Ended
from adjudge_server.errors import AdjudgeError
from adjudge_server.readout import Comparison, Outcome, Reward
from adjudge_server.templates import Kind, Template


def scored(template: Template, reading: Reading | AdjudgeError) -> Reward | AdjudgeError:
    try:
        if isinstance(reading, AdjudgeError):
            raise reading
        return readout.reward(template, reading)
    except AdjudgeError as error:
        return error


def compared(
    template: Template, readings: Sequence[Reading | AdjudgeError], noise_floor: float
) -> Comparison | AdjudgeError:
    """Of one pair: of its order, or of both."""
    sound: list[Reading] = []
    try:
        for reading in readings:
            if isinstance(reading, AdjudgeError):
                raise reading
            sound.append(reading)
        return readout.comparison(template, sound, noise_floor)
    except AdjudgeError as error:
        return error


def judged(template: Template, reading: Reading, noise_floor: float) -> Outcome:
    """At the verdict of a critique, which knows one order only."""
    if template.kind is Kind.POINTWISE:
        return scored(template, reading)
    return compared(template, [reading], noise_floor)


def score_outcome(
    outcome: Reward | AdjudgeError,
    template: Template,
    *,
    distribution: bool,
    members: Sequence[Template] = (),
) -> pb.ScoreOutcome:
    """`members`: what those of an ensemble were asked with."""
    if isinstance(outcome, AdjudgeError):
        return pb.ScoreOutcome(error=wire.write_error(outcome))
    reward = wire.write_reward(outcome, template, distribution=distribution)
    for member, asked in zip(outcome.members, members, strict=True):
        said = wire.write_reward(member.reward, asked, distribution=distribution)
        reward.members.add(model=member.model, reward=said)
    return pb.ScoreOutcome(reward=reward)


def compare_outcome(outcome: Comparison | AdjudgeError) -> pb.CompareOutcome:
    if isinstance(outcome, AdjudgeError):
        return pb.CompareOutcome(error=wire.write_error(outcome))
    return pb.CompareOutcome(comparison=wire.write_comparison(outcome))


def critique_response(
    index: int, event: str | Ended | Outcome, template: Template
) -> pb.CritiqueCandidatesResponse:
    response = pb.CritiqueCandidatesResponse(index=index)
    match event:
        case str():
            response.text = event
        case Ended():
            reason = pb.END_REASON_LENGTH if event.truncated else pb.END_REASON_COMPLETE
            response.end.CopyFrom(pb.CritiqueEnd(reason=reason, num_tokens=event.num_tokens))
        case AdjudgeError():
            response.error.CopyFrom(wire.write_error(event))
        case Reward():
            response.reward.CopyFrom(wire.write_reward(event, template, distribution=False))
        case Comparison():
            response.comparison.CopyFrom(wire.write_comparison(event))
    return response
