"""Measures the demo pair: `python -m models.evaluate [--models FOLDER]` prints a table and one line of JSON.

Accuracy: right answers on held-out problems, greedy. Acceptance: share of the target's greedy completion tokens that
are also the drafter's argmax after the same prefix. A rejection is harmless if the drafter's token put in its place,
with the target finishing greedily, leads to the target's own final answer.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from models.tokenizer import end_token, load_tokenizer
from models.wordproblems import check_answer, word_problem

MAX_NEW_TOKENS = 96
BATCH = 128

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Quality:
    """What one model reached; the last three fields are a drafter's alone."""

    model: str
    parameters: int
    accuracy: float
    acceptance: float | None = None
    harmless: float | None = None
    rejections: int | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """One position at which the drafter's argmax differs from the target's token."""

    problem: int
    prefix: Tokens  # prompt and the target's completion before the position, then the drafter's token


def load_model(folder: Path) -> LlamaForCausalLM:
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.train(False)
    return model


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Indices in batches of equal length, so that no padding changes a result."""
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        by_length[length].append(index)
    return [group[i : i + BATCH] for group in by_length.values() for i in range(0, len(group), BATCH)]


@torch.inference_mode()
def greedy(model: LlamaForCausalLM, prefixes: Sequence[Tokens], end: int) -> list[Tokens]:
    """The greedy continuation of every prefix, up to and including the end token."""
    done: list[Tokens] = [()] * len(prefixes)
    for group in _groups([len(p) for p in prefixes]):
        cache, wanted = None, torch.tensor([prefixes[i] for i in group])
        rows: list[list[int]] = [[] for _ in group]
        for _ in range(MAX_NEW_TOKENS):
            output = model(input_ids=wanted, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, wanted = output.past_key_values, output.logits[:, -1:].argmax(-1)
            for row, token in zip(rows, wanted[:, 0].tolist(), strict=True):
                row.append(token)
            if all(end in row for row in rows):
                break
        for index, row in zip(group, rows, strict=True):
            done[index] = tuple(row[: row.index(end) + 1] if end in row else row)
    return done


@torch.inference_mode()
def rejections(drafter: LlamaForCausalLM, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> list[Rejection]:
    """Where the drafter, shown the target's text, would have drafted another token."""
    found = []
    for problem, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        text = prompt + completion
        logits = drafter(input_ids=torch.tensor([text[:-1]])).logits[0, len(prompt) - 1 :]
        for offset, drafted in enumerate(logits.argmax(-1).tolist()):
            if drafted != completion[offset]:
                found.append(Rejection(problem, (*text[: len(prompt) + offset], drafted)))
    return found


def harmless_share(
    target: LlamaForCausalLM, tokenizer: Tokenizer, rejected: Sequence[Rejection], answers: Sequence[int | None]
) -> float:
    """Share of the rejections after which the target still reaches its own answer; answers [problems]."""
    end = end_token(tokenizer)
    finished = greedy(target, [r.prefix for r in rejected], end)
    harmless = 0
    for rejection, rest in zip(rejected, finished, strict=True):
        answer = check_answer(tokenizer.decode(rejection.prefix + rest))
        harmless += answer is not None and answer == answers[rejection.problem]
    return harmless / max(1, len(rejected))


def evaluate(folder: Path, drafters: Sequence[str], problems: int) -> list[Quality]:
    """Measure folder/target and the named drafters beside it on the first held-out problems."""
    tokenizer = load_tokenizer(folder / "target")
    end = end_token(tokenizer)
    documents = [word_problem("held-out", i) for i in range(problems)]
    prompts = [tuple(tokenizer.encode(d.prompt).ids) for d in documents]

    def answered(completions: Sequence[Tokens]) -> list[int | None]:
        return [check_answer(tokenizer.decode(completion)) for completion in completions]

    def accuracy(answers: Sequence[int | None]) -> float:
        return sum(a == d.answer for a, d in zip(answers, documents, strict=True)) / problems

    target = load_model(folder / "target")
    completions = greedy(target, prompts, end)
    answers = answered(completions)
    tokens = sum(map(len, completions))
    measured = [Quality("target", target.num_parameters(), accuracy(answers))]
    for name in drafters:
        drafter = load_model(folder / name)
        own = accuracy(answered(greedy(drafter, prompts, end)))
        rejected = rejections(drafter, prompts, completions)
        harmless = harmless_share(target, tokenizer, rejected, answers)
        measured.append(
            Quality(name, drafter.num_parameters(), own, 1 - len(rejected) / tokens, harmless, len(rejected))
        )
    return measured


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models/demo"), help="folder of the model folders")
    parser.add_argument("--drafters", nargs="*", help="default: every drafter* in that folder")
    parser.add_argument("--problems", type=int, default=500)
    args = parser.parse_args()
    drafters = args.drafters or sorted(p.name for p in args.models.glob("drafter*"))
    measured = evaluate(args.models, drafters, args.problems)
    print(f"{'model':<12}{'parameters':>12}{'accuracy':>10}{'acceptance':>12}{'harmless':>10}{'rejections':>12}")
    for q in measured:
        cells = (q.acceptance, q.harmless)
        shown = "".join(f"{'-' if c is None else format(c, '.3f'):>{w}}" for c, w in zip(cells, (12, 10), strict=True))
        print(f"{q.model:<12}{q.parameters:>12,}{q.accuracy:>10.3f}{shown}{q.rejections or '-':>12}")
    print(json.dumps([asdict(q) for q in measured]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
