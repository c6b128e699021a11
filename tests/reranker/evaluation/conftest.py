"""Fixtures: the command on rows of a test, and a critic that answers as it is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.reranker.evaluation.told import Evaluate, as_told, describes_templates, read
from tests.reranker.scripted import ScriptedService
from tests.reranker.test_cli import invoke, lines


@pytest.fixture
def evaluate(tmp_path: Path) -> Evaluate:
    """Runs the command on rows; returns its result, its figures and its records."""

    def run(address: str, *rows: dict[str, Any], name: str = "items.jsonl", options: Any = ()):
        file, figures, records = (tmp_path / n for n in (name, "out.json", "out.jsonl"))
        file.write_text(json.dumps(rows) if name.endswith(".json") else lines(*rows))
        result = invoke(address, "eval", file, "--json", figures, "--records", records, *options)
        return result, *read(figures, records)

    return run


@pytest.fixture
def told(script: ScriptedService) -> str:
    script.plan(describes_templates, *[as_told] * 100)
    return script.address
