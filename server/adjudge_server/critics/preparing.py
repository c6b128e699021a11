"""What happens to a query before the model: tokens and tiles. No torch here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from adjudge_server import leaving
from adjudge_server.answers import AnswerTree, answer_tree
from adjudge_server.critic import Query, Written
from adjudge_server.critics.conversation import Chat, Piece
from adjudge_server.errors import InputTooLong
from adjudge_server.images import Picture
from adjudge_server.misconfigured import Misconfigured
from adjudge_server.templates import Template
from adjudge_server.tokenization import TextTokenizer
from adjudge_server.verdict import boundary

CONTEXT = 256
"""Characters before a verdict that are tokenised with each of its forms. Merges do not reach so
far, and a critique may be long."""
SEAM = 64
"""Tokens; far more than change at the end of a text when it goes on."""
IMAGE_SLOT = -1
"""Stands in token ids for one feature of a picture. No tokenizer has it, so no text can be it."""


class PictureLayout(Protocol):
    """Where the features of a picture stand."""

    @property
    def num_tokens(self) -> int: ...
    @property
    def num_positions(self) -> int:
        """What comes after the picture stands so many positions after its beginning: `num_tokens`,
        where every token has a position of its own."""
        ...

    @property
    def offsets(self) -> NDArray[np.int64] | None:
        """(3, num_tokens) position of each feature in time, height and width, after the picture's
        beginning. None where each stands after the one before it, as text does."""
        ...


L = TypeVar("L", bound=PictureLayout)


@dataclass(frozen=True, slots=True, eq=False)
class TiledPicture(Generic[L]):
    digest: str
    """Of the picture and of how it is cut."""
    layout: L
    cut: Callable[[], NDArray[np.float32]]
    """(tiles, 3, side, side), normalised; cut only once."""

    def make_ready(self) -> None:
        """Does now what else whoever reads the picture would wait for."""
        self.cut()


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPrompt:
    """See `critic.Prepared`. Pictures always lie in the shared part: they come before the text."""

    group: str
    template: Template
    token_ids: tuple[int, ...]
    """The whole prompt up to the critic's first word, every picture feature an IMAGE_SLOT."""
    shared_tokens: int
    pictures: tuple[TiledPicture[Any], ...]
    tree: AnswerTree

    @property
    def picture_starts(self) -> tuple[int, ...]:
        """The first slot of each picture."""
        starts: list[int] = []
        place = 0
        for picture in self.pictures:
            starts.append(self.token_ids.index(IMAGE_SLOT, place))
            place = starts[-1] + picture.layout.num_tokens
        return tuple(starts)

    @property
    def own_tokens(self) -> int:
        return len(self.token_ids) - self.shared_tokens + len(self.tree.tokens)

    @property
    def image_tokens(self) -> int:
        return sum(picture.layout.num_tokens for picture in self.pictures)


Tile = Callable[[Picture, int], TiledPicture[Any]]
"""A picture, and how many its prompt has. Lays it out; whether it is cut, the prompt decides."""


