"""What may be loaded as a target, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import Tensor
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    RwkvConfig,
    RwkvForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from airdraft.checkpoint import CheckpointRefused, files_digest
from airdraft.core.types import Span
from edge_node.engine.attention import RaggedPass
from edge_node.engine.engine import TargetEngine
from edge_node.engine.loading import Target, load_target
from edge_node.engine.masks import AttentionKinds, SpanMasks, attention_kinds
from edge_node.engine.probe import probe
from edge_node.step import Extent
from tests.checkpoints import TOKENS, edit_json, save, save_tokenizer
from tests.shapes import CONTEXT, SHAPES, VOCABULARY, greedy, plain_logits, shape, text

every_shape = pytest.mark.parametrize("name", SHAPES)


def load(folder: Path, **options: Any) -> Target:
    return load_target(str(folder), device="cpu", **options)


@every_shape
def test_a_saved_model_gives_its_own_greedy_text(name: str, tmp_path: Path) -> None:
    model = shape(name)
    target = load(save(model, tmp_path / "tiny"))
    assert (target.name, target.vocabulary, target.stop_ids) == ("tiny", TOKENS, (0,))
    assert (target.context_tokens, target.dtype, str(target.device)) == (CONTEXT, "float32", "cpu")
    assert target.chat_template == "{{ messages }}"
    assert target.model_digest == files_digest(tmp_path / "tiny")
    assert '"w99":99' in target.tokenizer_json
    ids, engine = text(20), TargetEngine(target, 64)
    (logits,) = engine.extend([(Extent(0, 64), Span(0, tuple(ids), wanted=(19,)))])
    assert logits.argmax(dim=-1).tolist() == greedy(model, ids, 1)


def test_the_demo_target_loads() -> None:
    target = load_target("demo", device="cpu", max_context=512)
    assert (target.name, target.context_tokens, target.dtype) == ("demo", 512, "float32")
    assert target.stop_ids == (0,)
    assert target.vocabulary <= target.model.config.vocab_size


def test_gpt2_with_its_own_tokenizer_class(tmp_path: Path) -> None:
    folder = save(shape("gpt2"), tmp_path / "gpt2")
    vocabulary = {token: index for index, token in enumerate(["<|endoftext|>", "a", "b", "Ġ", "ab"])}
    Tokenizer(BPE(vocabulary, [("a", "b")])).save(str(folder / "tokenizer.json"))
    edit_json(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", eos_token="<|endoftext|>")
    target = load(folder)
    assert (target.vocabulary, target.stop_ids, target.context_tokens) == (5, (0,), CONTEXT)


def test_half_precision_is_granted_on_request(tmp_path: Path) -> None:
    folder = save(shape("llama"), tmp_path / "tiny")
    assert load(folder, dtype="bfloat16").dtype == "bfloat16"


def test_stop_ids_come_from_the_generation_configuration_first(tmp_path: Path) -> None:
    folder = save(shape("llama"), tmp_path / "tiny")
    edit_json(folder / "config.json", eos_token_id=7)
    (folder / "generation_config.json").unlink()
    assert load(folder).stop_ids == (7,)
    (folder / "generation_config.json").write_text('{"eos_token_id": [9, 3]}', encoding="utf-8")
    assert load(folder).stop_ids == (3, 9)


def test_max_context_caps_the_models_own(tmp_path: Path) -> None:
    folder = save(shape("llama"), tmp_path / "tiny")
    assert load(folder, max_context=2).context_tokens == 2
    assert load(folder, max_context=100_000).context_tokens == CONTEXT


def _mamba() -> PreTrainedModel:
    return MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=1))


def _rwkv() -> PreTrainedModel:
    return RwkvForCausalLM(RwkvConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2))


def _t5() -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )


def _bloom() -> PreTrainedModel:
    return BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=1, n_head=2))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_t5, "encoder-decoder"),
        (_mamba, "linear_attention"),
        (_rwkv, "recurrent state"),
        (_bloom, "does not run"),  # it attends in its own way, with positions of a padding mask
    ],
    ids=["t5", "mamba", "rwkv", "bloom"],
)
def test_what_cannot_be_rolled_back_is_refused(make: Any, reason: str, tmp_path: Path) -> None:
    folder = save(make(), tmp_path / "other")
    with pytest.raises(CheckpointRefused, match=reason) as refused:
        load(folder)
    assert "\n" not in str(refused.value)


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    folder = save(shape("llama"), tmp_path / "tiny")
    edit_json(folder / "config.json", num_hidden_layers=3)
    with pytest.raises(CheckpointRefused, match="lacks 9 weights"):
        load(folder)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = save(shape("llama"), tmp_path / "tiny")
    save_tokenizer(folder, VOCABULARY + 1)
    with pytest.raises(CheckpointRefused, match="129 tokens but embeds 128"):
        load(folder)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = save(shape("llama"), tmp_path / "tiny")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointRefused, match="tokenizer"):
        load(folder)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(CheckpointRefused, match="device abacus cannot be used here"):
        load_target("demo", device="abacus")


@every_shape
def test_the_probe_refuses_a_model_that_ignores_its_mask(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(name, shape(name), "", VOCABULARY, (), CONTEXT, b"", None)
    probe(target)
    made = SpanMasks.of

    def all_seen(masks: SpanMasks, span: Span) -> dict[int | None, Tensor]:
        return {window: torch.zeros_like(mask) for window, mask in made(masks, span).items()}

    monkeypatch.setattr(SpanMasks, "of", all_seen)
    with pytest.raises(CheckpointRefused, match="does not attend"):
        probe(target)


@every_shape
def test_the_probe_refuses_a_model_that_attends_in_its_own_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(name, shape(name), "", VOCABULARY, (), CONTEXT, b"", None)
    monkeypatch.setattr(RaggedPass, "attend", _first_session_only)
    with pytest.raises(CheckpointRefused, match="does not"):
        probe(target)


def _first_session_only(
    ragged: RaggedPass, base: Any, module: Any, query: Tensor, key: Tensor, value: Tensor, options: Any
) -> Tensor:
    """Attend as if the arena's first rows were everybody's."""
    result: Tensor = base(module, query, key[:, :, : query.shape[2]], value[:, :, : query.shape[2]], None, **options)[0]
    return result


@pytest.mark.parametrize("name", ["mistral", "gemma3", "qwen2-sliding"])
def test_the_probe_refuses_a_window_that_is_not_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target(name, shape(name), "", VOCABULARY, (), CONTEXT, b"", None)
    configured = target.model.config.sliding_window

    def without_windows(*arguments: Any) -> AttentionKinds:
        kinds = attention_kinds(*arguments)
        return replace(kinds, windows=(None,) * len(kinds.windows))

    monkeypatch.setattr("edge_node.engine.engine.attention_kinds", without_windows)
    with pytest.raises(CheckpointRefused, match="does not attend"):
        probe(target)
    assert target.model.config.sliding_window == configured


@every_shape
def test_outside_a_pass_the_model_is_what_it_was(name: str) -> None:
    """An engine names its own attention in the model's configuration; whoever else runs the model must not notice."""
    before = plain_logits(shape(name, seed=7), text(20))
    TargetEngine(Target(name, shape(name, seed=7), "", VOCABULARY, (), CONTEXT, b"", None), 64)
    assert torch.equal(plain_logits(shape(name, seed=7), text(20)), before)
    assert shape(name, seed=7).config._attn_implementation == "ragged_sdpa"
