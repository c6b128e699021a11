"""No text is ever more than text, whatever the tokenizer has been told to make of it."""

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from adjudge_server.tokenization import OFTEN, TextTokenizer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NOT_SPECIAL = ["<think>", "<image>", "<tool_call>", "Score"]
CORPUS = ["Score: 85. This is a handwritten number seven.", "<think> of <image> and im_end"] * 4


@cache
def original() -> Tokenizer:
    """A byte-level BPE with special tokens, some in its vocabulary and some added, and added tokens
    that are not marked special; it puts a token in front, truncates and pads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL[:2],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL[2:]])
    tokenizer.add_tokens([AddedToken(text, special=False) for text in NOT_SPECIAL])
    begin = ("<|im_start|>", tokenizer.token_to_id("<|im_start|>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[begin]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return tokenizer


@cache
def text_tokenizer() -> TextTokenizer:
    return TextTokenizer(original().to_str())


pieces = st.lists(
    st.sampled_from(
        [*SPECIAL, *NOT_SPECIAL, "<|", "im_end", "|>", "<", ">", " ", "\n", "é", "85."]
    ),
    max_size=8,
).map("".join)
texts = pieces | st.text(max_size=20)


def test_the_original_would_have_made_tokens_of_them() -> None:
    """Or the tests below would prove nothing."""
    for text in (*SPECIAL, *NOT_SPECIAL):
        assert original().token_to_id(text) in original().encode(text).ids
    assert original().encode("a").ids[0] == original().token_to_id("<|im_start|>")


@settings(deadline=None)
@given(text=texts)
def test_no_text_becomes_an_added_token(text: str) -> None:
    added = {original().token_to_id(token) for token in (*SPECIAL, *NOT_SPECIAL)}
    assert added.isdisjoint(text_tokenizer().encode(text))


@settings(deadline=None)
@given(text=texts)
def test_text_comes_back_as_it_was(text: str) -> None:
    tokenizer = text_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None)
@given(text=texts.filter(lambda text: not any(t in text for t in (*SPECIAL, *NOT_SPECIAL))))
def test_text_without_added_tokens_has_the_ids_of_the_original(text: str) -> None:
    plain = Tokenizer.from_str(original().to_str())
    plain.no_truncation()
    plain.no_padding()
    assert text_tokenizer().encode(text) == plain.encode(text, add_special_tokens=False).ids


def test_nothing_is_put_in_front_cut_off_or_filled_up() -> None:
    tokenizer = text_tokenizer()
    assert tokenizer.encode("") == []
    begin = tokenizer.added["<|im_start|>"]
    long = tokenizer.encode("seven " * 50)
    assert begin not in long
    assert len(long) > 8
    assert len(tokenizer.encode("a")) == 1


def test_added_tokens_are_known_by_their_text() -> None:
    tokenizer = text_tokenizer()
    assert set(tokenizer.added) == {*SPECIAL, *NOT_SPECIAL}
    assert all(original().id_to_token(i) == text for text, i in tokenizer.added.items())


def test_special_tokens_are_left_out_of_decoded_text() -> None:
    tokenizer = text_tokenizer()
    ids = [*tokenizer.encode("seven"), tokenizer.added["<|im_end|>"], *tokenizer.encode("!")]
    assert tokenizer.decode(ids) == "seven!"


@given(st.lists(st.sampled_from([*SPECIAL, *NOT_SPECIAL]) | st.text(max_size=5), max_size=6))
def test_what_a_critic_writes_reads_as_the_original_shows_it(said: list[str]) -> None:
    """Added tokens that are not special are text that others can see, `<think>` among them."""
    tokenizer = text_tokenizer()
    ids: list[int] = []
    for piece in said:
        ids += [tokenizer.added[piece]] if piece in tokenizer.added else tokenizer.encode(piece)
    assert tokenizer.decode(ids) == original().decode(ids, skip_special_tokens=True)


def test_size_counts_the_added_tokens_and_no_padding_rows() -> None:
    assert text_tokenizer().size == original().get_vocab_size(with_added_tokens=True)
    ids = set(original().get_vocab(with_added_tokens=True).values())
    assert text_tokenizer().size == max(ids) + 1


@pytest.mark.parametrize("key", ["post_processor", "truncation", "padding"])
def test_the_original_really_has_what_is_taken_away(key: str) -> None:
    assert json.loads(original().to_str())[key] is not None


def test_a_vocabulary_that_spells_special_tokens_is_refused() -> None:
    """A Unigram lattice matches what is in its vocabulary, added or not."""
    vocabulary = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((c, -4.0) for c in "abc<>/s ")]
    unigram = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    assert TextTokenizer(unigram.to_str()).encode("ab") != []
    unigram.add_special_tokens(["<s>", "</s>", "<unk>"])
    with pytest.raises(ValueError, match="would be that special token"):
        TextTokenizer(unigram.to_str())


@pytest.mark.parametrize("length", [OFTEN, OFTEN + 1])
def test_ids_that_are_looked_up_are_no_others_for_what_became_of_them(length: int) -> None:
    tokenizer = text_tokenizer()
    text = "a" * length
    first = tokenizer.encode(text)
    kept = list(first)
    first.clear()
    assert tokenizer.encode(text) == kept != []
    assert tokenizer.encode(text, at_start=True) == kept
