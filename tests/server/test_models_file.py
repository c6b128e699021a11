"""The file of several critics: what it may say, and how its mistakes are told."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adjudge_server.__main__ import parse
from adjudge_server.config import OF_ONE_CRITIC, Config
from adjudge_server.models_file import parse as parse_file
from adjudge_server.models_file import read_models


def test_without_a_default_it_is_the_first_critic() -> None:
    source = '[[critic]]\nname = "one"\n[[critic]]\nname = "two"'
    assert parse_file(source, Config(), Path()).default == "one"
    assert parse_file(f'default = "two"\n{source}', Config(), Path()).default == "two"


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("", "there are none"),
        ("critic = 1", "critic: is written as tables in double brackets"),
        ("[[critic]]", "critic None: the key 'name' is missing"),
        ('[[critic]]\nname = " "', "critic ' ': name: ' ' is empty"),
        ('[[critic]]\nname = "a"\nmodle = "x"', "critic 'a': unknown keys ['modle']"),
        ('[[critic]]\nname = "a"\nlisten = "x"', "critic 'a': unknown keys ['listen']"),
        ('[[critic]]\nname = "a"\ndtype = "half"', "critic 'a': dtype: 'half' is none of auto"),
        ('[[critic]]\nname = "a"\nfamily = "nobody"', "critic 'a': family: 'nobody' is none of"),
        ('[[critic]]\nname = "a"\nmodel = 7', "critic 'a': model: 7 is not text"),
        ('[[critic]]\nname = "a"\nmax_batch_tokens = 0', "critic 'a': max_batch_tokens: 0 is not"),
        (
            '[[critic]]\nname = "a"\nfamily = "fake"\nmodel = "x"',
            "critic 'a': --model",
        ),
        ('[[critic]]\nname = "a"\n[[critic]]\nname = "a"', "two models of the name 'a'"),
        ('default = "b"\n[[critic]]\nname = "a"', "default: 'b' is none of a"),
        ('defualt = "a"\n[[critic]]\nname = "a"', "unknown keys ['defualt'] outside of"),
        ("[[critic]\n", "Expected ']]'"),
    ],
)
def test_a_mistake_about_critics_is_named_by_table_and_key(
    tmp_path: Path, source: str, complaint: str
) -> None:
    assert complaint in mistake(tmp_path, source)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ('combine = "minimum"', "ensemble None: the key 'name' is missing"),
        ('name = "a"\ncombine = "minimum"\nmember = [{critic="a"}, {critic="b"}]', "two models of"),
        ('name = "e"', "ensemble 'e': the key 'combine' is missing"),
        ('name = "e"\ncombine = "median"', "ensemble 'e': combine: 'median' is none of weighted"),
        ('name = "e"\ncombine = "minimum"', "ensemble 'e': the key 'member' is missing"),
        (
            'name = "e"\ncombine = "minimum"\nmembers = [{critic="a"}, {critic="b"}]',
            "ensemble 'e': the key 'member' is missing; there is 'members'",
        ),
        ('name = "e"\ncombine = "minimum"\nmember = [{critic="a"}]', "member: there are 2 to 12"),
        (
            'name = "e"\ncombine = "minimum"\nmember = [{critic="a"}, {critic="e"}]',
            "ensemble 'e': member 'e': critic: 'e' is none of a, b",
        ),
        (
            'name = "e"\ncombine = "minimum"\nmember = [{critic="a"}, {critic="a"}]',
            "ensemble 'e': member: a critic is there twice",
        ),
        (
            'name = "e"\ncombine = "minimum"\nmember = [{critic="a", weight=1}, {critic="b"}]',
            "ensemble 'e': member 'a': weight: the minimum has none",
        ),
        (
            'name = "e"\ncombine = "weighted"\nmember = [{critic="a", weight=0}, {critic="b"}]',
            "member 'a': weight: 0: who does not count",
        ),
        (
            'name = "e"\ncombine = "weighted"\nmember = [{critic="a", weight=nan}, {critic="b"}]',
            "member 'a': weight: nan is not a number",
        ),
        (
            'name = "e"\ncombine = "weighted"\nmember = [{critic="a", scale=0.0}, {critic="b"}]',
            "member 'a': scale: 0: nothing would be left",
        ),
        (
            'name = "e"\ncombine = "weighted"\nmember = [{critic="a", offset=inf}, {critic="b"}]',
            "member 'a': offset: inf is not a number",
        ),
        (
            'name = "e"\ncombine = "weighted"\npenalty = 1\nmember = [{critic="a"}, {critic="b"}]',
            "ensemble 'e': unknown keys ['penalty']",
        ),
        (
            'name = "e"\ncombine = "spread-penalised"\nmember = [{critic="a"}, {critic="b"}]',
            "ensemble 'e': the key 'penalty' is missing",
        ),
        (
            'name = "e"\ncombine = "spread-penalised"\npenalty = -1\n'
            'member = [{critic="a"}, {critic="b"}]',
            "ensemble 'e': penalty: -1 is not a number from 0",
        ),
        (
            'name = "e"\ncombine = "minimum"\nmember = [{critic="a", pictures="no"}, {critic="b"}]',
            "member 'a': pictures: 'no' is none of show, leave out",
        ),
        (
            'name = "e"\ncombine = "minimum"\n'
            'member = [{critic="a", pictures="leave out"}, {critic="b", pictures="leave out"}]',
            "ensemble 'e': member: pictures: somebody must be shown them",
        ),
    ],
)
def test_a_mistake_about_ensembles_is_named_by_table_and_key(
    tmp_path: Path, source: str, complaint: str
) -> None:
    critics = '[[critic]]\nname = "a"\n[[critic]]\nname = "b"\n[[ensemble]]\n'
    assert complaint in mistake(tmp_path, critics + source)


def mistake(folder: Path, source: str) -> str:
    """What is said of a file, which is always named."""
    path = folder / "models.toml"
    path.write_text(source, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"--models {path}: ")) as caught:
        read_models(Config(models=path))
    return str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--models .*nowhere\.toml: .*No such file"):
        read_models(Config(models=tmp_path / "nowhere.toml"))


OTHERS: dict[str, Any] = {
    "critic": "fake",
    "model": Path("x"),
    "name": "x",
    "device": "cpu",
    "dtype": "float32",
    "convert_rgb": "last",
    "exif": "ignore",
    "several_pictures": "pad",
    "vision_heads": 4,
    "template_set": "embedded",
    "templates": Path("x"),
    "repetition_penalty": 1.5,
    "engine": "vllm",
    "engine_url": "http://127.0.0.1:1",
    "engine_model": "x",
    "engine_key": Path("x"),
}


def test_every_flag_that_says_something_of_one_critic_is_tried() -> None:
    assert set(OTHERS) == set(OF_ONE_CRITIC)


@pytest.mark.parametrize("field", OF_ONE_CRITIC)
def test_a_flag_that_says_something_of_one_critic_is_refused_beside_the_file(field: str) -> None:
    flag = f"--{field.replace('_', '-')}"
    with pytest.raises(ValueError, match=rf"--models x\.toml: the file says what .*{flag}"):
        Config(models=Path("x.toml"), **{field: OTHERS[field]})


def test_the_flags_are_refused_at_the_command_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--models", "x.toml", "--name", "judge", "--device", "cpu"])
    assert "the file says what --name, --device would say" in capsys.readouterr().err


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    total=st.integers(0, 10**12),
    own=st.lists(st.one_of(st.none(), st.integers(0, 10**12)), min_size=1, max_size=5),
)
def test_the_bytes_of_caches_are_divided_among_those_who_say_nothing(
    total: int, own: list[int | None]
) -> None:
    tables = [
        f'[[critic]]\nname = "{i}"\n' + ("" if b is None else f"max_prefix_bytes = {b}\n")
        for i, b in enumerate(own)
    ]
    file = parse_file("".join(tables), Config(max_prefix_bytes=total), Path())
    found = [critic.max_prefix_bytes for critic in file.critics]
    silent = [bytes_ for bytes_, stated in zip(found, own, strict=True) if stated is None]
    assert [b for b, stated in zip(found, own, strict=True) if stated is not None] == [
        stated for stated in own if stated is not None
    ]
    assert len(set(silent)) <= 1
    assert total - len(silent) < sum(silent) <= total or not silent


def test_every_other_flag_holds_for_every_critic() -> None:
    base = Config(max_queue_tokens=77, watchdog_seconds=5, threads=2, max_images=3)
    source = '[[critic]]\nname = "a"\n[[critic]]\nname = "b"\nmax_queue_tokens = 8'
    first, second = parse_file(source, base, Path()).critics
    assert (first.max_queue_tokens, second.max_queue_tokens) == (77, 8)
    same = {field.name for field in fields(Config)} - {"name", "max_queue_tokens"}
    divided = {"max_prefix_bytes", "max_feature_bytes"}
    for field in same - divided:
        assert getattr(first, field) == getattr(second, field) == getattr(base, field)


def test_paths_are_those_of_the_files_folder_and_ids_stay_ids(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    models = ["head", "./head", "here/head", "~/head", "/head", "some/one"]
    source = "".join(f'[[critic]]\nname = "{m}"\nmodel = "{m}"\n' for m in models)
    found = [critic.model for critic in parse_file(source, Config(), tmp_path).critics]
    assert found == [
        tmp_path / "head",
        tmp_path / "head",
        tmp_path / "here/head",
        Path("~/head").expanduser(),
        Path("/head"),
        Path("some/one"),
    ]


def test_a_critic_whose_model_runs_elsewhere_is_not_moved_from_here(tmp_path: Path) -> None:
    source = """
    [[critic]]
    name = "here"
    [[critic]]
    name = "there"
    model = "checkpoint"
    engine = "vllm"
    engine_url = "http://127.0.0.1:8000"
    engine_key = "key"
    engine_concurrency = 8
    """
    base = Config(enable_admin=True, weights_dir=(tmp_path,))
    here, there = parse_file(source, base, tmp_path).critics
    assert (here.engine, here.enable_admin) == ("in-process", True)
    assert (there.engine, there.engine_url) == ("vllm", "http://127.0.0.1:8000")
    assert (there.engine_key, there.engine_concurrency) == (tmp_path / "key", 8)
    assert not there.enable_admin
    with pytest.raises(ValueError, match=r"critic 'there': --engine-url None"):
        parse_file(source.replace("engine_url", "# "), base, tmp_path)
