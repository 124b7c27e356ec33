"""Model folders for tests, as transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedModel

TOKENS = 100


def save(model: PreTrainedModel, folder: Path) -> Path:
    """Write a model and a tokenizer of 100 words; the model's other rows are padding."""
    model.save_pretrained(folder)
    save_tokenizer(folder, TOKENS)
    return folder


def save_tokenizer(folder: Path, tokens: int) -> None:
    """Write a tokenizer of the words w0, w1 …; w0 ends a text."""
    tokenizer = Tokenizer(WordLevel({f"w{index}": index for index in range(tokens)}, unk_token="w1"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "w0", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(content), encoding="utf-8")
