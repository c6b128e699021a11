"""The oracle of the tests of Qwen2.5-VL: the whole model of transformers with its own image
processor and its own positions, one sequence at a time, no keys and values remembered."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from adjudge_server.critic import Query, Reading
from adjudge_server.critics.preparing import IMAGE_SLOT, PreparedPrompt
from tests.server.qwen2_5_vl_checkpoints import PREPROCESSOR


class Plain:
    """What transformers makes of prompts."""

    def __init__(self, directory: Path, dtype: str, vocabulary: int, device: str = "cpu") -> None:
        """`vocabulary`: real entries of the head."""
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(directory, dtype=dtype)
        self._model = model.eval().to(device)
        self._processor = Qwen2VLImageProcessorPil(**PREPROCESSOR)
        self._vocabulary = vocabulary
        self._seen: dict[tuple[str, ...], dict[str, Any]] = {}

    @torch.inference_mode()
    def log_probs(
        self, item: PreparedPrompt, query: Query, said: Sequence[int]
    ) -> np.ndarray[Any, Any]:
        """(1 + len(said), vocabulary) after the prompt, and after each token that was said."""
        device = self._model.device
        ids = torch.tensor([[*item.token_ids, *said]], device=device)
        ids[ids == IMAGE_SLOT] = self._model.config.image_token_id
        types = (ids == self._model.config.image_token_id).int()
        seen = {**self._looked(query), "mm_token_type_ids": types} if query.pictures else {}
        logits = self._model(input_ids=ids, **seen).logits[0, len(item.token_ids) - 1 :]
        return torch.log_softmax(logits[:, : self._vocabulary].double(), dim=-1).cpu().numpy()

    def _looked(self, query: Query) -> dict[str, Any]:
        """What the tower makes of all pictures of a prompt in one pass, once for all its texts."""
        key = tuple(picture.digest for picture in query.pictures)
        if key not in self._seen:
            pictures = [picture.pixels for picture in query.pictures]
            processed = self._processor(pictures, return_tensors="pt").to(self._model.device)
            grid = processed["image_grid_thw"]
            pixels = processed["pixel_values"].to(self._model.dtype)
            features = self._model.get_image_features(pixels, grid)
            self._seen[key] = {"image_grid_thw": grid, "mm_encoder_outputs": {"image": features}}
        return self._seen[key]

    def reading(self, item: PreparedPrompt, query: Query) -> Reading:
        """One sequence for each path through the answer tree."""
        tree = item.tree
        by_row: dict[int, Any] = {}
        for row in {row for row, _ in tree.reads} - set(tree.parents):
            path = [row]
            while path[0] > 0:
                path.insert(0, tree.parents[path[0] - 1])
            rows = self.log_probs(item, query, [tree.tokens[at - 1] for at in path[1:]])
            by_row |= dict(zip(path, rows, strict=True))
        values = np.array([by_row[row][token] for row, token in tree.reads])
        return Reading(tree.opening_mass(values), tree.answer_log_probs(values), 0)

    def greedy(
        self, item: PreparedPrompt, query: Query, count: int, ends: frozenset[int]
    ) -> list[int]:
        """The first tokens that it says."""
        said: list[int] = []
        while len(said) < count:
            token = int(self.log_probs(item, query, said)[-1].argmax())
            if token in ends:
                break
            said.append(token)
        return said
