"""Files of tokens: what counts, what is refused, and that no token is ever shown."""

import secrets
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjudge_server.access.tokens import Tokens, token_file

ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._~+/-"
tokens = st.text(ALPHABET, min_size=16, max_size=80)
notes = st.sampled_from(["", "# of the trainer", "   ", "#", "\t# tabbed"])


@given(st.lists(st.tuples(tokens, notes), min_size=1, max_size=8), tokens, st.booleans())
def test_exactly_the_tokens_of_the_file_open(written, other: str, windows: bool) -> None:
    lines = [f"{token} {note}" for token, note in written]
    lines.insert(len(lines) // 2, "# a note")
    text = ("\r\n" if windows else "\n").join(lines)
    held = Tokens("file", text.encode())
    known = {token for token, _ in written}
    for token in known:
        assert held.holds(token.encode())
        assert not held.holds(token[:-1].encode()) or token[:-1] in known
        assert not held.holds(f"{token}=".encode())
    assert held.holds(other.encode()) == (other in known)
    assert not held.holds(b"")


@given(
    st.binary(min_size=1, max_size=60).filter(
        lambda b: (b.strip() and b"#" not in b and len(b.split()) > 1) or 0 < len(b.strip()) < 16
    )
)
def test_what_is_no_token_is_refused_by_its_line_without_being_repeated(line: bytes) -> None:
    good = secrets.token_urlsafe()
    if b"#" in line or len(line.splitlines()) != 1 or not line.strip():
        return
    with pytest.raises(ValueError, match="line 2 is no token") as refused:
        Tokens("file", f"{good}\n".encode() + line)
    assert good not in str(refused.value)


@pytest.mark.parametrize("contents", [b"", b"\n\n", b"# only\n  # notes\n"])
def test_a_file_without_a_token_is_refused_because_it_would_shut_everybody_out(contents) -> None:
    with pytest.raises(ValueError, match="holds no token"):
        Tokens("file", contents)


def test_a_token_is_not_in_the_repr_and_not_in_the_object() -> None:
    token = secrets.token_urlsafe()
    held = Tokens("file", token.encode())
    assert repr(held) == "file, 1 tokens"
    assert token not in repr(vars(held))


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601, 0o666])
def test_a_file_that_is_open_to_every_user_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "tokens"
    path.write_text(secrets.token_urlsafe())
    path.chmod(mode)
    with pytest.raises(ValueError, match=f"--tokens {path}: open to every user"):
        token_file(path, "--tokens")


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o660])
def test_a_file_for_its_owner_and_group_is_taken(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "tokens"
    token = secrets.token_urlsafe()
    path.write_text(token)
    path.chmod(mode)
    assert token_file(path, "--tokens").get().holds(token.encode())


def test_what_is_no_file_is_refused_by_its_flag(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=f"--admin-tokens {path}: "):
            token_file(path, "--admin-tokens")
