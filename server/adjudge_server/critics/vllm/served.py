"""What an engine serves, found out by asking it; and whether it can serve a critic at all."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, isfinite
from pathlib import Path
from typing import Any

from adjudge_server.critics.vllm import rows
from adjudge_server.critics.vllm.engine import Body, Engine, EngineRefusal
from adjudge_server.errors import NotReady
from adjudge_server.tokenization import TextTokenizer

logger = logging.getLogger(__name__)

GENERATE = "/inference/v1/generate"
MOST_TOKENS = 1 << 22
"""More than any vocabulary has."""
MOST_PADDING = 64
"""Padding rows of the head that are asked for with every request; of more, the share is measured
once."""
NO_SHARE = 1e-6
"""Of the padding rows together, which changes a log-probability by as much."""
TEXT = "Score the response: 85 out of 100, [“naïve café”].\n\n\tIt doesn't say 3.14 or 你好."
"""Which tokenizers of different critics cut in different ways."""
HEALTH_SECONDS = 5.0
"""For an engine to say that it is well."""
ASK_AGAIN_SECONDS = 1.0
SAY_AGAIN_SECONDS = 30.0

_HINTS = {
    401: "it wants a key: --engine-key",
    403: "start vllm serve with --enable-scale-out",
    404: "this takes vLLM 0.32 or newer, and vllm serve --enable-scale-out",
}


@dataclass(frozen=True, slots=True)
class Served:
    """One model of an engine."""

    model: str
    """What the engine calls it."""
    root: str
    """What the engine loaded: a directory of its machine, or a hub's id."""
    max_tokens: int
    """Of a prompt and what is written after it."""
    num_rows: int
    """Of its head, padding included."""
    version: str

    def check_same(self, other: "Served") -> None:
        """Raises NotReady where the engine came back as another one."""
        if self != other:
            raise NotReady("the engine came back with another model")

    def padding(self, size: int) -> range:
        """Ids that the head has rows for and a tokenizer of this size does not know."""
        return range(size, self.num_rows)


def wait_for(engine: Engine, sleep: Callable[[float], None] = time.sleep) -> None:
    """Until it is well. Raises ValueError where that takes longer than `start_seconds`."""
    url, until = engine.address.url, time.monotonic() + engine.address.start_seconds
    said = -SAY_AGAIN_SECONDS
    while True:
        try:
            engine.get("/health", HEALTH_SECONDS)
            return
        except NotReady as error:
            now = time.monotonic()
            if now >= until:
                raise ValueError(f"--engine-url {url}: {error.message}") from error
            if now - said >= SAY_AGAIN_SECONDS:
                said = now
                logger.warning("waiting for %s: %s", url, error.message)
            sleep(ASK_AGAIN_SECONDS)
        except EngineRefusal as error:
            raise ValueError(f"--engine-url {url}: {_hint(error)}") from error


def examine(engine: Engine) -> Served:
    """Raises ValueError, naming the flag to change, for an engine that does not give exact
    log-probabilities of token ids; NotReady where it is away."""
    url = engine.address.url
    try:
        model = _chosen(engine)
        version = engine.get("/version")
        served = Served(
            model=model["id"],
            root=str(model.get("root") or model["id"]),
            max_tokens=int(model["max_model_len"]),
            num_rows=_num_rows(engine, model["id"]),
            version=str(version["version"]),
        )
        _check_log_probs(engine, served)
        return served
    except EngineRefusal as error:
        raise ValueError(f"--engine-url {url}: {_hint(error)}") from error
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"--engine-url {url}: that is no vLLM") from error


def check_root(served: Served, model: str, directory: Path, *, was_named: bool) -> None:
    """Raises ValueError where the engine's model goes by another name than the checkpoint, unless
    a user has said that it is the one: nothing else tells weights apart from here."""
    names = {directory.name, Path(model).name}
    if was_named or names & {Path(served.root).name, Path(served.model).name}:
        return
    raise ValueError(
        f"the engine serves {served.root!r}; if that is this checkpoint, say so with"
        f" --engine-model {served.model}"
    )


