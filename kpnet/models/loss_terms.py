"""The terms of a loss with the numbers of points behind them, so that batches and processes can be joined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.distributed
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


class LossTerms(NamedTuple):
    """The terms of the loss of a batch, each a mean over some of its points.

    Attributes:
        values: Weighted terms (T,); their sum is the loss.
        counts: How many points each is a mean over (T,), float.
        named: Name of each term of the head's loss to its weighted value.
    """

    values: Tensor
    counts: Tensor
    named: Mapping[str, Tensor] = {}

    def beside(self, other: LossTerms, prefix: str) -> LossTerms:
        """Return these terms and those of another part of the network.

        Args:
            other: Its terms.
            prefix: What their names begin with here.
        """
        named = {**self.named, **{prefix + name: value for name, value in other.named.items()}}
        return LossTerms(torch.cat([self.values, other.values]), torch.cat([self.counts, other.counts]), named)

    def weighted(self, everywhere: Tensor) -> Tensor:
        """Return the loss to differentiate in one of several processes.

        Args:
            everywhere: The `counts` of all processes (ranks, T).

        Returns:
            A scalar, of which the mean over the processes is the loss of all their batches as one.
        """
        return (self.values * (self.counts * len(everywhere) / everywhere.sum(0).clamp(min=1))).sum()

    def over_ranks(self) -> Tensor:
        """Return `weighted` with the counts of the other processes; all of them have to call it."""
        ddp = DistributedDataParallel._active_ddp_module
        group = None if ddp is None else ddp.process_group
        everywhere = [torch.empty_like(self.counts) for _ in range(torch.distributed.get_world_size(group))]
        torch.distributed.all_gather(everywhere, self.counts, group)
        return self.weighted(torch.stack(everywhere))


def pair_terms(terms: Mapping[str, Tensor], counts: Mapping[str, Tensor], weight: Tensor) -> LossTerms:
    """Join what `Head.loss` and `Head.denominators` return.

    Args:
        terms: Name of a term to its value.
        counts: Name of a term to the number of points that it is a mean over.
        weight: Weights (B, K) of the points.

    Returns:
        The terms in the order of `counts`, and then the sum of those without a count as one over the visible points.
    """
    others = [value for name, value in terms.items() if name not in counts]
    zero = weight.new_zeros(())
    values = [*(terms.get(name, zero) for name in counts), torch.stack(others).sum() if others else zero]
    numbers = [*counts.values(), (weight > 0).sum() if others else zero]
    return LossTerms(torch.stack(values), torch.stack([number.to(torch.float32) for number in numbers]), terms)


def in_ddp_forward() -> bool:
    """Return whether the caller is the `forward` of a module in `DistributedDataParallel` that is being trained."""
    return DistributedDataParallel._active_ddp_module is not None and torch.is_grad_enabled()
