"""What is an id and what is a path, and that only an id is ever looked up."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from adjudge_server import hub, loading, planning
from adjudge_server.__main__ import parse
from adjudge_server.config import Config
from adjudge_server.hub import is_hub_id
from tests.golden.test_golden import GOLDEN

ID = Path("lmms-lab/llava-critic-7b")


def test_an_id_is_an_owner_and_a_name() -> None:
    assert is_hub_id(ID)
    assert is_hub_id(Path("some_one/Model.v1-2"))


@pytest.mark.parametrize(
    "path", ["checkpoint", "/models/critic", "./lmms-lab", "../a/b", "a/b/c", "~/critic", "a b/c"]
)
def test_anything_else_is_a_path(path: str) -> None:
    assert not is_hub_id(Path(path))


def test_a_mistyped_path_in_a_folder_that_is_here_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(Path("checkpoints/sevne"))
    (tmp_path / "checkpoints").mkdir()
    assert not is_hub_id(Path("checkpoints/sevne"))
    with pytest.raises(ValueError, match="--model checkpoints/sevne: no such directory") as e:
        loading.load_critic(Config(model=Path("checkpoints/sevne")))
    assert "taken for a path, for a folder checkpoints/ lies in the working" in str(e.value)


def test_of_a_path_that_is_no_id_nothing_is_said_of_ids(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json there$"):
        loading.load_critic(Config(model=tmp_path))


def test_an_id_is_served_from_where_it_was_fetched_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "fetch", lambda model_id: {str(ID): CHECKPOINT}[model_id])
    critic = loading.load_critic(Config(model=ID, vision_heads=4))
    assert critic.card.family == "llava_onevision"
    assert critic.card.name == ID.name


CHECKPOINT = GOLDEN.folder / "checkpoint"


def test_an_id_that_cannot_be_had_is_an_error_that_names_it() -> None:
    """Tests run offline, so that only the cache is looked at."""
    with pytest.raises(ValueError, match=rf"^--model {ID}: [^\n]*HF_HUB_OFFLINE is set$"):
        loading.load_critic(Config(model=ID))


@pytest.mark.parametrize("is_offline", [False, True])
def test_what_keeps_a_hub_from_giving_a_model_is_told(
    monkeypatch: pytest.MonkeyPatch, is_offline: bool
) -> None:
    def refuse(model_id: str, **_: object) -> str:
        raise LocalEntryNotFoundError("looked for\n\nnowhere") from OSError("429 too many\nof you")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", is_offline)
    with pytest.raises(ValueError) as refused:
        hub.fetch(str(ID))
    assert "\n" not in str(refused.value)
    assert ("429 too many of you" in str(refused.value)) is not is_offline
    assert ("HF_HUB_OFFLINE is set" in str(refused.value)) is is_offline


def test_a_half_of_a_model_is_told_by_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Incomplete(LocalEntryNotFoundError):
        pass

    def refuse(model_id: str, **_: object) -> str:
        raise Incomplete("model.safetensors is missing")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=r"Incomplete: model\.safetensors is missing$"):
        hub.fetch(str(ID))


@pytest.mark.parametrize("text", ["./owner/name", "../owner/name", "owner/name/", "~/owner"])
def test_what_is_written_like_a_path_stays_one(text: str) -> None:
    model = parse(["--model", text]).model
    assert model is not None
    assert not is_hub_id(model)
    written_like_an_id = parse(["--model", "owner/name"]).model
    assert written_like_an_id is not None
    assert is_hub_id(written_like_an_id)
