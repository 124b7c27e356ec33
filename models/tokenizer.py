"""The demo pair's byte-level BPE: any text encodes (complete byte alphabet), no begin token, `<|end|>` ends a text."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from models.phrasing import TARGET_STYLE
from models.wordproblems import END, drill, word_problem

VOCABULARY = 896  # an upper bound: merges run out before it
DOCUMENTS = 20_000


def train_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=20,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    problems = (make for i in range(DOCUMENTS) for make in (word_problem("train", i, TARGET_STYLE), drill(i)))
    tokenizer.train_from_iterator((p.prompt + p.completion.removesuffix(END) for p in problems), trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and the configuration by which transformers loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def end_token(tokenizer: Tokenizer) -> int:
    """The id that ends a text."""
    end = tokenizer.token_to_id(END)
    assert end is not None
    return end
