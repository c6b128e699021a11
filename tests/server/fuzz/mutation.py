"""Makes bad requests of good ones: fields by their descriptors, pictures and texts, and the bytes
of the whole. Everything follows from the seed."""

import itertools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

TEXTS: Final = (
    "",
    "\0",
    "\ufeff",
    "\x00\x01\x02\x1b[31m\x7f\x85",
    "\u202eright to left\u202c שלום مرحبا",
    "e" + "\u0301" * 500,
    "👩‍👩‍👧‍👦" * 50,
    "\U0010ffff\ufffe\uffff",
    "<|im_start|>system\n<image><|endoftext|></s>[INST]<|eot_id|>",
    "{candidate}{prompt}{{%s%n}}",
    "../../etc/passwd",
    "/../",
    "/proc/self/root/",
    "//./",
    "~/",
    " " * 3000,
    "\n" * 3000,
    "a" * 60_000,
    "word " * 9_000,
)
NUMBERS: Final = (0, 1, 2, 3, 7, 8, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
MAX_BYTES: Final = 1 << 20
"""Mutations of mutations must not grow for ever."""


class Mutator:
    def __init__(
        self, seed: int, seeds: Sequence[tuple[str, Message]], shares: Mapping[str, float]
    ) -> None:
        """`shares`: how often each method is called, of all of those in `seeds`."""
        self._random = random.Random(seed)
        self._seeds = seeds
        of_method = Counter(method for method, _ in seeds)
        self._weights = list(
            itertools.accumulate(shares[method] / of_method[method] for method, _ in seeds)
        )
        self._pieces = [piece for _, message in seeds for piece in _messages(message)]

    def request(self) -> tuple[str, bytes]:
        """A method, and what to send to it."""
        chance = self._random.random
        [(method, seed)] = self._random.choices(self._seeds, cum_weights=self._weights)
        if chance() < 0.02:  # what is meant for another
            _, seed = self._random.choice(self._seeds)
        message = type(seed)()
        message.CopyFrom(seed)
        for _ in range(self._random.choice((0, 1, 1, 1, 2, 3, 6))):
            self._mutate_message(message)
        serialized = message.SerializeToString()
        if chance() < 0.25:
            serialized = self._mutate_bytes(serialized)
        return method, serialized[:MAX_BYTES]

    # Fields ---------------------------------------------------------------------------------------

    def _mutate_message(self, message: Message) -> None:
        """One change, somewhere in it."""
        present = [field for field, _ in message.ListFields()]
        deeper = [f for f in present if f.message_type and self._random.random() < 0.8]
        if deeper:
            value = getattr(message, self._random.choice(deeper).name)
            inner = value if isinstance(value, Message) else self._random.choice(value)
            return self._mutate_message(inner)
        if not message.DESCRIPTOR.fields:
            return None
        field = self._random.choice(message.DESCRIPTOR.fields)
        if self._random.random() < 0.15:
            message.ClearField(field.name)
        elif field.is_repeated:
            self._mutate_repeated(getattr(message, field.name), field)
        elif field.message_type:
            self._replace(getattr(message, field.name))
        else:
            setattr(message, field.name, self._value(field, getattr(message, field.name)))
        return None

    def _mutate_repeated(self, values: Any, field: FieldDescriptor) -> None:
        what = self._random.randrange(4)
        if what == 0 and values:
            del values[self._random.randrange(len(values))]
        elif what == 1 and values and field.message_type:
            again = self._random.choice(values)
            copies = [type(again).FromString(again.SerializeToString())]
            much = self._random.random() < 0.03
            values.extend(copies * self._random.choice((300, 2000) if much else (1, 1, 2, 10)))
        elif field.message_type:
            self._replace(values.add())
        else:
            values.append(self._value(field, None))

    def _replace(self, message: Message) -> None:
        """By another one of its kind, or by an empty one."""
        same = [piece for piece in self._pieces if type(piece) is type(message)]
        message.Clear()
        if same and self._random.random() < 0.8:
            message.CopyFrom(self._random.choice(same))
        message.SetInParent()

    def _value(self, field: FieldDescriptor, value: Any) -> Any:
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                return self._mutate_bytes(value or b"")
            case FieldDescriptor.CPPTYPE_STRING:
                return self._text(value or "")
            case FieldDescriptor.CPPTYPE_BOOL:
                return not value
            case FieldDescriptor.CPPTYPE_ENUM:
                return self._random.choice((0, 1, 2, 3, 4, 99, 2**31 - 1, -1))
            case FieldDescriptor.CPPTYPE_UINT32:
                return self._random.choice(NUMBERS) % 2**32
            case FieldDescriptor.CPPTYPE_UINT64:
                return self._random.choice(NUMBERS)
            case FieldDescriptor.CPPTYPE_INT32:
                return self._random.choice(NUMBERS) % 2**31
        raise NotImplementedError(f"{field.full_name} has a type that no request had before")

    def _text(self, text: str) -> str:
        other = self._random.choice(TEXTS)
        place = self._random.randrange(len(text) + 1)
        return self._random.choice((other, text[:place] + other + text[place:], text[:place]))

    # Bytes ----------------------------------------------------------------------------------------

    def _mutate_bytes(self, data: bytes) -> bytes:
        for _ in range(self._random.choice((1, 1, 2, 4, 16))):
            data = self._mutate_bytes_once(data)
        return data[:MAX_BYTES]

    def _mutate_bytes_once(self, data: bytes) -> bytes:
        rng, size = self._random, len(data)
        place = rng.randrange(size + 1)
        other = rng.randrange(place, min(size, place + 64) + 1)
        match rng.randrange(8):
            case 0:  # cut short
                return data[:place]
            case 1:  # a bit
                flipped = bytearray(data or b"\0")
                flipped[place % len(flipped)] ^= 1 << rng.randrange(8)
                return bytes(flipped)
            case 2:  # a stretch that is gone
                return data[:place] + data[other:]
            case 3:  # a stretch that is there twice, or often
                return data[:other] + data[place:other] * rng.choice((1, 1, 8, 400)) + data[other:]
            case 4:  # a number of several bytes
                order = rng.choice(("little", "big"))
                number = rng.choice(NUMBERS).to_bytes(8, "big")[-rng.choice((1, 2, 4, 8)) :]
                number = number if order == "big" else number[::-1]
                return data[:place] + number + data[place + len(number) :]
            case 5:  # noise
                return data[:place] + rng.randbytes(rng.choice((1, 8, 300))) + data[other:]
            case 6:  # a length or a number on the wire without end
                return data[:place] + b"\xff" * rng.choice((1, 5, 10, 20)) + data[place:]
        # another file's end
        donor = rng.choice(self._pieces).SerializeToString()
        return data[:place] + donor[rng.randrange(len(donor) + 1) :]


def _messages(message: Message) -> list[Message]:
    """It, and all within it."""
    found = [message]
    for field, value in message.ListFields():
        if field.message_type:
            for inner in [value] if isinstance(value, Message) else value:
                found += _messages(inner)
    return found
