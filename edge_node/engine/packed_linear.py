"""Weights laid out once for the CPU's matrix products, where a product of few rows otherwise reads them badly.

A pass over a handful of positions is bound by reading the weights. PyTorch hands them to the matrix library as they
lie, and 4 rows then take nearly twice what they must (``python -m bench engine``, the table of widths). oneDNN's own
layout, made at load, reads them at full speed for any number of rows, and gives a row the same bits whatever that
number is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALLEST_WEIGHT = 1 << 18
"""Elements below which a call's own cost, some 0.01 ms, outweighs the layout."""

_ROWS = 16
"""The number of rows that the layout is chosen for; from 5 on they all are alike."""


_LEAST_ROWS = 4
"""oneDNN reads the weights slower for fewer rows than for four, by a fifth for one: the others are zeros."""


class PackedLinear(nn.Module):
    """A linear layer whose weight lies as oneDNN likes it. For inference alone."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the product [..., out] for rows [..., in]."""
        count = rows.numel() // self.in_features
        if count >= _LEAST_ROWS:
            return self._product(rows)
        padded = rows.new_zeros(_LEAST_ROWS, self.in_features)
        padded[:count] = rows.reshape(count, self.in_features)
        return self._product(padded)[:count].view(*rows.shape[:-1], self.out_features)

    def _product(self, rows: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], "")
        return product


def pack_linears(model: nn.Module) -> int:
    """Replace the model's large float32 linear layers on a CPU by packed ones; return how many.

    Does nothing where this build of PyTorch has no oneDNN.
    """
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return 0
    places = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and _worth_it(child.weight)
    ]
    for parent, name in places:  # one at a time: both layouts of a whole model may not fit
        setattr(parent, name, PackedLinear(getattr(parent, name)))
    return len(places)


def _worth_it(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= SMALLEST_WEIGHT
