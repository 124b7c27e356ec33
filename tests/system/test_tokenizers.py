"""Which drafters belong to which target: by what a tokenizer says, not by files and padded rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the edge's packages")

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from airdraft.core.errors import TokenizerMismatch
from airdraft.core.tokenizer_digest import tokenizer_digest
from airdraft.core.types import Limits, Sampling
from airdraft.wire.client import EdgeConnection
from airdraft.wire.describe import Description
from device_client.drafters import load_drafter
from edge_node.engine.loading import load_target
from tests.data import recorded
from tests.system.loopback import ask, edge_on_loopback

ROWS_7B, ROWS_05B = 152_064, 151_936  # embedding rows of Qwen2.5 7B and 0.5B, from their configurations


def qwen_shape(rows: int) -> PreTrainedModel:
    """A small Qwen2 with this many embedding rows; the weights of the rows that tokens have are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=ROWS_7B, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                num_key_value_heads=1, tie_word_embeddings=True, initializer_range=0.5, max_position_embeddings=256,
                eos_token_id=151_645,
            )
        )  # fmt: skip
    model.resize_token_embeddings(rows)
    return model


def qwen_tokenizer(merges: list[tuple[str, str]], folder: Path) -> Tokenizer:
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer(BPE(vocabulary, merges))
    tokenizer.normalizer = NFC()
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    added = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
    tokenizer.add_special_tokens([AddedToken(token) for token in sorted(added, key=added.__getitem__)])
    return tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    source = recorded("tokenizers/qwen2")
    lines = (source / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [
        (first, second) for first, second in (line.split(" ") for line in lines if not line.startswith("#version"))
    ]
    at = next(index for index in range(1000, len(merges) - 1) if "".join(merges[index]) != "".join(merges[index + 1]))
    swapped = [*merges[:at], merges[at + 1], merges[at], *merges[at + 2 :]]
    made: dict[str, Path] = {}
    for name, rows, spelling in (("7b", ROWS_7B, merges), ("0.5b", ROWS_05B, merges), ("other", ROWS_05B, swapped)):
        made[name] = tmp_path_factory.mktemp(name)
        qwen_shape(rows).save_pretrained(made[name])
        qwen_tokenizer(spelling, source).save(str(made[name] / "tokenizer.json"))
    return made


async def test_padded_rows_do_not_matter_and_one_other_merge_does(folders: dict[str, Path]) -> None:
    target = load_target(str(folders["7b"]), device="cpu", dtype="float32")
    assert target.vocabulary == 151_646  # the tokenizer's, not the 152,064 rows
    digest = tokenizer_digest(target.tokenizer_json)
    described = Description("q", target.model_digest, digest, target.stop_ids, target.vocabulary, Limits(256), "")
    drafter = load_drafter(str(folders["0.5b"]), None, described, Sampling())
    prompt = Tokenizer.from_str(target.tokenizer_json).encode("Hello from the edge of the network.").ids
    async with edge_on_loopback(target, tokenizer_digest=digest) as edge, EdgeConnection(edge.address) as connection:
        answer = await ask(edge, connection, prompt, drafter, draft_length=4, max_tokens=12)
    assert answer.session.tally.drafted > 0
    assert answer.session.tally.acceptance == 1.0  # they differ in padding alone
    assert max(answer.ids) < target.vocabulary
    with pytest.raises(TokenizerMismatch, match="different tokenizers"):
        load_drafter(str(folders["other"]), None, described, Sampling())
