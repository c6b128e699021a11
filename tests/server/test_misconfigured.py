"""Which mistakes end the server for good (status 2), which may pass (1), and that both are told in
a line, at once."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from adjudge_server import resident
from adjudge_server.__main__ import main
from adjudge_server.config import Config
from adjudge_server.critics.device import pick_device
from adjudge_server.loading import load_critic
from adjudge_server.misconfigured import Misconfigured
from adjudge_server.models_file import read_models
from adjudge_server.planning import plan
from adjudge_server.template_sets import read_own_templates
from tests.conftest import Launch
from tests.server.checkpoints import tiny_tokenizer, write_checkpoint, write_text_model
from tests.server.several import serve
from tests.server.test_serve import PATIENCE

ROOT = Path(__file__).parents[2]
TWO_FAKES = '[[critic]]\nname = "a"\nfamily = "fake"\n[[critic]]\nname = "b"\nfamily = "fake"\n'
ENSEMBLE = '[[ensemble]]\nname = "e"\ncombine = "minimum"\n'


def ended(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What a server's process leaves, which listens nowhere for long."""
    command = [sys.executable, "-m", "adjudge_server", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE)


def test_flags_that_do_not_fit_a_checkpoint_stay_a_mistake(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, tiny_tokenizer(), grids=[[56, 56]])
    with pytest.raises(Misconfigured, match="--vision-heads"):
        load_critic(Config(model=directory, vision_heads=4))


# What files say -----------------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], object]] = {
    "--models": lambda path: read_models(Config(models=path)),
    "--templates": read_own_templates,
}
PIECES = ("[[critic]]\n", "[[template]]\n", 'name = "a"\n', "name = ", "café", "[", "{", "= 0\n")
written = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from(PIECES), max_size=8).map(lambda pieces: "".join(pieces).encode()),
    st.lists(st.sampled_from(PIECES), max_size=8).map(lambda p: "".join(p).encode("latin-1")),
)


@pytest.mark.parametrize("flag", READERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=written)
@example(contents=b"x = " + b"[" * 100_000)
@example(contents=b'[[critic]]\nname = "a"\n# caf\xe9\n')
def test_whatever_a_file_says_is_sound_or_a_mistake_that_stays(
    tmp_path: Path, flag: str, contents: bytes
) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes(contents)
    try:
        READERS[flag](path)
    except Misconfigured as error:
        assert str(error).startswith(f"{flag} {path}: ")
        assert "codec" not in str(error)


@pytest.mark.parametrize("flag", READERS)
def test_what_is_no_utf_8_is_told_by_line_and_byte(tmp_path: Path, flag: str) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes('# critics\n# of the "café"\n'.encode("latin-1"))
    with pytest.raises(Misconfigured, match=r"not UTF-8: line 2 has the byte 0xe9$"):
        READERS[flag](path)


@pytest.mark.parametrize("flag", READERS)
def test_a_file_that_is_not_there_may_be_there_later(tmp_path: Path, flag: str) -> None:
    with pytest.raises(ValueError, match=f"{flag} .*: No such file or directory") as caught:
        READERS[flag](tmp_path / "nowhere.toml")
    assert not isinstance(caught.value, Misconfigured)


# How a process ends -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "source", "complaint"),
    [
        ("--models", "[[critic]\n", "Expected ']]'"),
        ("--models", TWO_FAKES.replace('"b"', '"a"'), "two models of the name 'a'"),
        (
            "--models",
            f'{TWO_FAKES}{ENSEMBLE}member = [{{critic="a"}}, {{critic="b", template="none"}}]',
            "ensemble 'e': member 'b': template: its pointwise ones are: embedded/pointwise",
        ),
        (
            "--models",
            '[[critic]]\nname = "a"\ntemplates = "file.toml"',
            "critic 'a': --templates",
        ),
        ("--templates", "[[templates]]\n", "there are none"),
        ("--model", "", "a file, not the directory of a checkpoint"),
    ],
)
def test_a_mistake_in_a_file_that_a_flag_names_ends_the_process_with_2(
    tmp_path: Path, flag: str, source: str, complaint: str
) -> None:
    path = tmp_path / "file.toml"
    path.write_text(source, encoding="utf-8")
    done = ended("--listen", "127.0.0.1:0", flag, str(path))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"adjudge-server: {flag} {path}: ")
    assert complaint in line


