"""The embedded critic on held-out pictures, through the command a user would type.

Not the measurement (that is `make evaluate`), but what no release may fall below.
"""

import json
from pathlib import Path

from adjudge_server.serve import Server
from tests.reranker.test_cli import invoke

LABELLED = Path(__file__).parents[3] / "examples/labelled/labelled.jsonl"


def test_the_embedded_critic_judges_held_out_pictures(
    embedded_server: Server, tmp_path: Path
) -> None:
    figures, plot = tmp_path / "figures.json", tmp_path / "plot.png"
    address = f"127.0.0.1:{embedded_server.port}"
    result = invoke(address, "eval", LABELLED, "--json", figures, "--plot", plot)
    assert result.exit_code == 0, result.output
    found = json.loads(figures.read_text())
    overall = found["overall"]
    assert overall["counts"]["failed"] == 0
    assert overall["counts"]["answered"] == len(LABELLED.read_text().splitlines()) == 480
    pairs, scores = overall["pairs"], overall["scores"]
    assert pairs["accuracy"]["value"] > 0.92
    assert pairs["order_consistency"]["value"] > 0.93
    assert pairs["preference_calibration"]["error"]["value"] < 0.08
    assert scores["spearman"]["value"] > 0.85
    assert plot.read_bytes().startswith(b"\x89PNG")
