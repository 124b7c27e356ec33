"""Trains the demo pair: `python -m models.train tokenizer|target|drafter|… --out FOLDER`.

Many small steps of AdamW on freshly generated documents; the loss counts the completion's tokens alone.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from models.phrasing import TARGET_STYLE, Style, drafter_style
from models.tokenizer import end_token, load_tokenizer, save_tokenizer, train_tokenizer
from models.wordproblems import drill, word_problem

WARMUP_STEPS = 100
BATCHES_SORTED = 64  # documents of so many batches are sorted by length together: little padding
IGNORED = -100  # the label that cross_entropy skips


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one model is and how it is trained."""

    style: Style
    layers: int
    steps: int
    width: int = 128
    batch: int = 16
    learning_rate: float = 3e-3
    drill_every: int = 6  # one document in so many is a drill
    seed: int = 0


RECIPES: dict[str, Recipe] = {
    "target": Recipe(TARGET_STYLE, layers=4, steps=10_000, learning_rate=2e-3),
    "drafter": Recipe(drafter_style("drafter", overlap=0.62), layers=2, steps=1280, seed=1),
    "drafter-60": Recipe(drafter_style("drafter-60", overlap=0.75), layers=2, steps=1000, seed=2),
    "drafter-40": Recipe(drafter_style("drafter-40", overlap=0.81), layers=2, steps=950, seed=3),
}


def build_model(recipe: Recipe, tokenizer: Tokenizer) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    end = end_token(tokenizer)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=recipe.width,
        intermediate_size=recipe.width * 3,
        num_hidden_layers=recipe.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def encoded_documents(recipe: Recipe, tokenizer: Tokenizer) -> Iterator[tuple[list[int], int]]:
    """Endless training documents as token ids, each with the length of its prompt."""
    index = 0
    while True:
        drilled = index % recipe.drill_every == 0
        problem = drill(index, recipe.style) if drilled else word_problem("train", index, recipe.style)
        prompt = tokenizer.encode(problem.prompt).ids
        yield prompt + tokenizer.encode(problem.completion).ids, len(prompt)
        index += 1


def batches(recipe: Recipe, tokenizer: Tokenizer) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (ids, labels), both [batch, longest], padded on the right."""
    documents = encoded_documents(recipe, tokenizer)
    order = torch.Generator().manual_seed(recipe.seed)
    while True:
        chunk = sorted((next(documents) for _ in range(recipe.batch * BATCHES_SORTED)), key=lambda d: len(d[0]))
        for start in torch.randperm(BATCHES_SORTED, generator=order).tolist():
            rows = chunk[start * recipe.batch : (start + 1) * recipe.batch]
            longest = len(rows[-1][0])
            ids = torch.tensor([row + [0] * (longest - len(row)) for row, _ in rows])
            labels = torch.tensor(
                [[IGNORED] * prompt + row[prompt:] + [IGNORED] * (longest - len(row)) for row, prompt in rows]
            )
            yield ids, labels


def learning_rate_share(step: int, steps: int) -> float:
    """Linear warm-up, then linear decay to nothing."""
    return min((step + 1) / WARMUP_STEPS, (steps - step) / max(1, steps - WARMUP_STEPS))


def train(model: LlamaForCausalLM, recipe: Recipe, tokenizer: Tokenizer) -> None:
    """Train in place; a line of progress every 200 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, recipe.steps))
    model.train()
    start, loss_sum = time.perf_counter(), 0.0
    for step, (ids, labels) in zip(range(1, recipe.steps + 1), batches(recipe, tokenizer), strict=False):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        wanted = labels[:, 1:]
        kept = wanted != IGNORED
        loss = cross_entropy(model.lm_head(hidden[kept]), wanted[kept])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        loss_sum += loss.item()
        if step % 200 == 0:
            print(f"step {step} loss {loss_sum / 200:.4f} seconds {time.perf_counter() - start:.0f}", flush=True)
            loss_sum = 0.0
    print(f"{recipe.steps} steps in {time.perf_counter() - start:.0f} seconds", flush=True)


def save_model(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write float16 weights, their configuration and the tokenizer."""
    end = end_token(tokenizer)
    generation = GenerationConfig.from_dict({"eos_token_id": end, "pad_token_id": end, "do_sample": False})
    model.generation_config = generation
    module: torch.nn.Module = model
    module.to(torch.float16)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    parser.add_argument("what", choices=("tokenizer", *RECIPES))
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--tokenizer", type=Path, default=Path("models/demo/target"), help="folder with tokenizer.json")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    args = parser.parse_args()
    if args.what == "tokenizer":
        tokenizer = train_tokenizer()
        save_tokenizer(tokenizer, args.out)
        print(f"{tokenizer.get_vocab_size()} tokens")
        return 0
    torch.set_num_threads(1)
    recipe = RECIPES[args.what]
    if args.steps is not None:
        recipe = replace(recipe, steps=args.steps)
    tokenizer = load_tokenizer(args.tokenizer)
    model = build_model(recipe, tokenizer)
    print(f"{args.what}: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    train(model, recipe, tokenizer)
    save_model(model, tokenizer, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
