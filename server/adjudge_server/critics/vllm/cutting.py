"""Whether an engine makes of a picture what the checkpoint's training made of it.

vLLM shows what it feeds to the vision tower (`/v1/chat/completions/render`, of the same scale-out
endpoints). A picture of noise is cut here and there: any other way to resize it, or to scale its
numbers, shows.
"""

import base64
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adjudge_server.critics import anyres
from adjudge_server.critics.anyres import Geometry
from adjudge_server.critics.vllm.engine import Body, Engine, EngineRefusal
from adjudge_server.critics.vllm.pictures import data_url

logger = logging.getLogger(__name__)

RENDER = "/v1/chat/completions/render"
SIZES = ((70, 90), (211, 64))
"""Width and height: neither fits a tile."""


def check_cutting(engine: Engine, model: str, geometry: Geometry) -> None:
    """Raises ValueError, with the flag to change, where the engine cuts pictures otherwise. An
    engine that does not show it is believed, with a warning."""
    for number, (width, height) in enumerate(SIZES):
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        picture = Image.fromarray(noise)
        try:
            shown = _shown(engine, model, picture)
        except (EngineRefusal, KeyError, TypeError, IndexError, ValueError) as error:
            logger.warning("the engine does not show how it cuts pictures (%s)", error)
            return
        tiles = anyres.tiles(picture, geometry)
        if not any(numbers in shown for numbers in _written(tiles)):
            raise ValueError(
                "the engine cuts pictures otherwise than the checkpoint was trained with: start"
                """ vllm serve with --mm-processor-kwargs '{"use_fast": false}'"""
            )


def _shown(engine: Engine, model: str, picture: Image.Image) -> bytes:
    """What it feeds to the vision tower, somewhere in there."""
    part: Body = {"type": "image_url", "image_url": {"url": data_url(picture)}}
    body: Body = {"model": model, "messages": [{"role": "user", "content": [part]}]}
    answer: Any = engine.run(engine.post(RENDER, body))
    return base64.b64decode(answer["features"]["kwargs_data"]["image"][0])


def _written(tiles: NDArray[np.float32]) -> tuple[bytes, bytes, bytes]:
    """The numbers as float32, float16 and bfloat16: rounded to nearest, halves to even."""
    bits = tiles.view(np.uint32).astype(np.uint64)
    halves = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return tiles.tobytes(), tiles.astype(np.float16).tobytes(), halves.astype(np.uint16).tobytes()
