"""Training of a head on labels: a logistic regression or a two-layer MLP, in minutes on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_node.heads import Kind

Floats = NDArray[np.float32]

_LEAST_SPREAD = 1e-3  # of a feature, which may be the same in all labels

Refresh = Callable[[np.random.Generator], tuple[Floats, Floats]]
"""Draws channels anew: the standardised channel of each label [n, 2], and its harm there [n]."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a head is trained."""

    kind: Kind = "mlp"
    width: int = 32  # of an MLP's first layer
    epochs: int = 40
    batch: int = 512
    rate: float = 6e-3
    decay: float = 0.3  # of the weights
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A trained head, its inputs as they come: what standardised them is folded in. H is 1 for a logistic one."""

    first: Floats  # [H, inputs]
    bias: Floats  # [H]
    out: Floats  # [H]
    out_bias: float
    relu: bool

    def logits(self, inputs: Floats) -> NDArray[np.float64]:
        """Return the head's output [n] for inputs [n, inputs]."""
        hidden = inputs @ self.first.T + self.bias
        logits: NDArray[np.float64] = (np.maximum(hidden, 0) if self.relu else hidden).astype(np.float64) @ self.out
        return logits + self.out_bias


def fit(inputs: Floats, harms: Floats, recipe: Recipe, refresh: Refresh | None = None) -> Weights:
    """Train on inputs [n, F] and harms [n] in [0, 1] by cross entropy.

    refresh  where the channel is an input too: draws it, and what is harmful there, anew for each epoch; its two
             columns then stand behind the others
    """
    mean, spread = inputs.mean(0), np.maximum(inputs.std(0), _LEAST_SPREAD)
    standard = torch.from_numpy((inputs - mean) / spread)
    columns = standard.shape[1] + (2 if refresh else 0)
    torch.manual_seed(recipe.seed)
    first = nn.Linear(columns, recipe.width if recipe.kind == "mlp" else 1)
    out = nn.Linear(first.out_features, 1)
    if recipe.kind == "logistic":
        nn.init.ones_(out.weight).requires_grad_(False)
        nn.init.zeros_(out.bias).requires_grad_(False)
    relu = recipe.kind == "mlp"
    _train(first, out, relu, standard, harms, recipe, refresh)
    weights = first.weight.detach().numpy().copy()
    weights[:, : len(mean)] /= spread
    bias = first.bias.detach().numpy() - weights[:, : len(mean)] @ mean
    return Weights(weights, bias.astype(np.float32), out.weight.detach().numpy()[0], float(out.bias.item()), relu)


def _train(
    first: nn.Linear, out: nn.Linear, relu: bool, standard: Tensor, harms: Floats, recipe: Recipe,
    refresh: Refresh | None,
) -> None:  # fmt: skip
    chance = np.random.default_rng(recipe.seed)
    trained = [weight for layer in (first, out) for weight in layer.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=recipe.rate, weight_decay=recipe.decay)
    batch = min(recipe.batch, len(standard))
    steps = recipe.epochs * (len(standard) // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _warm_then_cool(step / steps))
    for _ in range(recipe.epochs):
        inputs, wanted = standard, torch.from_numpy(harms)
        if refresh is not None:
            channels, drawn = refresh(chance)
            inputs, wanted = torch.cat([standard, torch.from_numpy(channels)], dim=1), torch.from_numpy(drawn)
        for rows in _batches(len(standard), batch, chance):
            hidden = first(inputs[rows])
            logits = out(hidden.relu() if relu else hidden)[:, 0]
            loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def _batches(count: int, batch: int, chance: np.random.Generator) -> Iterator[Tensor]:
    order = torch.from_numpy(chance.permutation(count))
    return iter(torch.split(order[: count // batch * batch], batch))


def _warm_then_cool(share: float) -> float:
    """Return the factor of the rate: up over the first tenth, then down along a cosine."""
    return share * 10 if share < 0.1 else 0.5 * (1 + float(np.cos(np.pi * (share - 0.1) / 0.9)))
