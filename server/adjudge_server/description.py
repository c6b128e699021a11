"""What GetModel says: a critic's card or an ensemble's members, templates, the limits in force."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from adjudge.v1 import reward_pb2 as pb
from adjudge_server import wire
from adjudge_server.combining import Combination
from adjudge_server.config import Config
from adjudge_server.critic import CriticCard
from adjudge_server.ensembles import Ensemble
from adjudge_server.judge import Judge
from adjudge_server.models import Models
from adjudge_server.templates import Kind, Readout

_COMBINATIONS = {
    Combination.WEIGHTED: pb.COMBINATION_WEIGHTED,
    Combination.MINIMUM: pb.COMBINATION_MINIMUM,
    Combination.SPREAD_PENALISED: pb.COMBINATION_SPREAD_PENALISED,
}


def describe(models: Models, name: str) -> pb.Model:
    """The model of that name; empty: the default. Raises NotReady, UnknownModel."""
    found = models.find(name)
    if isinstance(found, Ensemble):
        return _ensemble(found, models.judges(found))
    return _critic(found)


def _critic(judge: Judge[Any]) -> pb.Model:
    card, config = judge.card, judge.config
    return pb.Model(
        name=card.name,
        revision=card.revision,
        fingerprint=card.fingerprint,
        weights_epoch=judge.weights_epoch,
        family=card.family,
        dtype=card.dtype,
        device=card.device,
        capabilities=_capabilities(card),
        templates=[wire.write_template(template) for template in card.templates],
        limits=_limits(card, config),
        noise_floor=judge.noise_floor,
        server_version=version("adjudge"),
        self_check=pb.SelfCheck(
            batched_difference=judge.self_check.batched_difference,
            prefers_right=judge.self_check.prefers_right,
        ),
        preprocessing=_preprocessing(config) if card.sees_images else None,
    )


def _ensemble(ensemble: Ensemble, judges: Sequence[Judge[Any]]) -> pb.Model:
    identity = ensemble.identity(judges)
    capabilities = [pb.CAPABILITY_SCORE]
    if ensemble.sees_images:
        capabilities.append(pb.CAPABILITY_IMAGES)
    limits = [_limits(judge.card, judge.config) for judge in judges]
    narrowest = limits[0]
    narrowest.max_input_tokens = min(each.max_input_tokens for each in limits)
    narrowest.max_queue_tokens = min(each.max_queue_tokens for each in limits)
    # No request is refused for it: it says into how many a picture may be cut.
    narrowest.max_tiles = max(each.max_tiles for each in limits)
    return pb.Model(
        name=ensemble.name,
        fingerprint=identity.fingerprint,
        weights_epoch=identity.epoch,
        family="ensemble",
        capabilities=capabilities,
        templates=[_template(ensemble)],
        limits=narrowest,
        server_version=version("adjudge"),
        ensemble=_definition(ensemble),
    )


def _template(ensemble: Ensemble) -> pb.Template:
    """It accepts what all members accept."""
    template = wire.write_template(ensemble.template)
    if ensemble.range is not None:
        template.min_reward, template.max_reward = ensemble.range
    members = [wire.write_template(asked) for asked in ensemble.templates]
    template.accepts_reference = all(member.accepts_reference for member in members)
    template.accepts_rubric = all(member.accepts_rubric for member in members)
    template.accepts_prompt_text = all(member.accepts_prompt_text for member in members)
    return template


def _definition(ensemble: Ensemble) -> pb.Ensemble:
    definition = ensemble.definition
    is_penalised = definition.combination is Combination.SPREAD_PENALISED
    has_weights = definition.combination is not Combination.MINIMUM
    return pb.Ensemble(
        combination=_COMBINATIONS[definition.combination],
        penalty=definition.penalty if is_penalised else None,
        spread=definition.spread.value if is_penalised else None,
        members=[
            pb.EnsembleMember(
                model=member.critic,
                template=template.name,
                weight=member.weight if has_weights else None,
                scale=member.scale,
                offset=member.offset,
                omits_pictures=member.leaves_pictures_out,
            )
            for member, template in zip(ensemble.members, ensemble.templates, strict=True)
        ],
    )


def _preprocessing(config: Config) -> pb.Preprocessing:
    return pb.Preprocessing(
        convert_rgb=config.convert_rgb,
        exif=config.exif,
        several_pictures=config.several_pictures,
    )


def _capabilities(card: CriticCard) -> list["pb.Capability.ValueType"]:
    kinds = {t.kind for t in card.templates if Readout.DIRECT in t.readouts}
    offered = {
        pb.CAPABILITY_SCORE: Kind.POINTWISE in kinds,
        pb.CAPABILITY_COMPARE: Kind.PAIRWISE in kinds,
        pb.CAPABILITY_CRITIQUE: any(
            Readout.AFTER_CRITIQUE in template.readouts for template in card.templates
        ),
        pb.CAPABILITY_IMAGES: card.sees_images,
    }
    return [capability for capability, has in offered.items() if has]


def _limits(card: CriticCard, config: Config) -> pb.Limits:
    return pb.Limits(
        max_message_bytes=config.max_message_bytes,
        max_image_pixels=config.max_image_pixels,
        max_image_side=config.max_image_side,
        max_tiles=card.max_tiles,
        max_images=config.max_images,
        max_candidates=config.max_candidates,
        max_pairs=config.max_pairs,
        max_input_tokens=card.max_input_tokens,
        max_queue_tokens=config.max_queue_tokens,
        max_critique_tokens=config.max_critique_tokens,
        max_retained_bytes=config.max_retained_bytes,
        max_retained_duration=wire.write_duration(config.max_retained_seconds),
        max_retained_total_bytes=config.max_retained_total_bytes,
        max_open_bytes=config.max_open_bytes,
        max_open_critiques=config.max_open_critiques,
        max_streams=config.max_streams,
        image_formats=config.image_formats,
    )
