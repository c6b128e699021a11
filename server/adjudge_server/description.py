"""What GetModel says: the critic's card, its templates, and the limits in force."""

from importlib.metadata import version
from typing import Any

from adjudge.v1 import reward_pb2 as pb
from adjudge_server import wire
from adjudge_server.config import Config
from adjudge_server.critic import CriticCard
from adjudge_server.judge import Judge
from adjudge_server.templates import Kind, Readout


def describe(judge: Judge[Any], config: Config) -> pb.Model:
    card = judge.card
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
