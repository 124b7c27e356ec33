"""The models that the engine is measured on: llamas with random weights, made on the spot, for us and for every peer.

The same bytes every time. Nothing is measured of what they write, only that all write the same.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

CONTEXT_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides how long a pass takes."""

    name: str
    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int

    @property
    def spread(self) -> float:
        """Return the standard deviation of the weights: wide enough that the texts are no stretches of one token."""
        return 1.6 / math.sqrt(self.hidden)


M97 = Shape("97M", 768, 12, 12, 2048, 16_000)
TINY = Shape("tiny", 64, 2, 4, 128, 512)
"""For smoke tests: what it costs proves nothing."""


def prompts(count: int, tokens: int, vocabulary: int, seed: int) -> list[tuple[int, ...]]:
    """Return ``count`` prompts of ``tokens`` ids each."""
    drawn = np.random.default_rng(seed).integers(0, vocabulary, (count, tokens))
    return [tuple(map(int, prompt)) for prompt in drawn]


def write_checkpoint(shape: Shape, folder: Path) -> None:
    """Write float32 weights and a tokenizer of words, as transformers stores them."""
    # Loaded late: whoever only asks contestants needs neither.
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=shape.vocabulary,
                hidden_size=shape.hidden,
                intermediate_size=shape.intermediate,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.heads,
                max_position_embeddings=CONTEXT_TOKENS,
                initializer_range=shape.spread,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=None,
            )
        )
    model.save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({f"w{index}": index for index in range(shape.vocabulary)}, unk_token="w1"))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def write_gguf(folder: Path, path: Path) -> None:
    """Write the weights of a checkpoint of ours as llama.cpp reads them, in float32. Raises ImportError."""
    import gguf  # type: ignore[import-not-found, unused-ignore]
    from safetensors.numpy import load_file

    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, weights in load_file(folder / "model.safetensors").items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weights = interleaved(weights, config["num_attention_heads"])
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any, config: dict[str, Any]) -> None:
    """Say what llama.cpp must know of shape and tokenizer; it is never asked to tokenize."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(0)  # float32 throughout
    words = [f"w{index}" for index in range(config["vocab_size"])]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * len(words))
    writer.add_token_types([1] * len(words))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def interleaved(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder the rows of queries or keys: llama.cpp rotates neighbours, transformers the two halves of a head."""
    rows, columns = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
