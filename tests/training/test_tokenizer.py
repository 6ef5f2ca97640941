import pytest
from transformers import PreTrainedTokenizerFast

from training.tokenizer import EOS_ID


@pytest.mark.parametrize(
    "text",
    [
        "The cat sat on the mat.",
        "Über 1234,5 Züge?!",
        "emoji \U0001f600 and 漢字",
        "isn't it (really)",
        "a</s>b <pad> <s>",
    ],
)
def test_decoding_gives_the_text_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_quotes_and_white_space_are_normalised(tokenizer: PreTrainedTokenizerFast) -> None:
    target_ids = tokenizer(" \u201eso\u201c,\n it\u2019s \u00abdone\u00bb ")["input_ids"]
    assert tokenizer.decode(target_ids, skip_special_tokens=True) == '"so", it\'s "done"'


def test_the_only_special_token_is_one_eos_at_the_end(tokenizer: PreTrainedTokenizerFast) -> None:
    source_ids = tokenizer("a </s> b")["input_ids"]
    assert [row for row, id_ in enumerate(source_ids) if id_ in tokenizer.all_special_ids] == [
        len(source_ids) - 1
    ]
    assert source_ids[-1] == EOS_ID


def test_tokens_of_joined_texts_are_the_joined_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    first, second = "The cat sat.", "10 mats, 2 cats"
    joined = tokenizer(f"{first} {second}")["input_ids"]
    assert joined == tokenizer(first)["input_ids"][:-1] + tokenizer(second)["input_ids"]


def test_a_digit_is_a_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer("10451045")["input_ids"]) == len("10451045") + 1
