"""A checkpoint's own chat template, with nobody's text in it but ours.

The template (jinja, sandboxed) never sees what users and policies wrote: it is rendered once for
each sequence of roles, with a placeholder for every turn's text, and the texts are put in the
places of the placeholders afterwards. So a template that splits at `</think>`, or that is told by a
text to do anything else, has nothing to work on, and only the template's own part is ever cut into
special tokens. A template that strips its texts is noticed, and ours are stripped alike.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from adjudge_server.content import Role
from adjudge_server.critic import Turn
from adjudge_server.critics.conversation import Chat, Piece, Special
from adjudge_server.critics.preparing import encode
from adjudge_server.errors import UnsupportedContent
from adjudge_server.text_files import read_json
from adjudge_server.tokenization import TextTokenizer

WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680"
    + "".join(map(chr, range(0x2000, 0x200B)))
    + ("\u2028\u2029\u202f\u205f\u3000")
)
"""Unicode's, which is what tokenizers strip. Python's own also has separators of ASCII."""
_PLACEHOLDER = re.compile(r"adjudge(\d+)text")
_PADS = ("\n\n \t\xa0", "\xa0\t \n")
"""Put before and after placeholders to see how much of them a template strips."""
_STRIPPED: tuple[str | None, ...] = ("", "\n", None)
"""What a template may strip, as `str.strip` takes it: nothing, line ends, white space."""
_FIXED_DATE = "{%- macro strftime_now(format) -%} 26 Jul 2024 {%- endmacro -%}"
"""Set before every template: with the date of the day in it, a reward would change overnight. It is
the date that Llama 3's own templates fall back on."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """The place of one turn's text."""

    turn: int
    before: str | None
    after: str | None
    """What the template strips from it there: see _STRIPPED."""

    def fill(self, turns: Sequence[Turn]) -> str:
        return turns[self.turn].text.lstrip(self.before).rstrip(self.after)


class ChatTemplate:
    """Safe to use from several threads."""

    def __init__(
        self,
        source: str,
        variables: dict[str, str],
        tokenizer: TextTokenizer,
        image: str | None = None,
    ) -> None:
        """`variables`: the special tokens that the template names, such as `bos_token`; `image`:
        the one that stands for a picture."""
        self._source = _FIXED_DATE + source
        self._variables = variables
        self._tokenizer = tokenizer
        self._image = image
        added = sorted(filter(None, tokenizer.added), key=len, reverse=True)
        self._specials = re.compile(f"({'|'.join(map(re.escape, added)) or '(?!)'})")
        self._layout = lru_cache(maxsize=256)(self._uncached_layout)

    @property
    def identity(self) -> tuple[str, ...]:
        """Equal for templates that lay out everything alike: the source, and what it names."""
        named = (f"{key}={self._variables[key]}" for key in sorted(self._variables))
        return self._source, *(each for each in named if each.partition("=")[0] in self._source)

    @classmethod
    def read(
        cls, directory: Path, tokenizer: TextTokenizer, image: str | None = None
    ) -> "ChatTemplate":
        """Raises ValueError where the checkpoint has none, or where it or the tokenizer cannot be
        followed. `image`: the special token that stands for a picture."""
        if not (directory / "tokenizer.json").is_file():
            raise ValueError("no tokenizer.json")
        config = read_json(directory / "tokenizer_config.json")
        if (file := directory / "chat_template.jinja").is_file():
            source: object = file.read_text(encoding="utf-8")
        else:  # of models that see, a file of its own has the one with pictures
            described = read_json(directory / "chat_template.json") or config
            source = described.get("chat_template")
        if isinstance(source, list):  # of several, each with a name
            source = {t.get("name"): t.get("template") for t in source}.get("default")
        if not isinstance(source, str):
            raise ValueError(
                "no chat template, neither in chat_template.jinja nor as chat_template in"
                " tokenizer_config.json: how this model is spoken to is not known"
            )
        named = {**read_json(directory / "special_tokens_map.json"), **config}
        tokens = {key: _content(value) for key, value in named.items() if key.endswith("_token")}
        variables = {key: token for key, token in tokens.items() if token is not None}
        template = cls(source, variables, tokenizer, image)
        template._check_ids(Tokenizer.from_file(str(directory / "tokenizer.json")))
        return template

    def _check_ids(self, whole: Tokenizer) -> None:
        """Raises ValueError where pieces have other ids than the same text as one: tokenizers have
        more ways of treating what stands beside an added token than are repeated here."""
        whole.no_truncation()
        whole.no_padding()
        known = self._tokenizer.added
        whole.add_special_tokens(  # those that another file knows
            [
                token
                for token in sorted(known, key=known.__getitem__)
                if whole.token_to_id(token) is None
            ]
        )
        for num_pictures in (0, 1, 2) if self._image else (0,):
            self._check_ids_of(whole, num_pictures)

    def _check_ids_of(self, whole: Tokenizer, num_pictures: int) -> None:
        turns = [Turn(Role.USER, "What is 2 + 2?")]
        layout = self._layout((Role.USER,), True, num_pictures)
        pieces = self._joined([p.fill(turns) if isinstance(p, _Slot) else p for p in layout])
        as_tokens = [p if isinstance(p, str) else replace(p, is_image=False) for p in pieces]
        ids = encode(as_tokens, self._tokenizer)
        text = "".join(
            p.fill(turns) if isinstance(p, _Slot) else p if isinstance(p, str) else p.text
            for p in layout
        )
        if ids != whole.encode(text, add_special_tokens=False).ids:
            raise ValueError(
                "tokenizer.json: a prompt in pieces has other tokens than the same prompt as one"
            )

    def pieces(self, turns: Sequence[Turn], *, answer: bool, num_pictures: int = 0) -> list[Piece]:
        """The turns as the template lays them out and, with `answer`, all that comes before the
        model's answer. The pictures come before the first turn's text. Raises UnsupportedContent
        for roles that it does not take."""
        try:
            layout = self._layout(tuple(turn.role for turn in turns), answer, num_pictures)
        except ValueError as error:
            raise UnsupportedContent(str(error), field="prompt") from error
        return self._joined([p.fill(turns) if isinstance(p, _Slot) else p for p in layout])

    def chat(self) -> Chat:
        """For critics that are asked in one user's turn. Raises ValueError where that, or the end
        of an answer, is not known."""
        layout = self._layout((Role.USER,), True, 0)
        asked = next(i for i, piece in enumerate(layout) if isinstance(piece, _Slot))
        before_answer = _fixed(layout[asked + 1 :])
        after_answer: Sequence[Piece] = ()
        lead = ""
        with suppress(ValueError):  # it takes no answers; the configuration may say how they end
            answered = self._layout((Role.USER, Role.ASSISTANT), False, 0)
            first, second = (i for i, piece in enumerate(answered) if isinstance(piece, _Slot))
            after_answer = _fixed(answered[second:])
            lead = _lead(before_answer, _fixed(answered[first + 1 : second]))
        return Chat(
            pieces=lambda text, num_pictures: self.pieces(
                [Turn(Role.USER, text)], answer=True, num_pictures=num_pictures
            ),
            turn=_trailing_text(self._joined(before_answer)),
            end=self._end(after_answer),
            lead=lead,
        )

    def _end(self, after_answer: Sequence[Piece]) -> str:
        found = next((p.text for p in after_answer if isinstance(p, Special)), None)
        end = found or self._variables.get("eos_token")
        if end is None or end not in self._tokenizer.added:
            raise ValueError("chat template: no special token ends the model's turn")
        return end

    def _uncached_layout(
        self, roles: tuple[Role, ...], answer: bool, num_pictures: int
    ) -> list[Piece | _Slot]:
        """Raises ValueError where the template refuses the roles, does something to a text that
        cannot be repeated on another, or leaves out pictures."""
        plain = _split(self._render(roles, ("", ""), answer, num_pictures))
        padded = _split(self._render(roles, _PADS, answer, num_pictures))
        order = [int(number) for number in plain[1::2]]
        if sorted(order) != list(range(len(roles))) or plain[1::2] != padded[1::2]:
            raise ValueError("chat template: it does not put every turn's text in exactly once")
        fixed = plain[::2]
        strips = [
            _stripped(whole, part, is_first=k == 0, is_last=k == len(order))
            for k, (part, whole) in enumerate(zip(fixed, padded[::2], strict=True))
        ]
        layout: list[Piece | _Slot] = [*self._cut(fixed[0])]
        for k, turn in enumerate(order):
            layout.append(_Slot(turn, before=strips[k][1], after=strips[k + 1][0]))
            layout += self._cut(fixed[k + 1])
        before = layout[: next(i for i, piece in enumerate(layout) if isinstance(piece, _Slot))]
        counts = [sum(_is_picture(p) for p in pieces) for pieces in (before, layout)]
        if counts != [num_pictures, num_pictures]:
            raise ValueError("chat template: it does not put every picture before the text once")
        return layout

    def _render(
        self, roles: Sequence[Role], pads: tuple[str, str], answer: bool, num_pictures: int
    ) -> str:
        messages: list[dict[str, Any]] = [
            {"role": role.value, "content": f"{pads[0]}adjudge{k}text{pads[1]}"}
            for k, role in enumerate(roles)
        ]
        if num_pictures:
            text = {"type": "text", "text": messages[0]["content"]}
            messages[0]["content"] = [*({"type": "image"} for _ in range(num_pictures)), text]
        try:
            rendered, _ = render_jinja_template(
                [messages],
                chat_template=self._source,
                add_generation_prompt=answer,
                # A verdict is read where the answer begins, so a model that may think must not.
                enable_thinking=False,
                **self._variables,
            )
        except Exception as error:  # whatever a checkpoint's program raises
            raise ValueError(f"chat template: {type(error).__name__}: {error}") from error
        return str(rendered[0])

    def _cut(self, fixed: str) -> list[Piece]:
        parts = self._specials.split(fixed)
        return [
            Special(part, is_image=part == self._image) if k % 2 else part
            for k, part in enumerate(parts)
        ]

    def _joined(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Neighbouring texts as one, without the white space that special tokens swallow."""
        joined: list[Piece] = []
        for piece in pieces:
            last = joined[-1] if joined else None
            if isinstance(piece, Special):
                if isinstance(last, str) and piece.text in self._tokenizer.strips_before:
                    joined[-1] = last.rstrip(WHITE_SPACE)
                joined.append(piece)
                continue
            text = last + piece if isinstance(last, str) else piece
            if isinstance(last, str):
                joined.pop()
            before = joined[-1] if joined else None
            if isinstance(before, Special) and before.text in self._tokenizer.strips_after:
                text = text.lstrip(WHITE_SPACE)
            joined.append(text)
        return [piece for piece in joined if piece != ""]


