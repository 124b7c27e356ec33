"""Packed layers give the products of the plain ones, and strict holds on them down to a single row."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from airdraft.core.types import Span
from edge_node.engine.engine import TargetEngine
from edge_node.engine.packed_linear import SMALLEST_WEIGHT, PackedLinear, pack_linears
from edge_node.engine.target import Target
from edge_node.step import Extent

WIDTH = 512
assert WIDTH * WIDTH >= SMALLEST_WEIGHT


def wide_model() -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=700,
            hidden_size=WIDTH,
            intermediate_size=640,
            num_hidden_layers=2,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
        )
        model = LlamaForCausalLM(config)
    model.requires_grad_(False)
    model.eval()  # type: ignore[no-untyped-call]
    return model


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5, 16, 100])
def test_a_packed_layer_gives_the_same_product(rows: int, bias: bool) -> None:
    plain = nn.Linear(WIDTH, WIDTH + 8, bias=bias)
    packed = PackedLinear(plain)
    some = torch.randn(1, rows, WIDTH)
    with torch.inference_mode():
        assert torch.allclose(packed(some), plain(some), atol=1e-5)


def test_large_layers_are_packed_and_small_ones_and_embeddings_stay() -> None:
    model = wide_model()
    ids = torch.arange(40)[None] % 700
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        packed = pack_linears(model)
        after = model(input_ids=ids).logits
    assert packed == sum(isinstance(layer, PackedLinear) for layer in model.modules()) == 2 * 5 + 1
    assert isinstance(model.model.layers[0].self_attn.k_proj, nn.Linear)  # half as wide: too small
    assert isinstance(model.model.embed_tokens, nn.Embedding)
    assert float((after - before).abs().max()) < 1e-4
    assert pack_linears(model) == 0
    assert pack_linears(wide_model().to(dtype=torch.bfloat16)) == 0  # type: ignore[call-arg]


def test_strict_holds_on_packed_layers() -> None:
    model = wide_model()
    pack_linears(model)
    engine = TargetEngine(Target("wide", model, "", 700, (), 128, b"", None), 256, profile="strict")
    ids = tuple(range(3, 103))
    (whole,) = engine.extend([(Extent(0, 128), Span(0, ids, wanted=tuple(range(100))))])
    alone = [engine.extend([(Extent(128, 128), Span(at, (token,), wanted=(0,)))])[0] for at, token in enumerate(ids)]
    assert torch.equal(torch.cat(alone), whole)
