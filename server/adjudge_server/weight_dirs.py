"""Where weights may come from while the server runs: below some directories, whatever is asked."""

from collections.abc import Sequence
from pathlib import Path

from adjudge_server.errors import InvalidRequest, PathNotAllowed, WeightsRefused


def allowed_directory(path: str, roots: Sequence[Path]) -> Path:
    """The checkpoint directory that a request names, links and ".." resolved.

    Raises InvalidRequest for what is no absolute path; PathNotAllowed where it, or a file that it
    leads to, does not lie below one of the roots (what is there is not looked at); WeightsRefused
    where no directory is there.
    """
    if "\0" in path or not Path(path).is_absolute():
        raise InvalidRequest("it must be an absolute path", field="path")
    try:
        allowed = [root.resolve() for root in roots]
        directory = Path(path).resolve()
        _check_below(directory, allowed)
        if not directory.is_dir():
            raise WeightsRefused("there is no such directory", field="path")
        for file in directory.iterdir():
            _check_below(file.resolve(), allowed)
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError
        raise WeightsRefused(f"not readable: {type(error).__name__}", field="path") from error
    return directory


def _check_below(path: Path, roots: Sequence[Path]) -> None:
    if not any(path.is_relative_to(root) for root in roots):
        raise PathNotAllowed("weights may not come from there", field="path")