def _is_picture(piece: Piece | _Slot) -> bool:
    return isinstance(piece, Special) and piece.is_image


def _fixed(layout: Sequence[Piece | _Slot]) -> list[Piece]:
    return [piece for piece in layout if not isinstance(piece, _Slot)]


def _trailing_text(pieces: Sequence[Piece]) -> str:
    last = pieces[-1] if pieces else ""
    return last if isinstance(last, str) else ""


def _lead(before_answer: Sequence[Piece], before_earlier: Sequence[Piece]) -> str:
    """The white space that earlier answers have in front of them and the next one has not."""
    shown, whole = (
        "".join(piece if isinstance(piece, str) else piece.text for piece in pieces)
        for pieces in (before_answer, before_earlier)
    )
    more = whole.removeprefix(shown)
    return more if whole.startswith(shown) and not more.strip() else ""


def _split(rendered: str) -> list[str]:
    """Fixed text, number of a turn, fixed text, …, fixed text."""
    return _PLACEHOLDER.split(rendered)


def _stripped(
    whole: str, fixed: str, *, is_first: bool, is_last: bool
) -> tuple[str | None, str | None]:
    """What the template strips after the text before `fixed`, and before the text behind it.

    `whole` is `fixed` between what it leaves of the pads. Raises ValueError where that is neither
    all of a pad, nor all but its line ends, nor nothing.
    """
    before, after = _PADS
    for end, start in product(_STRIPPED, repeat=2):
        left = "" if is_first else after.rstrip(end)
        right = "" if is_last else before.lstrip(start)
        if left + fixed + right == whole:
            return end, start
    raise ValueError("chat template: it changes texts in a way that is not implemented")


def _content(token: Any) -> str | None:
    """A special token's text, of the two ways in which it is written."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
