"""Builds the critic around an engine: the checkpoint's tokenizer and configuration, no weights."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adjudge_server.critic import CriticCard
from adjudge_server.critics import causal_body, checkpoint, llava_checks, llava_loading
from adjudge_server.critics.anyres import Geometry
from adjudge_server.critics.chat_template import ChatTemplate
from adjudge_server.critics.conversation import IMAGE, QWEN_1_5, Chat
from adjudge_server.critics.preparing import Preparer, Tile, TiledPicture, encode
from adjudge_server.critics.vllm.critic import VllmCritic
from adjudge_server.critics.vllm.cutting import check_cutting
from adjudge_server.critics.vllm.engine import Address, Engine
from adjudge_server.critics.vllm.pictures import Layouter, Sent
from adjudge_server.critics.vllm.served import (
    Served,
    check_root,
    check_tokenizer,
    examine,
    padding_to_ask,
    wait_for,
)
from adjudge_server.errors import NotReady
from adjudge_server.families import is_original
from adjudge_server.images import Picture
from adjudge_server.misconfigured import Misconfigured
from adjudge_server.template_sets import FALLBACK, templates_of
from adjudge_server.templates import Template
from adjudge_server.text_files import read_json
from adjudge_server.tokenization import TextTokenizer

FAMILIES = ("llava_onevision", "causal_lm")


@dataclass(frozen=True, slots=True)
class _Model:
    """What a checkpoint's files say beside its weights."""

    tokenizer: TextTokenizer
    chat: Chat
    end_tokens: frozenset[int]
    max_tokens: int
    tile: Tile
    image_token: int | None
    geometry: Geometry | None


def load(
    directory: Path,
    address: Address,
    *,
    family: str,
    name: str,
    model: str,
    max_input_tokens: int,
    templates: Sequence[Template] | None = None,
    vision_heads: int | None = None,
    repetition_penalty: float | None = None,
) -> VllmCritic:
    """`model`: what the checkpoint was called by the user.

    Waits for the engine. Raises ValueError for an engine that is not there in time, that does not
    give exact log-probabilities, or that serves something else as far as can be told from here; and
    for checkpoints with settings that are not asked this way, Misconfigured for such families.
    """
    if family not in FAMILIES:
        raise Misconfigured(f"--engine vllm: only {', '.join(FAMILIES)} run there, not {family}")
    sent = Sent()
    read = _read_llava(directory, vision_heads) if family == FAMILIES[0] else _read_text(directory)
    engine = Engine(address)
    try:
        wait_for(engine)
        served = examine(engine)
        check_root(served, model, directory, was_named=address.model is not None)
        check_tokenizer(engine, served, read.tokenizer)
        if read.geometry is not None:
            check_cutting(engine, served.model, read.geometry)
        card = _card(directory, name, family, served, read, max_input_tokens, templates)
        preparer = Preparer(
            read.tokenizer,
            read.chat,
            read.tile,
            card.templates,
            card.max_input_tokens,
            is_known=sent.__contains__,
        )
        prompt = encode(read.chat.pieces("What is this?", 0), read.tokenizer)
        return VllmCritic(
            engine,
            served,
            read.tokenizer,
            preparer,
            card,
            padding=padding_to_ask(engine, served, read.tokenizer.size, prompt),
            image_token=read.image_token,
            end_tokens=read.end_tokens,
            repetition_penalty=repetition_penalty or checkpoint.repetition_penalty(directory),
            sent=sent,
        )
    except NotReady as error:
        engine.close()
        raise ValueError(f"--engine-url {address.url}: {error.message}") from error
    except BaseException:
        engine.close()
        raise


def _card(
    directory: Path,
    name: str,
    family: str,
    served: Served,
    read: _Model,
    max_input_tokens: int,
    templates: Sequence[Template] | None,
) -> CriticCard:
    sees_images = read.geometry is not None
    standard = "embedded" if sees_images else FALLBACK
    return CriticCard(
        name=name,
        revision=directory.name,
        fingerprint=_fingerprint(directory),
        family=family,
        dtype="engine",
        device=f"vllm {served.version}",
        templates=tuple(templates_of(standard) if templates is None else templates),
        sees_images=sees_images,
        # One more is always written.
        max_input_tokens=min(max_input_tokens, read.max_tokens, served.max_tokens - 1),
    )


def _read_llava(directory: Path, vision_heads: int | None) -> _Model:
    raw = read_json(directory / "config.json")
    if is_original(raw) and not _has_weights(directory):
        raise ValueError("an original checkpoint without weights does not say how it sees")
    config, _ = llava_loading.configuration(directory, raw, vision_heads)
    tokenizer = checkpoint.read_tokenizer(directory)
    if QWEN_1_5.end not in tokenizer.added:
        raise ValueError(f"the tokenizer has no {QWEN_1_5.end}, which ends a turn")
    max_tiles = llava_checks.aspect_ratio_tiles(config.vision_aspect_ratio)
    if max_tiles is None:
        raise ValueError("config.json: vLLM does not pad pictures to one tile")
    geometry = Geometry(
        tile=config.vision_config.image_size,
        patch=config.vision_config.patch_size,
        # Hugging Face writes (height, width).
        grids=tuple((width, height) for height, width in config.image_grid_pinpoints),
        max_tiles=max_tiles,
    )
    text = config.text_config
    own = tokenizer.added.get(IMAGE, tokenizer.size)  # as the export has it
    return _Model(
        tokenizer,
        QWEN_1_5,
        checkpoint.end_tokens(directory, tokenizer.added[QWEN_1_5.end], text.eos_token_id),
        text.max_position_embeddings,
        Layouter(geometry),
        own if is_original(raw) else config.image_token_index,
        geometry,
    )


def _read_text(directory: Path) -> _Model:
    config = causal_body.read_config(directory, read_json(directory / "config.json"))
    tokenizer = checkpoint.read_tokenizer(directory)
    chat = ChatTemplate.read(directory, tokenizer).chat()
    return _Model(
        tokenizer,
        chat,
        checkpoint.end_tokens(directory, tokenizer.added[chat.end], config.eos_token_id),
        config.max_position_embeddings,
        _no_pictures,
        None,
        None,
    )


def _has_weights(directory: Path) -> bool:
    return any(directory.glob("*.safetensors"))


def _fingerprint(directory: Path) -> str:
    """Of the weights too, where they lie here; otherwise of all else, so that it is another one."""
    if _has_weights(directory):
        return checkpoint.fingerprint(directory)
    whole = hashlib.sha256()
    for path in sorted((*directory.glob("*.json"), *directory.glob("*.jinja"))):
        whole.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def _no_pictures(picture: Picture, num_pictures: int) -> TiledPicture[Any]:
    raise AssertionError("pictures are refused before they come here")
