"""The acceptance rules of ``airdraft.core.acceptance`` in torch, for many chains of different length at once.

The numpy functions are the reference. For the same uniforms these give the same verdicts, unless a uniform lies within
rounding of its threshold (some 1e-12 in float64): sums here are added up in another order. The papers and formulas are
in the reference's docstrings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from airdraft.core.acceptance import Verdict
from airdraft.core.acceptance_chain import Chain, Uniforms

PAD_ID = 2**62
"""Fills the ends of sparse rows, so that they still ascend; its probability is 0."""


@dataclass(frozen=True, slots=True)
class ChainBatch:
    """B chains of up to N draft tokens, with up to S target and K drafter entries a row.

    tokens      [B, N]         draft tokens, anything past a chain's length
    lengths     [B]
    target_ids  [B, N + 1, S]  ascending, ``PAD_ID`` at the end
    target      [B, N + 1, S]  p, 0 where padded
    draft_ids   [B, N, K]      as target_ids
    draft       [B, N, K]      q, 0 where padded and for rules that need none

    Whole rows past a chain's length hold anything that is finite.
    """

    tokens: Tensor
    lengths: Tensor
    target_ids: Tensor
    target: Tensor
    draft_ids: Tensor
    draft: Tensor

    @classmethod
    def of(cls, chains: Sequence[Chain], device: torch.device | str = "cpu") -> ChainBatch:
        """Pack chains; their distributions become float64 on ``device``."""
        longest = max(len(chain.tokens) for chain in chains)
        support = max(p.ids.size for chain in chains for p in chain.target)
        entries = max((q.ids.size for chain in chains for q in chain.draft), default=1)
        tokens = torch.zeros(len(chains), longest, dtype=torch.int64)
        target_ids = torch.full((len(chains), longest + 1, support), PAD_ID)
        target = torch.zeros(target_ids.shape, dtype=torch.float64)
        draft_ids = torch.full((len(chains), longest, entries), PAD_ID)
        draft = torch.zeros(draft_ids.shape, dtype=torch.float64)
        for row, chain in enumerate(chains):
            tokens[row, : len(chain.tokens)] = torch.tensor(chain.tokens, dtype=torch.int64)
            for rows, ids, probabilities in ((chain.target, target_ids, target), (chain.draft, draft_ids, draft)):
                for at, distribution in enumerate(rows):
                    ids[row, at, : distribution.ids.size] = torch.from_numpy(distribution.ids)
                    probabilities[row, at, : distribution.ids.size] = torch.from_numpy(distribution.probabilities)
        lengths = torch.tensor([len(chain.tokens) for chain in chains])
        return cls(*(part.to(device) for part in (tokens, lengths, target_ids, target, draft_ids, draft)))

    def live(self) -> Tensor:
        """Return which draft tokens are no padding, [B, N] bool."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.lengths[:, None]

    def p_of_tokens(self) -> Tensor:
        """Return p of each draft token, [B, N]."""
        return _probability(self.target_ids[:, :-1], self.target[:, :-1], self.tokens)

    def q_of_tokens(self) -> Tensor:
        """Return q of each draft token, [B, N]."""
        return _probability(self.draft_ids, self.draft, self.tokens)


@dataclass(frozen=True, slots=True)
class UniformBatch:
    """Uniforms in [0, 1), anything past a chain's length: ``accept`` [B, N] and ``draw`` [B, N + 1]."""

    accept: Tensor
    draw: Tensor

    @classmethod
    def of(cls, uniforms: Sequence[Uniforms], device: torch.device | str = "cpu") -> UniformBatch:
        """Pack the uniforms of each chain."""
        longest = max(one.accept.size for one in uniforms)
        accept = torch.zeros(len(uniforms), longest, dtype=torch.float64)
        draw = torch.zeros(len(uniforms), longest + 1, dtype=torch.float64)
        for row, one in enumerate(uniforms):
            accept[row, : one.accept.size] = torch.from_numpy(one.accept)
            draw[row, : one.draw.size] = torch.from_numpy(one.draw)
        return cls(accept.to(device), draw.to(device))


@dataclass(frozen=True, slots=True)
class VerdictBatch:
    """How many draft tokens each chain keeps, [B], and the token that the target adds, [B]."""

    accepted: Tensor
    added: Tensor

    def verdicts(self, chains: Sequence[Chain]) -> list[Verdict]:
        """Return one verdict for each of the chains that were judged."""
        rows = zip(chains, self.accepted.tolist(), self.added.tolist(), strict=True)
        return [Verdict.of(chain.tokens, accepted, added) for chain, accepted, added in rows]


def exact(batch: ChainBatch, uniforms: UniformBatch) -> VerdictBatch:
    """Twin of ``airdraft.core.acceptance.exact``."""
    choices = _drawn(batch.target_ids, batch.target, uniforms.draw)
    accepted = _leading(batch, choices[:, :-1] == batch.tokens)
    return VerdictBatch(accepted, choices.gather(1, accepted[:, None])[:, 0])


def rejection(batch: ChainBatch, uniforms: UniformBatch) -> VerdictBatch:
    """Twin of ``airdraft.core.acceptance.rejection``."""
    return lenient(batch, uniforms, lenience=1.0)


def lenient(batch: ChainBatch, uniforms: UniformBatch, *, lenience: float = 0.5) -> VerdictBatch:
    """Twin of ``airdraft.core.acceptance.lenient``."""
    if not 0 < lenience <= 1:
        raise ValueError(f"lenience must be above 0 and at most 1, not {lenience}")
    accepted = _leading(batch, uniforms.accept * lenience * batch.q_of_tokens() < batch.p_of_tokens())
    return _added(batch, uniforms, accepted, torch.ones_like(uniforms.draw[:, 0]))


