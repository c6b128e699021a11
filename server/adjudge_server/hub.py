"""Models by their id on a hub. The one place that may use a network, and never for a path."""

import re
from pathlib import Path

_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja")


def is_hub_id(model: Path) -> bool:
    """Whether it is written like an id, and neither it nor its folder lies here: a mistyped path
    must not become a request to a network."""
    return _looks_like_id(model) and not model.exists() and not model.parent.exists()


def why_no_id(model: Path) -> str:
    """What to say of a model that is not there and may have been meant as an id."""
    if not _looks_like_id(model):
        return ""
    taken = model if model.exists() else model.parent
    return (
        f": it looks like an id on a hub, but was taken for a path, for a folder {taken}/ lies in"
        " the working directory"
    )


def _looks_like_id(model: Path) -> bool:
    return bool(_ID.fullmatch(str(model)))


def fetch(model_id: str) -> Path:
    """The directory of a snapshot, downloaded or found in the local cache.

    With HF_HUB_OFFLINE set, only the cache is looked at. Raises ValueError, on one line.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model_id, allow_patterns=list(_FILES)))
    except LocalEntryNotFoundError as error:  # with it set, or where the hub gave nothing
        if type(error) is not LocalEntryNotFoundError:  # a part is there: it says what is missing
            raise ValueError(_on_one_line(error)) from error
        why = f" ({_on_one_line(error.__cause__)})" if error.__cause__ else ""
        reason = (
            "nothing is downloaded while HF_HUB_OFFLINE is set"
            if HF_HUB_OFFLINE
            else f"the hub gives nothing{why}"
        )
        raise ValueError(
            f"no directory of that name, not in the local cache of models, and {reason}"
        ) from error
    except Exception as error:  # a hub fails in the ways of its library
        raise ValueError(_on_one_line(error)) from error


def _on_one_line(error: BaseException) -> str:
    """Its kind and what it says, which may be paragraphs."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
