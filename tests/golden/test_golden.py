"""The original LLaVA-NeXT code's numbers, case by case; see `data/README.md`."""

import json
from pathlib import Path

import pytest

from adjudge_server.critics.conversation import QWEN_1_5
from adjudge_server.tokenization import TextTokenizer
from tests.golden.check import IMAGE_MARK, ORIGINAL_IMAGE_TOKEN, PILLOW_12, Golden
from tests.server import checkpoints

GOLDEN = Golden(Path(__file__).parent / "data", vision_heads=4)


@pytest.mark.parametrize("name", [case["name"] for case in GOLDEN.cases])
def test_it_equals_the_original(name: str) -> None:
    case = next(case for case in GOLDEN.cases if case["name"] == name)
    if GOLDEN.skipped(case):
        pytest.skip("measured with another Pillow than the one installed")
    outcome = GOLDEN.check(case)
    assert outcome.passed, str(outcome)


def test_of_two_pillows_one_is_compared() -> None:
    names = {case["name"]: GOLDEN.skipped(case) for case in GOLDEN.cases}
    for name, skipped in names.items():
        if PILLOW_12 in name:
            assert names[name.replace(PILLOW_12, "__")] != skipped


def test_every_size_lands_where_the_original_puts_it() -> None:
    assert list(GOLDEN.geometry_failures()) == []


QWEN = json.loads((GOLDEN.folder / "real_qwen_prompt_ids.json").read_text())["prompts"]


@pytest.mark.parametrize("name", QWEN)
def test_prompts_have_the_original_ids_under_the_real_vocabulary(name: str) -> None:
    told = QWEN[name]
    before, after = "user\n", "<|im_end|>\n<|im_start|>assistant\n"
    user = told["prompt"].partition(before)[2].removesuffix(after)
    pictures = user.count(IMAGE_MARK)
    tokenizer = TextTokenizer(checkpoints.qwen_tokenizer())
    ids: list[int] = []
    for piece in QWEN_1_5.pieces(user.removeprefix(IMAGE_MARK * pictures), pictures):
        if isinstance(piece, str):
            ids += tokenizer.encode(piece)
        else:
            ids.append(ORIGINAL_IMAGE_TOKEN if piece.is_image else tokenizer.added[piece.text])
    assert ids == told["input_ids"]