def block(batch: ChainBatch, uniforms: UniformBatch) -> VerdictBatch:
    """Twin of ``airdraft.core.acceptance.block``."""
    live, ratios = batch.live(), batch.p_of_tokens() / batch.q_of_tokens()
    accepted, weight = torch.zeros_like(batch.lengths), torch.ones_like(uniforms.draw[:, 0])
    weight_of_accepted = weight
    for done in range(1, batch.tokens.shape[1] + 1):
        weight = (weight * ratios[:, done - 1]).clamp(max=1.0)
        passes = torch.where(batch.lengths == done, weight, _block_passes(batch, done, weight))
        passed = live[:, done - 1] & (uniforms.accept[:, done - 1] < passes)
        accepted = torch.where(passed, done, accepted)
        weight_of_accepted = torch.where(passed, weight, weight_of_accepted)
    return _added(batch, uniforms, accepted, weight_of_accepted)


def typical(batch: ChainBatch, uniforms: UniformBatch, *, epsilon: float = 0.09, delta: float = 0.3) -> VerdictBatch:
    """Twin of ``airdraft.core.acceptance.typical``."""
    if not (epsilon >= 0 and delta >= 0):
        raise ValueError(f"epsilon and delta must be 0 or more, not {epsilon} and {delta}")
    entropy = torch.special.entr(batch.target[:, :-1]).sum(-1)
    accepted = _leading(batch, batch.p_of_tokens() > (delta * torch.exp(-entropy)).clamp(max=epsilon))
    ids, p = _row(batch.target_ids, accepted), _row(batch.target, accepted)
    return VerdictBatch(accepted, _drawn(ids, p, _row(uniforms.draw, accepted)))


BatchedRule = Callable[[ChainBatch, UniformBatch], VerdictBatch]

BATCHED_RULES: dict[str, BatchedRule] = {
    "exact": exact,
    "rejection": rejection,
    "block": block,
    "typical": typical,
    "lenient": lenient,
}
"""The twin of each entry of ``ACCEPTANCE_RULES``."""


def _block_passes(batch: ChainBatch, done: int, weight: Tensor) -> Tensor:
    """Return h of the block of ``done`` tokens, [B], where the draft goes on after it."""
    if done == batch.tokens.shape[1]:
        return weight
    p = batch.target_ids[:, done], batch.target[:, done]
    left = _residual(*p, batch.draft_ids[:, done], batch.draft[:, done], weight).sum(-1)
    return torch.where(left > 0, left / (left + (1.0 - weight)), 0.0)


def _added(batch: ChainBatch, uniforms: UniformBatch, accepted: Tensor, scale: Tensor) -> VerdictBatch:
    ids, p = _row(batch.target_ids, accepted), _row(batch.target, accepted)
    weights = p
    if batch.tokens.shape[1]:
        last = accepted.clamp(max=batch.tokens.shape[1] - 1)
        left = _residual(ids, p, _row(batch.draft_ids, last), _row(batch.draft, last), scale)
        from_p = (accepted == batch.lengths) | (left <= 0).all(-1)
        weights = torch.where(from_p[:, None], p, left)
    return VerdictBatch(accepted, _drawn(ids, weights, _row(uniforms.draw, accepted)))


def _residual(target_ids: Tensor, target: Tensor, draft_ids: Tensor, draft: Tensor, scale: Tensor) -> Tensor:
    """Return max(scale * p - q, 0), [B, S], of rows of p [B, S] and q [B, K] by scale [B]."""
    at = torch.searchsorted(target_ids.contiguous(), draft_ids.contiguous()).clamp(max=target_ids.shape[-1] - 1)
    q = torch.where(target_ids.gather(-1, at) == draft_ids, draft, 0.0)
    return (scale[:, None] * target).scatter_add(-1, at, -q).clamp(min=0.0)


def _drawn(ids: Tensor, weights: Tensor, uniforms: Tensor) -> Tensor:
    """Return the id that each uniform [...] falls on by the weights [..., S]; one of weight 0 is never returned."""
    ends = weights.cumsum(-1)
    # Not a search: a parallel sum of floats need not ascend.
    beyond = (ends > (uniforms * ends[..., -1])[..., None]) & (weights > 0)
    last = weights.shape[-1] - 1 - (weights > 0).flip(-1).byte().argmax(-1)
    at = torch.where(beyond.any(-1), beyond.byte().argmax(-1), last)
    return ids.gather(-1, at[..., None])[..., 0]


def _probability(ids: Tensor, probabilities: Tensor, tokens: Tensor) -> Tensor:
    """Return the probability of one token a row: ids and probabilities [B, N, S], tokens [B, N]."""
    at = torch.searchsorted(ids.contiguous(), tokens[..., None].contiguous()).clamp(max=ids.shape[-1] - 1)
    held = ids.gather(-1, at) == tokens[..., None]
    return torch.where(held, probabilities.gather(-1, at), 0.0)[..., 0]


def _row(of: Tensor, at: Tensor) -> Tensor:
    """Return row ``at`` [B] of each chain's [B, N, ...]."""
    return of[torch.arange(at.shape[0], device=at.device), at]


def _leading(batch: ChainBatch, kept: Tensor) -> Tensor:
    """Return how many draft tokens each chain keeps before the first that is not, [B]."""
    return (kept & batch.live()).long().cumprod(-1).sum(-1)
