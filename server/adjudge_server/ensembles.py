"""Critics that are asked together and answer with one reward.

An ensemble has no weights, no queue and no thread of its own: its members are critics of the same
server, each asked on its own thread with its own template. It is one model to who asks: with a
name, a template, a fingerprint (of its definition and its members) and an epoch, the sum of its
critics' epochs. That grows by one whenever the weights of one of them move, so that no two states
of the same ensemble have the same.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from adjudge_server.combining import Combination, Range, combine, reward_range
from adjudge_server.content import Message, Question
from adjudge_server.critic import CriticCard
from adjudge_server.definitions import Definition, Member
from adjudge_server.errors import AdjudgeError, CriticFailure
from adjudge_server.judge import Identity, Judge
from adjudge_server.misconfigured import Misconfigured
from adjudge_server.readout import NOT_FINITE, MemberReward, Reward
from adjudge_server.templates import Kind, Readout, RewardKind, Template


class Ensemble:
    """A definition whose critics are loaded."""

    def __init__(self, definition: Definition, cards: Mapping[str, CriticCard]) -> None:
        """`cards`: of the critics, by name. Raises as `member_templates` does."""
        self.definition = definition
        self.name = definition.name
        self.members = definition.members
        self.templates = member_templates(
            definition, {name: card.templates for name, card in cards.items()}
        )
        """What each member is asked with."""
        seeing = [cards[member.critic].sees_images for member in self.members]
        self.sees_images = all(
            sees or member.leaves_pictures_out
            for sees, member in zip(seeing, self.members, strict=True)
        )
        self.range = reward_range(
            definition.rule,
            [_range_of(member, t) for member, t in zip(self.members, self.templates, strict=True)],
        )
        """Of its rewards; None where there is none."""
        self.template = _own_template(definition, self.templates)
        """What requests and records call the way it is asked; no critic ever reads it."""

    @property
    def critics(self) -> tuple[str, ...]:
        """Each once, however many members it is."""
        return tuple(dict.fromkeys(member.critic for member in self.members))

    def identity(self, judges: Sequence[Judge[Any]]) -> Identity:
        """Of the ensemble whose members these are, in their order."""
        epochs = {judge.card.name: judge.weights_epoch for judge in judges}
        whole = [self.template.hash, *(judge.card.fingerprint for judge in judges)]
        fingerprint = hashlib.sha256(json.dumps(whole).encode()).hexdigest()
        return Identity(self.name, fingerprint, sum(epochs.values()))

    def question(self, question: Question, index: int) -> Question:
        """As a member is asked it."""
        prompt = question.prompt
        if self.members[index].leaves_pictures_out:
            prompt = tuple(
                Message(message.role, tuple(p for p in message.parts if isinstance(p, str)))
                for message in prompt
            )
        template = self.templates[index].name
        return Question(prompt, template, question.reference, question.rubric)

    def reward(self, outcomes: Sequence[Reward | AdjudgeError]) -> Reward | AdjudgeError:
        """What becomes of one candidate, given what its members made of it, in their order: one
        that failed is the failure of all."""
        rewards: list[Reward] = []
        for member, outcome in zip(self.members, outcomes, strict=True):
            if isinstance(outcome, AdjudgeError):
                return of_member(outcome, member.critic)
            rewards.append(outcome)
        scaled = [m.on_common_scale(r.reward) for m, r in zip(self.members, rewards, strict=True)]
        combined = combine(self.definition.rule, scaled)
        if not (isfinite(combined.reward) and isfinite(combined.spread)):
            return CriticFailure(NOT_FINITE)
        return Reward(
            reward=_within(combined.reward, self.range),
            mode=None,
            standard_deviation=None,
            valid_mass=None,
            opening_mass=None,
            distribution=(),
            member_spread=combined.spread,
            members=tuple(
                MemberReward(member.critic, reward)
                for member, reward in zip(self.members, rewards, strict=True)
            ),
        )


def member_templates(
    definition: Definition, templates: Mapping[str, Sequence[Template]]
) -> tuple[Template, ...]:
    """What each member is asked with, given those of each critic, by its name.

    Raises Misconfigured, naming ensemble and member, where there is no such template, where it
    cannot be read directly, and where a critic is asked twice with the same.
    """
    found = tuple(_template_of(definition, m, templates[m.critic]) for m in definition.members)
    _check_apart(definition, found)
    return found


def of_member(error: AdjudgeError, critic: str) -> AdjudgeError:
    """The same error, of an ensemble because of one of its members."""
    named = type(error)(f"{critic}: {error.message}")
    named.metadata = {**error.metadata, "member": critic}
    return named


def _template_of(definition: Definition, member: Member, known: Sequence[Template]) -> Template:
    where = f"ensemble {definition.name!r}: member {member.critic!r}:"
    pointwise = [t for t in known if t.kind is Kind.POINTWISE]
    found = next((t for t in pointwise if member.template in ("", t.name)), None)
    if found is None:
        names = ", ".join(t.name for t in pointwise) or "none"
        raise Misconfigured(f"{where} template: its pointwise ones are: {names}")
    if Readout.DIRECT not in found.readouts:
        raise Misconfigured(f"{where} template: {found.name} is only read after a critique")
    return found


def _check_apart(definition: Definition, templates: Sequence[Template]) -> None:
    asked = [(m.critic, t.name) for m, t in zip(definition.members, templates, strict=True)]
    for index, (critic, template) in enumerate(asked):
        if (critic, template) in asked[:index]:
            raise Misconfigured(
                f"ensemble {definition.name!r}: member {critic!r}: twice with {template}"
            )


def _range_of(member: Member, template: Template) -> Range | None:
    if template.reward is not RewardKind.EXPECTED:
        return None
    ends = [member.on_common_scale(s) for s in (min(template.scores), max(template.scores))]
    return min(ends), max(ends)


def _within(reward: float, bounds: Range | None) -> float:
    # Rounding may carry it past the ends by an ulp.
    return reward if bounds is None else min(max(reward, bounds[0]), bounds[1])


def _own_template(definition: Definition, templates: Sequence[Template]) -> Template:
    """Its text says everything that decides the reward, so that its hash does."""
    rule: dict[str, Any] = {"combine": definition.combination.value}
    if definition.combination is Combination.SPREAD_PENALISED:
        rule |= {"penalty": definition.penalty, "spread": definition.spread.value}
    members = [
        {
            "critic": member.critic,
            "template": template.name,
            "template_hash": template.hash,
            "weight": member.weight,
            "scale": member.scale,
            "offset": member.offset,
            "pictures": "leave out" if member.leaves_pictures_out else "show",
        }
        for member, template in zip(definition.members, templates, strict=True)
    ]
    return Template(
        name=f"ensemble/{definition.name}",
        version=1,
        kind=Kind.POINTWISE,
        text=json.dumps({**rule, "members": members}, ensure_ascii=False),
        opening="",
        answers=(),
        terminators=(),
        min_opening_mass=0.0,
        min_valid_mass=0.0,
        readouts=(Readout.DIRECT,),
        reward=RewardKind.ENSEMBLE,
    )
