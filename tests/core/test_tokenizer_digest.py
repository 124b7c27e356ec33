"""Tokenizers are one by content, whatever their files look like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airdraft.core.tokenizer_digest import tokenizer_digest, vocabulary_size


def make(**model: Any) -> dict[str, Any]:
    return {
        "version": "1.0",
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": None,
        "added_tokens": [{"id": 5, "content": "<end>", "special": True}],
        "model": {
            "type": "BPE",
            "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4},
            "merges": ["a b", "ab c"],
            **model,
        },
    }


def digest(content: dict[str, Any]) -> bytes:
    return tokenizer_digest(json.dumps(content))


def test_spelling_and_order_do_not_matter() -> None:
    other = make(merges=[["a", "b"], ["ab", "c"]], vocab={"abc": 4, "ab": 3, "c": 2, "b": 1, "a": 0, "<end>": 5})
    other["truncation"] = {"max_length": 3}
    assert digest(make()) == digest(other)


@pytest.mark.parametrize(
    "other",
    [
        make(merges=["a b", "b c"]),
        make(merges=["ab c", "a b"]),
        make(vocab={"a": 1, "b": 0, "c": 2, "ab": 3, "abc": 4}),
        make() | {"normalizer": None},
        make() | {"added_tokens": []},
        make() | {"added_tokens": [{"id": 5, "content": "<stop>", "special": True}]},
        make() | {"added_tokens": [{"id": 6, "content": "<end>", "special": True}]},
    ],
)
def test_content_does(other: dict[str, Any]) -> None:
    assert digest(make()) != digest(other)


def test_the_vocabulary_counts_added_tokens() -> None:
    assert vocabulary_size(json.dumps(make())) == 6


def test_unigram_scores_count() -> None:
    def unigram(score: float) -> dict[str, Any]:
        return {"model": {"type": "Unigram", "vocab": [["a", 0.0], ["b", score]]}}

    assert digest(unigram(-1.0)) == digest(unigram(-1.0))
    assert digest(unigram(-1.0)) != digest(unigram(-2.0))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": 3}', '{"model": {"vocab": 3}}', "not json"])
def test_what_is_no_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"tokenizer|Expecting"):
        tokenizer_digest(text)