class Preparer:
    """Turns queries into tokens and tiles. Safe to use from several threads."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        chat: Chat,
        tile: Tile,
        templates: Sequence[Template],
        max_input_tokens: int,
        is_known: Callable[[str], bool] = lambda digest: True,
    ) -> None:
        """`is_known` says, by a tiled picture's digest, that nobody will look at it itself; by
        default nobody ever does. Raises Misconfigured for a template that makes no sense with
        this tokenizer."""
        self._tokenizer = tokenizer
        self._chat = chat
        self._tile = tile
        self._max_input_tokens = max_input_tokens
        self._is_known = is_known
        try:
            self._trees: Mapping[str, AnswerTree] = {
                t.hash: self._tree(t, chat.turn, lead=chat.lead) for t in templates
            }
        except ValueError as error:
            raise Misconfigured(str(error)) from error

    def prepare(self, queries: Sequence[Query]) -> list[PreparedPrompt | InputTooLong]:
        """One result per query. Pictures and heads that queries have in common are done once, and
        pictures are cut for prompts alone that are short enough."""
        pictures = {(p.digest, len(q.pictures)): p for q in queries for p in q.pictures}
        tiled = {key: self._tiled(picture, key[1]) for key, picture in pictures.items()}
        heads: dict[str, list[int]] = {}
        prepared = [self._prepare(query, tiled, heads) for query in queries]
        self._make_ready([item for item in prepared if isinstance(item, PreparedPrompt)])
        return prepared

    def after(
        self, item: PreparedPrompt, written: Sequence[Written], start: int, opening: str
    ) -> PreparedPrompt:
        """See `critic.Critic.after`: the critic's own tokens are kept as they are, because another
        spelling of the same text would be another text to it."""
        count, characters = boundary(written, start)
        text = "".join(step.text for step in written)
        turn = self._since_added_token(written[:count])
        lead = text[characters:start]
        if count == 0:  # some tokenizers do not show the space that the first word begins with
            lead = lead or self._chat.lead
        tree = self._tree(item.template, turn[-CONTEXT:], opening=opening, lead=lead)
        token_ids = item.token_ids + tuple(step.token for step in written[:count])
        if error := too_long(len(token_ids) + len(tree.tokens), self._max_input_tokens):
            raise error
        return replace(item, token_ids=token_ids, tree=tree)

    def _since_added_token(self, written: Sequence[Written]) -> str:
        """The end of the critic's turn that is one text to the tokenizer."""
        added = set(self._tokenizer.added.values())
        last = max((i for i, step in enumerate(written) if step.token in added), default=None)
        if last is None:
            return self._chat.turn + "".join(step.text for step in written)
        return "".join(step.text for step in written[last + 1 :])

    def _tiled(self, picture: Picture, num_pictures: int) -> TiledPicture[Any]:
        leaving.check()
        return self._tile(picture, num_pictures)

    def _make_ready(self, accepted: Sequence[PreparedPrompt]) -> None:
        """Here, off the model's thread."""
        for picture in dict.fromkeys(p for item in accepted for p in item.pictures):
            leaving.check()
            if not self._is_known(picture.digest):
                picture.make_ready()

    def _prepare(
        self,
        query: Query,
        tiled: Mapping[tuple[str, int], TiledPicture[Any]],
        heads: dict[str, list[int]],
    ) -> PreparedPrompt | InputTooLong:
        leaving.check()
        pictures = tuple(tiled[p.digest, len(query.pictures)] for p in query.pictures)
        if query.group not in heads:
            heads[query.group] = self._token_ids(query.head, pictures)
        # However a text goes on, only the last tokens of its head change. Otherwise a long prompt
        # would be tokenised for every candidate before each of them is refused.
        if error := too_long(len(heads[query.group]) - SEAM, self._max_input_tokens):
            return error
        token_ids = self._token_ids(query.text, pictures)
        tree = self._trees[query.template.hash]
        if error := too_long(len(token_ids) + len(tree.tokens), self._max_input_tokens):
            return error
        return PreparedPrompt(
            group=query.group,
            template=query.template,
            token_ids=tuple(token_ids),
            shared_tokens=common_prefix(token_ids, heads[query.group]),
            pictures=pictures,
            tree=tree,
        )

    def _token_ids(self, text: str, pictures: Sequence[TiledPicture[Any]]) -> list[int]:
        return encode(self._chat.pieces(text, len(pictures)), self._tokenizer, pictures)

    def _tree(
        self, template: Template, turn: str, *, opening: str | None = None, lead: str = ""
    ) -> AnswerTree:
        end = self._tokenizer.added[self._chat.end]
        return answer_tree(template, self._tokenizer.encode, turn, end, opening=opening, lead=lead)


def encode(
    pieces: Sequence[Piece],
    tokenizer: TextTokenizer,
    pictures: Sequence[TiledPicture[Any]] = (),
) -> list[int]:
    """Token ids of a whole prompt."""
    token_ids: list[int] = []
    slots = iter(pictures)
    for piece in pieces:
        if isinstance(piece, str):
            token_ids += tokenizer.encode(piece, at_start=not token_ids)
        elif piece.is_image:
            token_ids += [IMAGE_SLOT] * next(slots).layout.num_tokens
        else:
            token_ids.append(tokenizer.added[piece.text])
    return token_ids


def too_long(total: int, maximum: int) -> InputTooLong | None:
    """Of an item of so many tokens: why it is refused, if it is."""
    if total <= maximum:
        return None
    return InputTooLong(
        f"{total} tokens, the critic takes {maximum}", actual=total, maximum=maximum
    )


def common_prefix(whole: Sequence[int], head: Sequence[int]) -> int:
    """How many leading tokens a prompt shares with its head.

    Not simply the head's length: the head's last token may merge with the candidate's first
    character (`[` and `"` are one token for Qwen2), and the head here ends a turn that goes on
    there.
    """
    # Nearly always all but the last few are equal; those are compared at once.
    start = max(0, len(head) - SEAM)
    if whole[:start] != head[:start]:
        start = 0
    rest = zip(whole[start:], head[start:], strict=False)
    differing = (i for i, (a, b) in enumerate(rest, start) if a != b)
    return next(differing, min(len(whole), len(head)) - 1)
