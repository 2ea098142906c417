"""What a term draws for one batch: a matter of the seed and the batch's number alone."""

import torch
from torch import Tensor


def drawn(count: int, size: int, number: int, seed: int) -> Tensor:
    """Return the rows (size,) that the batch with this number draws of `count` rows.

    Batch after batch takes the next piece of a shuffled list, which is shuffled anew when it is at
    its end: all rows are drawn equally often, processes that count their batches together draw
    different ones, and a resumed training draws what an uninterrupted one would have drawn.

    Parameters
    ----------
    count, size : int
        Above 0.
    number : int
        From 0.
    seed : int
    """
    places = torch.arange(number * size, (number + 1) * size)
    lists, places = places // count, places % count
    first = int(lists[0])
    shuffled = torch.stack(
        [
            torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + which))
            for which in range(first, int(lists[-1]) + 1)
        ]
    )
    return shuffled[lists - first, places]
