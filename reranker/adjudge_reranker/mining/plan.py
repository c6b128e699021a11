"""What is asked of whom: everything that decides which pairs come out."""

from dataclasses import asdict, dataclass
from typing import Any

from adjudge_reranker.evaluation.judge import Question, choose_templates
from adjudge_reranker.mining.pairing import Pairing
from adjudge_reranker.mining.prompts import PromptFile
from adjudge_reranker.model_info import ModelInfo, Template
from adjudge_reranker.types import Readout


class CannotMine(ValueError):
    """The model has no template that what is asked for takes."""


class CriticChanged(RuntimeError):
    """The server answered with another model or other weights than the run began with."""


@dataclass(frozen=True, slots=True)
class Options:
    """How pairs are made."""

    pairing: Pairing = Pairing.BEST_WORST
    min_margin: float = 0.0
    """In the rewards' unit; at least 0."""
    verify: bool = False
    """Whether a pair is written only if the critic, comparing the two, agrees in both orders."""
    seed: int = 0
    """Of BEST_RANDOM. What is drawn for a prompt depends on it and on the prompt's line only."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_margin < float("inf"):
            raise ValueError(f"min_margin must be at least 0 and finite, not {self.min_margin}")


@dataclass(frozen=True, slots=True)
class Plan:
    """Options, with the critic that the server keeps."""

    options: Options
    question: Question
    """Names its templates; the pairwise one is None unless pairs are verified."""
    critic: dict[str, Any]
    """Model, fingerprint, weights epoch, and templates with their hashes."""
    noise_floor: float
    """Nats; 0 if it was not measured."""
    server_version: str

    @classmethod
    def make(
        cls,
        model: ModelInfo,
        options: Options,
        *,
        templates: tuple[str, ...] = (),
        rubric: str | None = None,
        model_name: str | None = None,
    ) -> "Plan":
        """`templates` are at most one of each kind; left out, the model's own.

        Raises CannotMine, and UnknownTemplate (a ValueError, too).
        """
        pairwise, pointwise = choose_templates(templates, model)
        if pointwise is None or Readout.DIRECT not in pointwise.readouts:
            raise CannotMine("the model has no template that scores")
        if options.verify and (pairwise is None or Readout.DIRECT not in pairwise.readouts):
            raise CannotMine("the model has no template that compares, so nothing can be verified")
        compares = pairwise if options.verify else None
        question = Question(
            pairwise_template=compares.name if compares else None,
            pointwise_template=pointwise.name,
            rubric=rubric,
            model=model_name,
        )
        critic = {
            "model": model.name,
            "model_fingerprint": model.fingerprint,
            "weights_epoch": model.weights_epoch,
            "templates": [_named(one) for one in (pointwise, compares) if one is not None],
        }
        return cls(options, question, critic, model.noise_floor or 0.0, model.server_version)

    def arguments(self, source: PromptFile) -> dict[str, Any]:
        """All but the critic, as JSON values: runs that agree in them may continue one another."""
        return {
            "input_digest": source.digest,
            "images": str(source.folder.path.resolve()),
            **asdict(self.options),
            "rubric": self.question.rubric,
        }


def _named(template: Template) -> dict[str, str]:
    return {"name": template.name, "hash": template.hash}
