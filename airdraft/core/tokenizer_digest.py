"""A tokenizer's identity, by canonical content.

Two files of one tokenizer may differ in order, in spelling ("a b" or ["a", "b"] for a merge) and in whether added
tokens stand in the vocabulary too; two models that share it may pad their embedding rows differently. What makes ids
mean the same is compared: tokens with their ids, merges in order, added tokens, normaliser (DESIGN §4).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any


def tokenizer_digest(tokenizer_json: str) -> bytes:
    """Return 32 bytes that identify the tokenizer written in Hugging Face's ``tokenizer.json`` form.

    Raises ValueError where the text is not such a form.
    """
    try:
        content = json.loads(tokenizer_json)
        canonical = {
            "kind": content["model"].get("type") or "BPE",
            "tokens": sorted(_tokens(content).items()),
            "scores": _scores(content["model"]),
            "merges": [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in _merges(content)],
            "added": sorted([token["id"], token["content"]] for token in content.get("added_tokens") or ()),
            "normalizer": content.get("normalizer"),
        }
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"not a tokenizer.json: {error!r}") from error
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return blake2b(text.encode(), digest_size=32).digest()


def vocabulary_size(tokenizer_json: str) -> int:
    """Return the highest id plus one, added tokens included: never a model's embedding rows."""
    return max(_tokens(json.loads(tokenizer_json))) + 1


def _tokens(content: Mapping[str, Any]) -> dict[int, str]:
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: [token, score] in order of id
        tokens = {index: entry[0] for index, entry in enumerate(vocabulary)}
    else:
        tokens = {index: token for token, index in vocabulary.items()}
    return tokens | {token["id"]: token["content"] for token in content.get("added_tokens") or ()}


def _scores(model: Mapping[str, Any]) -> list[float] | None:
    return [entry[1] for entry in model["vocab"]] if isinstance(model["vocab"], list) else None


def _merges(content: Mapping[str, Any]) -> list[Any]:
    return content["model"].get("merges") or []
