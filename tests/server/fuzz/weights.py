"""Directories of weights for a server that may load some of them, with bait beside them."""

import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Weights:
    """Below `folder`, which `lay_out` made."""

    folder: Path

    BAIT: ClassVar[str] = "bait"
    """Name of what must never be served."""

    @property
    def root(self) -> Path:
        """Where weights may come from."""
        return self.folder / "root"

    def asked_for(self) -> list[Path]:
        """Good ones first, then what leads out of the root in one way or another."""
        root, bait = self.root, self.folder / "outside" / self.BAIT
        return [
            *(root / name for name in ("step-1", "step-2", "link-within")),
            *(root / name for name in ("link-out", "file-out", "loop", "a-file", "nothing")),
            root / ".." / "outside" / self.BAIT,
            root / "step-1" / ".." / ".." / "outside" / self.BAIT,
            Path(f"/proc/self/root{bait}"),
            Path(f"{root}-beside"),
            bait,
            bait.relative_to("/"),
        ]

    def may_be_loaded(self, path: str) -> bool:
        """Whether everything there lies in the root."""
        directory, root = Path(path).resolve(), self.root.resolve()
        found = [directory, *(file.resolve() for file in directory.iterdir())]
        return Path(path).is_absolute() and all(f.is_relative_to(root) for f in found)


def lay_out(folder: Path) -> Weights:
    """Each good directory, and the bait, is a checkpoint that the embedded critic would load; the
    fake critic loads any directory."""
    weights = Weights(folder.resolve())
    root, outside = weights.root, weights.folder / "outside"
    embedded = Path(str(files("adjudge_server") / "embedded"))
    for directory in (root / "step-1", root / "step-2", outside / weights.BAIT):
        shutil.copytree(embedded, directory)
    shutil.copytree(embedded, Path(f"{root}-beside"))
    (root / "link-within").symlink_to(root / "step-1")
    (root / "link-out").symlink_to(outside / weights.BAIT)
    (root / "loop").symlink_to(root / "loop")
    (root / "a-file").touch()
    (root / "file-out").mkdir()
    for file in (root / "step-1").iterdir():
        (root / "file-out" / file.name).symlink_to(outside / weights.BAIT / file.name)
    return weights
