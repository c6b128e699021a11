"""What LLaVA-OneVision makes of a picture: the tower's patches, projected, in reading order."""

import torch
from torch import nn
from transformers import LlavaOnevisionModel

from adjudge_server.critics.anyres import Layout
from adjudge_server.critics.preparing import TiledPicture
from adjudge_server.critics.vision import Vision


class LlavaVision(Vision[Layout]):
    """Vision tower, projector and newline of a model. Features are those of the base tile's
    patches, then the grid's."""

    def __init__(self, model: LlavaOnevisionModel, max_bytes: int) -> None:
        """`max_bytes` bounds the features that are remembered."""
        super().__init__(max_bytes)
        self._tower = model.vision_tower
        self._projector = model.multi_modal_projector
        self._newline: torch.Tensor = model.image_newline

    def _computed(self, picture: TiledPicture[Layout]) -> torch.Tensor:
        pixels = torch.from_numpy(picture.cut()).to(self._newline)  # (1 + n, 3, side, side)
        # The features before post_layernorm: the original drops the tower's last layer and takes
        # what the encoder then ends with. transformers' `hidden_states[-1]` has meant both.
        patches = self._tower.encoder(inputs_embeds=self._tower.embeddings(pixels))
        projected = self._projector(patches.last_hidden_state)  # (1 + n, patches, hidden)
        return torch.cat([projected[0], self._grid_features(projected[1:], picture)])

    def _grid_features(self, grid: torch.Tensor, picture: TiledPicture[Layout]) -> torch.Tensor:
        """(tokens, hidden): tiles put together, padding cut away, a newline after every row."""
        if not len(grid):
            return self._newline[None]
        across, down = picture.layout.grid_tiles
        side = int(grid.shape[1] ** 0.5)
        hidden = grid.shape[-1]
        plane = grid.view(down, across, side, side, hidden).permute(4, 0, 2, 1, 3)
        plane = plane.reshape(hidden, down * side, across * side)
        left, top, right, bottom = picture.layout.unpadded
        plane = plane[:, top:bottom, left:right]
        width, height = picture.layout.shrunk
        if (height, width) != plane.shape[1:]:
            plane = nn.functional.interpolate(plane[None], (height, width), mode="bilinear")[0]
        newline = self._newline[:, None, None].expand(-1, height, 1)
        return torch.cat([plane, newline], dim=-1).flatten(1).T
