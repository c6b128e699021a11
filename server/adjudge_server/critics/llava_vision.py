"""What LLaVA-OneVision makes of a picture: the tower's patches, projected, in reading order."""

from contextlib import suppress

import torch
from cachetools import LRUCache
from torch import nn
from transformers import LlavaOnevisionModel

from adjudge_server.caches import CacheUse
from adjudge_server.critics.preparing import TiledPicture


class LlavaVision:
    """Vision tower, projector and newline of a model."""

    def __init__(self, model: LlavaOnevisionModel, max_bytes: int) -> None:
        """`max_bytes` bounds the features that are remembered."""
        self._known: LRUCache[str, torch.Tensor] = LRUCache(max_bytes, lambda known: known.nbytes)
        self._num_hits = self._num_misses = 0
        self._tower = model.vision_tower
        self._projector = model.multi_modal_projector
        self._newline: torch.Tensor = model.image_newline

    def knows(self, digest: str) -> bool:
        """Whether `features` would not look at this picture's tiles. For any thread."""
        return digest in self._known

    def features(self, picture: TiledPicture) -> torch.Tensor:
        """(tokens, hidden): the base tile's patches, then the grid's; `picture.layout` says how
        many. By itself, so that they do not depend on other pictures."""
        known = self._known.get(picture.digest)
        if known is not None:
            self._num_hits += 1
        else:
            self._num_misses += 1
            known = self._computed(picture)
            with suppress(ValueError):  # larger than all that may be remembered
                self._known[picture.digest] = known
        return known

    def forget(self) -> None:
        self._known.clear()

    @property
    def use(self) -> CacheUse:
        """For any thread."""
        return CacheUse(self._num_hits, self._num_misses, int(self._known.currsize))

    def _computed(self, picture: TiledPicture) -> torch.Tensor:
        pixels = torch.from_numpy(picture.cut()).to(self._newline)  # (1 + n, 3, side, side)
        # The features before post_layernorm: the original drops the tower's last layer and takes
        # what the encoder then ends with. transformers' `hidden_states[-1]` has meant both.
        patches = self._tower.encoder(inputs_embeds=self._tower.embeddings(pixels))
        projected = self._projector(patches.last_hidden_state)  # (1 + n, patches, hidden)
        return torch.cat([projected[0], self._grid_features(projected[1:], picture)])

    def _grid_features(self, grid: torch.Tensor, picture: TiledPicture) -> torch.Tensor:
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
