"""What a server says about a model it serves."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from adjudge_reranker.types import Readout


class Capability(StrEnum):
    """What a model can be asked for."""

    SCORE = "score"
    COMPARE = "compare"
    CRITIQUE = "critique"
    IMAGES = "images"
    """Pictures in the prompt."""


class TemplateKind(StrEnum):
    """What a template asks."""

    POINTWISE = "pointwise"
    """How good is this one?"""
    PAIRWISE = "pairwise"
    """Which of these two is better?"""
    UNKNOWN = "unknown"
    """Something newer than this client."""


@dataclass(frozen=True, slots=True)
class Template:
    """A critic prompt, and how its answers are read."""

    name: str
    version: int
    hash: str
    """SHA-256, hex, of everything that decides what the critic reads and what is an answer."""
    kind: TemplateKind
    min_reward: float | None
    """None for pairwise templates, and where rewards have no range."""
    max_reward: float | None
    """None for pairwise templates, and where rewards have no range."""
    answers: tuple[str, ...]
    """Labels of the answers whose probabilities are read."""
    accepts_reference: bool
    accepts_rubric: bool
    readouts: tuple[Readout, ...]
    text: str = ""
    """What the critic is asked, with slots such as "{prompt}"; of an ensemble its definition, as
    JSON. Empty for servers that do not say."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may hold; one that exceeds a limit is refused, and the error names it."""

    max_message_bytes: int
    max_image_pixels: int
    """Width times height of one picture."""
    max_images: int
    """In one prompt."""
    max_candidates: int
    max_pairs: int
    max_input_tokens: int
    """Of one item as the critic sees it, pictures included."""
    max_queue_tokens: int
    """Waiting for the model; over this, calls fail with QUEUE_FULL and are retried."""
    max_critique_tokens: int
    max_retained_bytes: int
    """Of pictures retained for one caller."""
    max_retained_seconds: float | None
    """Since a picture's last use."""
    max_retained_total_bytes: int = 0
    """Of pictures retained for all callers. These are 0 or empty for servers that do not say."""
    max_open_bytes: int = 0
    """Of all requests at work, decoded pictures included; over this, calls fail with QUEUE_FULL and
    are retried."""
    max_open_critiques: int = 0
    """Being written at a time; others wait."""
    max_streams: int = 0
    """Calls that one connection may have open; others wait, or are retried."""
    max_image_side: int = 0
    """Width, and height, of one picture."""
    max_tiles: int = 0
    """That one picture is cut into at most, the whole picture's own included; 0 for critics that do
    not cut pictures into tiles."""
    image_formats: tuple[str, ...] = ()
    """Of encoded pictures, such as "PNG"; others are undecodable."""


class Combination(StrEnum):
    """How the rewards of an ensemble's members become one."""

    WEIGHTED = "weighted"
    """Their weighted mean."""
    MINIMUM = "minimum"
    """The lowest."""
    SPREAD_PENALISED = "spread-penalised"
    """Their weighted mean less a multiple of their spread."""
    UNKNOWN = "unknown"
    """Something newer than this client."""


@dataclass(frozen=True, slots=True)
class EnsembleMember:
    """A critic that is asked. Its reward goes in as scale * reward + offset."""

    model: str
    template: str
    """The pointwise one that it is asked with."""
    weight: float | None
    """Greater than 0. None where weights mean nothing."""
    scale: float
    offset: float
    omits_pictures: bool
    """Whether it is asked without the prompt's pictures."""


@dataclass(frozen=True, slots=True)
class EnsembleInfo:
    """What an ensemble makes of its members' rewards."""

    combination: Combination
    penalty: float | None
    """What the spread is multiplied by; None where none is taken off."""
    spread: str | None
    """"standard-deviation" or "variance", over the members; None where none is taken off."""
    members: tuple[EnsembleMember, ...]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A critic being served, or an ensemble of critics."""

    name: str
    """What requests call it."""
    revision: str
    fingerprint: str
    """Hex; differs between checkpoints that differ."""
    weights_epoch: int
    """Counts weight updates since the server started, from 0."""
    family: str
    dtype: str
    device: str
    capabilities: tuple[Capability, ...]
    templates: tuple[Template, ...]
    """The first of each kind is that kind's default."""
    limits: Limits
    noise_floor: float | None
    """Nats; a smaller margin cannot be told from zero. None if it was not measured."""
    server_version: str
    batched_difference: float | None
    """Nats; how much an answer's log-probability changed with its company, at start."""
    prefers_right: bool | None
    """Whether it preferred a right answer to a wrong one at start. None: it said neither."""
    preprocessing: Mapping[str, str]
    """How pictures are made ready: `convert_rgb`, `exif`, `several_pictures`; empty for critics
    that see none."""
    served_models: tuple[str, ...] = ()
    """Names of all models of the server, the default one first; empty for servers that do not say.
    """
    ensemble: EnsembleInfo | None = None
    """None for a critic."""

    def default_template(self, kind: TemplateKind) -> Template | None:
        """The template of that kind that is used when a call names none."""
        return next((template for template in self.templates if template.kind is kind), None)
