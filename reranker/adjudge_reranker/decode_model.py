"""From the description of a model, as the contract has it, to values."""

from typing import Final

from adjudge.v1 import reward_pb2 as pb
from adjudge_reranker.decode import seconds
from adjudge_reranker.encode import READOUTS
from adjudge_reranker.model_info import (
    Capability,
    Combination,
    EnsembleInfo,
    EnsembleMember,
    Limits,
    ModelInfo,
    Template,
    TemplateKind,
)

_CAPABILITIES: Final = {
    pb.CAPABILITY_SCORE: Capability.SCORE,
    pb.CAPABILITY_COMPARE: Capability.COMPARE,
    pb.CAPABILITY_CRITIQUE: Capability.CRITIQUE,
    pb.CAPABILITY_IMAGES: Capability.IMAGES,
}
_TEMPLATE_KINDS: Final = {
    pb.TEMPLATE_KIND_POINTWISE: TemplateKind.POINTWISE,
    pb.TEMPLATE_KIND_PAIRWISE: TemplateKind.PAIRWISE,
}
_COMBINATIONS: Final = {
    pb.COMBINATION_WEIGHTED: Combination.WEIGHTED,
    pb.COMBINATION_MINIMUM: Combination.MINIMUM,
    pb.COMBINATION_SPREAD_PENALISED: Combination.SPREAD_PENALISED,
}
_READOUTS: Final = {number: readout for readout, number in READOUTS.items()}


def model_info(response: pb.GetModelResponse) -> ModelInfo:
    """Capabilities and readouts newer than this client are left out: it could not use them."""
    model = response.model
    check = model.self_check
    return ModelInfo(
        name=model.name,
        revision=model.revision,
        fingerprint=model.fingerprint,
        weights_epoch=model.weights_epoch,
        family=model.family,
        dtype=model.dtype,
        device=model.device,
        capabilities=tuple(_CAPABILITIES[c] for c in model.capabilities if c in _CAPABILITIES),
        templates=tuple(_template(template) for template in model.templates),
        limits=_limits(model.limits),
        noise_floor=model.noise_floor if model.HasField("noise_floor") else None,
        server_version=model.server_version,
        batched_difference=check.batched_difference
        if check.HasField("batched_difference")
        else None,
        prefers_right=check.prefers_right if check.HasField("prefers_right") else None,
        preprocessing={field.name: value for field, value in model.preprocessing.ListFields()},
        served_models=tuple(response.served_models),
        ensemble=_ensemble(model.ensemble) if model.HasField("ensemble") else None,
    )


def _ensemble(ensemble: pb.Ensemble) -> EnsembleInfo:
    return EnsembleInfo(
        combination=_COMBINATIONS.get(ensemble.combination, Combination.UNKNOWN),
        penalty=ensemble.penalty if ensemble.HasField("penalty") else None,
        spread=ensemble.spread if ensemble.HasField("spread") else None,
        members=tuple(
            EnsembleMember(
                model=member.model,
                template=member.template,
                weight=member.weight if member.HasField("weight") else None,
                scale=member.scale if member.HasField("scale") else 1.0,
                offset=member.offset,
                omits_pictures=member.omits_pictures,
            )
            for member in ensemble.members
        ),
    )


def _template(template: pb.Template) -> Template:
    return Template(
        name=template.name,
        version=template.version,
        hash=template.hash,
        kind=_TEMPLATE_KINDS.get(template.kind, TemplateKind.UNKNOWN),
        min_reward=template.min_reward if template.HasField("min_reward") else None,
        max_reward=template.max_reward if template.HasField("max_reward") else None,
        answers=tuple(template.answers),
        accepts_reference=template.accepts_reference,
        accepts_rubric=template.accepts_rubric,
        readouts=tuple(_READOUTS[r] for r in template.readouts if r in _READOUTS),
        text=template.text,
    )


def _limits(limits: pb.Limits) -> Limits:
    return Limits(
        max_message_bytes=limits.max_message_bytes,
        max_image_pixels=limits.max_image_pixels,
        max_images=limits.max_images,
        max_candidates=limits.max_candidates,
        max_pairs=limits.max_pairs,
        max_input_tokens=limits.max_input_tokens,
        max_queue_tokens=limits.max_queue_tokens,
        max_critique_tokens=limits.max_critique_tokens,
        max_retained_bytes=limits.max_retained_bytes,
        max_retained_seconds=seconds(limits, "max_retained_duration"),
        max_retained_total_bytes=limits.max_retained_total_bytes,
        max_open_bytes=limits.max_open_bytes,
        max_open_critiques=limits.max_open_critiques,
        max_streams=limits.max_streams,
        max_image_side=limits.max_image_side,
        max_tiles=limits.max_tiles,
        image_formats=tuple(limits.image_formats),
    )
