"""What an engine serves, found out by asking it; and whether it can serve a critic at all."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, isfinite
from pathlib import Path
from typing import Any

from adjudge_server.critics.vllm import rows
from adjudge_server.critics.vllm.choices import check_finished, weights_of
from adjudge_server.critics.vllm.engine import Away, Body, Engine, EngineRefusal, why
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
UNMOVED = "default"
"""What vLLM calls its weights until somebody moves them."""
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
    """Of vLLM."""
    weights: str | None
    """What the engine calls those that it runs on; None where it has no name for them."""

    def check_same(self, other: "Served") -> None:
        """Raises NotReady where the engine is another one now, or its weights are."""
        if self != replace(other, weights=self.weights):
            raise NotReady("the engine came back with another model")
        if self != other:
            raise NotReady(
                f"the engine's weights have moved from version {self.weights!r} to"
                f" {other.weights!r}: start Adjudge again, with their checkpoint"
            )

    def check_weights(self, choice: Mapping[str, Any]) -> None:
        """Raises Away for an answer of other weights, KeyError or TypeError for one of another
        form."""
        if weights_of(choice) != self.weights:
            raise Away("the engine's weights have moved")

    def padding(self, size: int) -> range:
        """Ids that the head has rows for and a tokenizer of this size does not know."""
        return range(size, self.num_rows)


def wait_for(engine: Engine, sleep: Callable[[float], None] = time.sleep) -> None:
    """Until it is well. Raises ValueError where that takes longer than `start_seconds`."""
    url, seconds = engine.address.url, engine.address.start_seconds
    until = time.monotonic() + seconds
    said = -SAY_AGAIN_SECONDS
    while True:
        try:
            engine.get("/health", HEALTH_SECONDS)
            return
        except NotReady as error:
            now = time.monotonic()
            if now >= until:
                raise ValueError(
                    f"--engine-url {url}: {why(error)}, after {seconds:g} s"
                    " (--engine-start-seconds)"
                ) from error
            if now - said >= SAY_AGAIN_SECONDS:
                said = now
                logger.warning(
                    "waiting for %s, %.0f s more at most (--engine-start-seconds): %s",
                    url,
                    until - now,
                    why(error),
                )
            sleep(ASK_AGAIN_SECONDS)
        except EngineRefusal as error:
            raise ValueError(f"--engine-url {url}: {_hint(error)}") from error


def examine(engine: Engine, likely: Served | None = None) -> Served:
    """With what is `likely` found, half a dozen requests of one token.

    Raises ValueError, naming the flag to change, for an engine that does not give exact
    log-probabilities of token ids; NotReady where it is away.
    """
    url = engine.address.url
    try:
        model = _chosen(engine)
        version = engine.get("/version")
        num_rows = _num_rows(engine, model["id"], likely)
        return Served(
            model=model["id"],
            root=str(model.get("root") or model["id"]),
            max_tokens=int(model["max_model_len"]),
            num_rows=num_rows,
            version=str(version["version"]),
            weights=_check_log_probs(engine, model["id"], num_rows),
        )
    except EngineRefusal as error:
        raise ValueError(f"--engine-url {url}: {_hint(error)}") from error
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"--engine-url {url}: that is no vLLM") from error


def check_root(served: Served, model: str, directory: Path, *, was_named: bool) -> None:
    """Raises ValueError where the engine's model goes by another name than the checkpoint, or its
    weights were moved since it loaded that, unless a user has said that it is the one: nothing else
    tells weights apart from here."""
    names = {directory.name, Path(model).name} & {Path(served.root).name, Path(served.model).name}
    has_moved = served.weights not in (None, UNMOVED)
    if was_named or (names and not has_moved):
        return
    version = f" with weights of version {served.weights!r}" if has_moved else ""
    raise ValueError(
        f"the engine serves {served.root!r}{version}; if that is this checkpoint, say so with"
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


def _num_rows(engine: Engine, model: str, likely: Served | None) -> int:
    """The engine refuses ids that its head has no row for."""
    _asked(engine, model, [0], [0])
    known, unknown = 0, MOST_TOKENS
    guesses = [] if likely is None else [likely.num_rows - 1, likely.num_rows]
    while unknown - known > 1:
        guess = guesses.pop() if guesses else 0
        middle = guess if known < guess < unknown else (known + unknown) // 2
        try:
            _asked(engine, model, [0], [middle])
            known = middle
        except EngineRefusal as refusal:
            if refusal.status != 400:
                raise
            unknown = middle
    return unknown


def _check_log_probs(engine: Engine, model: str, num_rows: int) -> str | None:
    """What the weights are called. Raises ValueError where the numbers are no log-probabilities, or
    change with what may be written."""
    url = engine.address.url
    ids = range(min(rows.MOST_IDS, num_rows))
    walk = rows.Walk(0, tuple(ids), (0,), 1)
    try:
        choice = _choice(engine, model, [0], rows.sampling(walk))
    except EngineRefusal as refusal:
        if refusal.status != 400:
            raise
        raise ValueError(
            f"--engine-url {url}: start vllm serve with --max-logprobs {rows.MOST_IDS}"
            f" ({refusal.said})"
        ) from refusal
    values = _values(choice)
    likeliest = _values(_choice(engine, model, [0], rows.likeliest(len(ids))))
    if (
        len(values) != len(ids)
        or not all(map(isfinite, values.values()))
        or not rows.may_be_log_probs(values.values())
        or not rows.may_be_likeliest(likeliest.values(), num_rows)
    ):
        raise ValueError(
            f"--engine-url {url}: it does not tell plain log-probabilities:"
            " start vllm serve with --logprobs-mode raw_logprobs"
        )
    return weights_of(choice)


def _asked(engine: Engine, model: str, prompt: Sequence[int], ids: Sequence[int]) -> rows.LogProbs:
    """Log-probabilities after a prompt."""
    walk = rows.Walk(0, tuple(ids), tuple(ids), 1)
    return _values(_choice(engine, model, prompt, rows.sampling(walk)))


def _choice(engine: Engine, model: str, prompt: Sequence[int], sampling: Body) -> Any:
    body: Body = {"model": model, "token_ids": list(prompt), "sampling_params": sampling}
    choice = engine.run(engine.post(GENERATE, body))["choices"][0]
    check_finished(choice)
    return choice


def _values(choice: Mapping[str, Any]) -> rows.LogProbs:
    """Of its only token."""
    try:
        ((_, values),) = rows.steps_of(choice)
    except ValueError as error:
        raise KeyError("choices") from error
    return values


def _hint(error: EngineRefusal) -> str:
    hint = _HINTS.get(error.status)
    said = f"status {error.status}: {error.said}"
    return said if hint is None else f"{said}; {hint}"
