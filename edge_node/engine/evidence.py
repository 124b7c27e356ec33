"""What the target tells of a drafted token that it would not have chosen, as numbers that a head can read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from airdraft.core.acceptance_chain import WEIGHT_TOTAL

SCALARS = ("drafted_log_p", "choice_log_p", "entropy", "max_log_p", "after_entropy", "after_max_log_p")
"""Fields of ``airdraft.core.types.Evidence`` in the order in which a head reads them."""

Embed = Callable[[Tensor], Tensor]
"""The target's input embedding: ids [n] to states [n, d]."""

REST_WEIGHT = 0.5
"""What a q that names some ids is taken to leave for all others: half of the least weight that it can name."""

_CELLS = 1 << 24  # logits that are read at a time
_CPU_CELLS = 1 << 18  # so that they stay in a cache
_FARTHEST = -1e4  # under a row's greatest logit: e to it is 0, and -inf times 0 would be no number


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What n rows of logits l come to, each [n]: a token's log p is its logit less ``log_total``."""

    log_total: Tensor  # log of the sum of e^l
    entropy: Tensor  # nats
    max_log_p: Tensor

    def of(self, index: Tensor) -> RowFacts:
        """Return those of these rows."""
        return RowFacts(self.log_total[index], self.entropy[index], self.max_log_p[index])


def row_facts(logits: Tensor, rows: Tensor) -> RowFacts:
    """Return what these rows of float32 logits [N, V] come to: one reading of each, a few rows at a time."""
    cells = _CPU_CELLS if logits.device.type == "cpu" else _CELLS
    pieces: tuple[Tensor, ...] = torch.split(rows, max(1, cells // logits.shape[1]))
    parts = [_facts(logits.index_select(0, piece)) for piece in pieces]
    return RowFacts(*(torch.cat(column) for column in zip(*parts, strict=True)))


def token_scalars(
    logits: Tensor, facts: RowFacts, parents: Tensor, drafted: Tensor, choice: Tensor, after: RowFacts
) -> Tensor:
    """Return the scalars [n, 6] of n drafted tokens, float32, in the order of ``SCALARS``.

    logits           [N, V]  float32, V the tokenizer's size
    parents          [n]     the row after each node's parent
    facts, after     [n]     of the rows after the nodes' parents, and after the nodes
    drafted, choice  [n]     ids: the node's own, and the target's choice in its place

    Logarithms are natural, entropies in nats; all are of the softmax without the session's sampling settings.
    """
    columns = (
        logits[parents, drafted] - facts.log_total,
        logits[parents, choice] - facts.log_total,
        facts.entropy,
        facts.max_log_p,
        after.entropy,
        after.max_log_p,
    )
    return torch.stack(columns, dim=1)


def evidence_scalars(before: Tensor, after: Tensor, drafted: Tensor, choice: Tensor) -> Tensor:
    """Return ``token_scalars`` of logits [n, V] after each node's parent, and after each node."""
    rows = torch.arange(len(before), device=before.device)
    return token_scalars(before, row_facts(before, rows), rows, drafted, choice, row_facts(after, rows))


def divergence(logits: Tensor, facts: RowFacts, parents: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Return KL(p || q) in nats [n] of the target's p and what n nodes were sampled from, on the ids that q names.

    logits   [N, V]  float32
    facts    [n]     of the rows after the nodes' parents, ``parents`` [n]
    ids      [n, K]  that each q names, any id where its weight is 0
    weights  [n, K]  of ``SparseQ``, float64

    All other ids are one outcome: p's is what it has left, and q's, which named none of them, ``REST_WEIGHT`` against
    a weight of ``WEIGHT_TOTAL`` for those that it named, so that the divergence is finite.
    """
    named = weights > 0
    p = (logits[parents[:, None], ids] - facts.log_total[:, None]).double().exp() * named
    p = torch.cat([p, (1 - p.sum(dim=1, keepdim=True)).clamp_(min=0)], dim=1)
    rest = torch.full_like(weights[:, :1], REST_WEIGHT)
    q = torch.cat([torch.where(named, weights, 1.0), rest], dim=1) / (WEIGHT_TOTAL + REST_WEIGHT)
    found: Tensor = (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(dim=1).clamp_(min=0)
    return found


def target_features(hidden: Tensor, drafted: Tensor, choice: Tensor, scalars: Tensor, embed: Embed) -> Tensor:
    """Return what a head's target part reads of n drafted tokens, float32 [n, 3 d + 6].

    hidden           [n, d]  what the LM head reads at the drafted nodes' own rows
    drafted, choice  [n]     ids: the node's own, and the target's choice in its place
    scalars          [n, 6]  of ``evidence_scalars``

    In this order: the hidden state, the drafted token's embedding, the choice's embedding, the scalars.
    """
    return torch.cat([hidden.float(), embed(drafted).float(), embed(choice).float(), scalars.float()], dim=1)


def _facts(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the fields of ``RowFacts`` of rows [n, V] that may be overwritten."""
    greatest = rows.amax(dim=1)
    below = rows.sub_(greatest[:, None]).clamp_(min=_FARTHEST)
    shares = below.exp()
    total = shares.sum(dim=1)
    mean = torch.linalg.vecdot(shares, below) / total  # of l - max l under p
    log_sum = total.log()
    return greatest + log_sum, log_sum - mean, -log_sum