@pytest.mark.parametrize("flag", ["--model", "--models", "--templates", "--tokens"])
def test_what_is_not_there_yet_ends_the_process_with_1(tmp_path: Path, flag: str) -> None:
    done = ended("--listen", "127.0.0.1:0", flag, str(tmp_path / "nowhere"))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"adjudge-server: {flag} {tmp_path / 'nowhere'}: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-such-flag"],
        ["--max-images", "none"],
        ["--max-images", "0"],
        ["--critic", "nobody"],
        ["--listen", "0.0.0.0:1"],
        ["verify", "--dtype", "half"],
        ["export"],
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["adjudge-server", *arguments])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.endswith(" --help")
    assert out == ""


def test_help_of_verify_lists_what_means_something_there_and_the_rest_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["adjudge-server", "verify", "--help"])
    with pytest.raises(SystemExit):
        main()
    listed = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    assert {"--json", "--model", "--engine-url", "--threads", "--max-critique-tokens"} <= listed
    assert not listed & {"--listen", "--tokens", "--audit", "--models", "--max-candidates"}
    served = ["--listen", "127.0.0.1:0", "--max-pairs", "3", "--log-level", "warning"]
    done = ended("verify", "--critic", "fake", *served)
    assert done.returncode == 2
    # Which is asked only after all flags were read.
    assert done.stderr == "adjudge-server verify: the fake critic has nothing to verify\n"


# Before weights are read --------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["none", "embedded/pairwise", "embedded/pointwise"])
def test_no_weights_are_read_where_an_ensemble_asks_for_what_its_critic_does_not_have(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    loaded = []
    monkeypatch.setattr(resident, "load_planned", loaded.append)
    members = f'member = [{{critic="b"}}, {{critic="b", template="{template}"}}]'
    with pytest.raises(Misconfigured, match="ensemble 'e': member 'b': "):
        serve(launch, tmp_path, f"{TWO_FAKES}{ENSEMBLE}{members}")
    assert loaded == []


def test_a_critic_is_asked_with_what_was_planned(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "llava", tiny_tokenizer(), grids=[[56, 112]])
    write_text_model(tmp_path / "UnifiedReward-text")
    write_text_model(tmp_path / "head", scalar=True)
    models = [None, *sorted(path for path in tmp_path.iterdir())]
    configs = [Config(critic="fake"), *(Config(model=model) for model in models)]
    planned = [plan(config).templates for config in configs]
    assert planned == [load_critic(config).card.templates for config in configs]
    assert len(set(planned)) == 4  # the fake critic's are the embedded one's


def test_planning_needs_no_torch() -> None:
    code = (
        "import sys; from adjudge_server import config, planning;"
        " planning.plan(config.Config());"
        " sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE).returncode == 0


def test_a_checkpoint_that_no_family_loads_stays_one_and_one_cut_short_may_be_mended(
    tmp_path: Path,
) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"architectures": ["WhisperForConditionalGeneration"]}', encoding="utf-8")
    with pytest.raises(Misconfigured, match="no family here loads Whisper"):
        plan(Config(model=tmp_path))
    config.write_text('{"architectures": [', encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json: Expecting") as caught:
        plan(Config(model=tmp_path))
    assert not isinstance(caught.value, Misconfigured)


# Devices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["nonsense", "cpu:-2", "meta", "hpu", "vulkan", "fpga", ""])
def test_what_is_no_device_of_this_pytorch_is_named_with_its_flag(device: str) -> None:
    with pytest.raises(Misconfigured, match=f"^--device {device}: [^\n]+$"):
        pick_device(device)


@pytest.mark.parametrize("device", ["cuda", "cuda:99"])
def test_a_gpu_that_is_not_there_is_named_with_its_flag(device: str) -> None:
    """Whether for want of a driver, or of a PyTorch that is built for it."""
    if device == "cuda" and pick_device("auto") != "cpu":
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=f"^--device {device}: [^\n]+$"):
        load_critic(Config(device=device))