def check_tokenizer(engine: Engine, served: Served, tokenizer: TextTokenizer) -> None:
    """Raises ValueError where the engine's tokenizer is not the checkpoint's."""
    if tokenizer.size > served.num_rows:
        raise ValueError(
            f"the engine's model has {served.num_rows} tokens, the checkpoint {tokenizer.size}"
        )
    body: Body = {"model": served.model, "prompt": TEXT, "add_special_tokens": False}
    try:
        found = engine.run(engine.post("/tokenize", body))["tokens"]
    except (EngineRefusal, KeyError, TypeError) as error:
        raise ValueError("the engine does not say how it cuts text into tokens") from error
    if found != tokenizer.encode(TEXT, at_start=True):
        raise ValueError("the engine's tokenizer is another one than the checkpoint's")


def padding_to_ask(
    engine: Engine, served: Served, size: int, prompt: Sequence[int]
) -> Sequence[int]:
    """The padding rows to ask for with every request, of a tokenizer of this size. Where there are
    too many, none, if they do not count; measured after a prompt.

    Raises ValueError where they do.
    """
    padding = served.padding(size)
    if len(padding) <= MOST_PADDING:
        return padding
    share = 0.0
    for start in range(0, len(padding), rows.MOST_IDS):
        ids = padding[start : start + rows.MOST_IDS]
        values = _asked(engine, served.model, list(prompt), ids)
        share += sum(exp(value) for value in values.values())
    if not share <= NO_SHARE:
        raise ValueError(
            f"{len(padding)} rows of the head are padding, to which vLLM gives a share of"
            f" {share:.1e}: export the checkpoint without them (adjudge-server export)"
        )
    logger.info("%d padding rows have a share of %.1e, and are not counted", len(padding), share)
    return ()


def _chosen(engine: Engine) -> dict[str, Any]:
    models = engine.get("/v1/models")["data"]
    wanted = engine.address.model
    found = [m for m in models if m["id"] == wanted] if wanted is not None else models
    if len(found) != 1:
        ids = ", ".join(str(m["id"]) for m in models)
        flag = "--engine-model" if wanted is None else f"--engine-model {wanted}"
        raise ValueError(f"{flag}: the engine serves {ids}")
    model: dict[str, Any] = found[0]
    return model


def _num_rows(engine: Engine, model: str) -> int:
    """The engine refuses ids that its head has no row for."""
    _asked(engine, model, [0], [0])
    known, unknown = 0, MOST_TOKENS
    while unknown - known > 1:
        middle = (known + unknown) // 2
        try:
            _asked(engine, model, [0], [middle])
            known = middle
        except EngineRefusal as refusal:
            if refusal.status != 400:
                raise
            unknown = middle
    return unknown


def _check_log_probs(engine: Engine, served: Served) -> None:
    """Raises ValueError where they are none, or change with what may be written."""
    url = engine.address.url
    ids = range(min(rows.MOST_IDS, served.num_rows))
    try:
        values = _asked(engine, served.model, [0], ids, allowed=ids[:1])
    except EngineRefusal as refusal:
        if refusal.status != 400:
            raise
        raise ValueError(
            f"--engine-url {url}: start vllm serve with --max-logprobs {rows.MOST_IDS}"
            f" ({refusal.said})"
        ) from refusal
    if not all(isfinite(value) for value in values.values()) or len(values) != len(ids):
        raise ValueError(
            f"--engine-url {url}: it does not tell plain log-probabilities:"
            " start vllm serve with --logprobs-mode raw_logprobs"
        )


def _asked(
    engine: Engine,
    model: str,
    prompt: Sequence[int],
    ids: Sequence[int],
    allowed: Sequence[int] | None = None,
) -> rows.LogProbs:
    """Log-probabilities after a prompt."""
    walk = rows.Walk(0, tuple(ids), tuple(ids if allowed is None else allowed), 1)
    body: Body = {
        "model": model,
        "token_ids": list(prompt),
        "sampling_params": rows.sampling(walk),
    }
    answer = engine.run(engine.post(GENERATE, body))
    try:
        ((_, values),) = rows.steps_of(answer["choices"][0])
    except ValueError as error:
        raise KeyError("choices") from error
    return values


def _hint(error: EngineRefusal) -> str:
    hint = _HINTS.get(error.status)
    said = f"status {error.status}: {error.said}"
    return said if hint is None else f"{said}; {hint}"
