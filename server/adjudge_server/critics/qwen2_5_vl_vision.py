"""What Qwen2.5-VL makes of a picture: the tower's features, in reading order."""

import torch
from transformers import Qwen2_5_VLModel

from adjudge_server.critics.preparing import TiledPicture
from adjudge_server.critics.qwen2_5_vl_patches import Grid
from adjudge_server.critics.vision import Vision


class Qwen2_5VlVision(Vision[Grid]):
    """The tower of a model, its merger included."""

    def __init__(self, model: Qwen2_5_VLModel, max_bytes: int) -> None:
        """`max_bytes` bounds the features that are remembered."""
        super().__init__(max_bytes)
        self._tower = model.visual
        config = model.config.vision_config
        self._merge: int = config.spatial_merge_size
        self._frames: int = config.temporal_patch_size

    def inputs(self, picture: TiledPicture[Grid]) -> tuple[torch.Tensor, torch.Tensor]:
        """(patches, values) pixels and (1, 3) grid of patches in time, height and width, as the
        tower takes them."""
        weight = next(self._tower.parameters())
        pixels = torch.from_numpy(picture.cut()).to(weight.device, weight.dtype)
        # The tower sees films, a few frames at a time: a still picture is all of them.
        filmed = pixels[:, :, None].expand(-1, -1, self._frames, -1, -1).flatten(1)
        grid = [1, picture.layout.down * self._merge, picture.layout.across * self._merge]
        return filmed, torch.tensor([grid], device=weight.device)

    def _computed(self, picture: TiledPicture[Grid]) -> torch.Tensor:
        pixels, grid = self.inputs(picture)
        features: torch.Tensor = self._tower(pixels, grid_thw=grid).pooler_output
        return features
