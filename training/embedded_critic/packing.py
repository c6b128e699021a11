"""From conversations about one picture to packed rows of token ids.

All items of a row have the picture and the beginning of the prompt in common; what is common is
stored once, the rest of each item goes into a lane.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from embedded_critic.attention import Layout
from embedded_critic.model import image_token_rows
from embedded_critic.prompts import SYSTEM
from embedded_critic.tokenizer import Encoder

TURN = "assistant\n"
VERDICT_WEIGHT = 1.0
OTHER_WEIGHT = 0.15


@dataclass(frozen=True, slots=True)
class Item:
    """One conversation: what the user says after the picture, and what the critic answers."""

    user: str
    answer: str
    verdict: tuple[int, int]
    """Characters of the answer that carry the verdict: they weigh more."""
    ends: tuple[int, ...] = ()
    """Characters of `user` right after each response: where its worth is to be known."""
    worths: tuple[float, ...] = ()
    whole: bool = True
    """Whether the answer ends here; if not, it is a beginning, and nothing is said of its end."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An item as ids, from `<|im_start|>user` on, without the picture."""

    before: list[int]
    """The user's text after the picture."""
    after: list[int]
    """From the end of the user's turn to the end of the critic's."""
    weights: list[float]
    """One per id of `after`; 0 where nothing is to be predicted."""
    ends: list[int]
    """Indices into `before`."""
    worths: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Encoded items behind one picture."""

    picture: int
    kept: tuple[int, int]
    shared: list[int]
    """Ids after the picture that every item has."""
    items: list[Encoded]


@dataclass(slots=True)
class Batch:
    """What `Critic.forward` takes, and what it should say."""

    ids: Tensor
    positions: Tensor
    image_rows: Tensor
    image_places: Tensor
    layout: Layout
    targets: Tensor
    """Ids, of the chosen places."""
    target_places: Tensor
    """Flat indices of the tokens *before* the targets."""
    target_weights: Tensor
    worths: Tensor
    worth_places: Tensor
    num_items: int


@dataclass(slots=True)
class Packer:
    """Encodes items and packs rows."""

    encoder: Encoder
    lanes: int
    lane: int
    head: list[int] = field(init=False)
    separator: list[int] = field(init=False)

    def __post_init__(self) -> None:
        e = self.encoder
        self.head = [
            e.im_start,
            *e.encode(f"system\n{SYSTEM}"),
            e.im_end,
            *e.encode("\n"),
            e.im_start,
            *e.encode("user\n"),
        ]
        self.separator = [e.im_end, *e.encode("\n"), e.im_start]

    def encode(self, items: Sequence[Item]) -> list[Encoded]:
        users = self.encoder.encode_many(["\n" + item.user for item in items])
        answers = self.encoder.encode_many([TURN + item.answer for item in items])
        return [self._encode_item(*parts) for parts in zip(items, users, answers, strict=True)]

    def _encode_item(
        self,
        item: Item,
        user: tuple[list[int], list[tuple[int, int]]],
        answer: tuple[list[int], list[tuple[int, int]]],
    ) -> Encoded:
        low, high = (c + len(TURN) for c in item.verdict)
        weights = [0.0] * len(self.separator)
        for start, end in answer[1]:
            if end <= len(TURN):
                weights.append(0.0)
            else:
                weights.append(VERDICT_WEIGHT if start < high and end > low else OTHER_WEIGHT)
        ends = [
            next(i for i, (start, stop) in enumerate(user[1]) if stop > character + 1)
            for character in item.ends
        ]
        ending = [self.encoder.im_end] if item.whole else []
        return Encoded(
            before=user[0],
            after=[*self.separator, *answer[0], *ending],
            weights=[*weights, *[OTHER_WEIGHT] * len(ending)],
            ends=ends,
            worths=item.worths,
        )

    def row(self, picture: int, kept: tuple[int, int], items: list[Encoded], pilot: Encoded) -> Row:
        """`pilot` is encoded from another response: what it shares, all responses share."""
        shared = pilot.before
        for item in items:
            length = 0
            for a, b in zip(shared, item.before, strict=False):
                if a != b:
                    break
                length += 1
            shared = shared[:length]
        return Row(picture, kept, shared, items)

    def pack(self, rows: Sequence[Row]) -> Batch:
        """Fills lanes first-fit; what does not fit is left out."""
        pictures = [image_token_rows(i, row.kept) for i, row in enumerate(rows)]
        starts = [len(self.head) + len(p) for p in pictures]
        prefix = max(s + len(r.shared) for s, r in zip(starts, rows, strict=True))
        placed = [self._fill_lanes(row) for row in rows]
        lanes = 1 + max(lane for row in placed for _, lane, _ in row)
        width = prefix + lanes * self.lane
        ids = torch.full((len(rows), width), self.encoder.end_of_text)
        positions = torch.zeros((len(rows), width), dtype=torch.long)
        owner = torch.full((len(rows), lanes, self.lane), -1)
        prefix_bias = torch.zeros((len(rows), 1, 1, prefix))
        image_rows: list[int] = []
        image_places: list[int] = []
        targets: list[int] = []
        places: list[int] = []
        weights: list[float] = []
        worths: list[float] = []
        worth_places: list[int] = []
        count = 0
        newline = len(rows) * 32
        for r, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
            opening = [*self.head, *[self.encoder.image] * len(picture), *row.shared]
            n = len(opening)
            ids[r, :n] = torch.tensor(opening)
            positions[r, :n] = torch.arange(n)
            prefix_bias[r, ..., n:] = -torch.inf
            image_rows += [newline if i < 0 else i for i in picture]
            offset = r * width + len(self.head)
            image_places += range(offset, offset + len(picture))
            skip = len(row.shared)
            for item, lane, used in placed[r]:
                tail = [*item.before[skip:], *item.after[:-1]]
                start = prefix + lane * self.lane + used
                ids[r, start : start + len(tail)] = torch.tensor(tail)
                positions[r, start : start + len(tail)] = torch.arange(n, n + len(tail))
                owner[r, lane, used : used + len(tail)] = count
                count += 1
                base = r * width + start + len(item.before) - skip
                for k, (token, weight) in enumerate(zip(item.after, item.weights, strict=True)):
                    if weight:
                        targets.append(token)
                        places.append(base + k - 1)
                        weights.append(weight)
                worths += item.worths
                worth_places += [r * width + start + e - skip for e in item.ends]
        same = owner[:, :, :, None] == owner[:, :, None, :]
        lane_mask = same & torch.ones(self.lane, self.lane, dtype=torch.bool).tril()
        lane_bias = torch.zeros(lane_mask.shape).masked_fill(~lane_mask, -torch.inf)
        on_prefix = prefix_bias.expand(len(rows), lanes, self.lane, prefix)
        bias = torch.cat([on_prefix, lane_bias], dim=-1).flatten(0, 1)[:, None]
        layout = Layout(prefix, lanes, self.lane, bias)
        return Batch(
            ids=ids,
            positions=positions,
            image_rows=torch.tensor(image_rows),
            image_places=torch.tensor(image_places),
            layout=layout,
            targets=torch.tensor(targets),
            target_places=torch.tensor(places),
            target_weights=torch.tensor(weights),
            worths=torch.tensor(worths),
            worth_places=torch.tensor(worth_places, dtype=torch.long),
            num_items=count,
        )

    def _fill_lanes(self, row: Row) -> list[tuple[Encoded, int, int]]:
        """(item, lane, offset) of every item that fits."""
        used = [0] * self.lanes
        placed = []
        for item in row.items:  # not longest first: that would always leave out the short ones
            length = len(item.before) - len(row.shared) + len(item.after) - 1
            lane = next((k for k in range(self.lanes) if used[k] + length <= self.lane), None)
            if lane is not None:
                placed.append((item, lane, used[lane]))
                used[lane] += length
        return placed
