"""Training, validation and test splits by blocks of trajectories, never by single frames.

Neighbouring frames are nearly equal, so a split by frames would test on what was trained on.
"""

from dataclasses import dataclass

import numpy as np

from cgfe.data.frames import CGFrames
from cgfe.errors import InputError


@dataclass(frozen=True)
class Split:
    """Contiguous segments of frames for each purpose."""

    train: list[slice]
    validation: list[slice]
    test: list[slice]


def split_by_blocks(
    frames: CGFrames, block_ps: float, validation_share: float, test_share: float, seed: int
) -> Split:
    """Cut every trajectory into blocks and deal them out.

    Trajectories that the file names for validation or test are that split; its share then counts
    for nothing, and no block of any other trajectory goes there.

    Raises
    ------
    InputError
        If the shares leave nothing for training or a split without blocks.
    """
    if not (validation_share > 0 and test_share >= 0 and validation_share + test_share < 1):
        raise InputError(
            f"validation_share {validation_share} and test_share {test_share} must be positive "
            "and leave a share for training."
        )
    length = max(1, round(block_ps / frames.frame_interval_ps))
    blocks: list[slice] = []
    validated: list[slice] = []
    tested: list[slice] = []
    for piece in frames.trajectory_slices():
        trajectory = frames.trajectory_index[piece.start]
        if trajectory in frames.validation_trajectories or trajectory in frames.test_trajectories:
            (tested if trajectory in frames.test_trajectories else validated).append(piece)
            continue
        # A remainder shorter than half a block joins the block before it.
        cuts = list(range(piece.start, piece.stop, length))
        if len(cuts) > 1 and piece.stop - cuts[-1] < length / 2:
            cuts.pop()
        blocks += [slice(a, b) for a, b in zip(cuts, [*cuts[1:], piece.stop], strict=True)]
    shares = (0.0 if validated else validation_share, 0.0 if tested else test_share)
    order = np.random.default_rng(seed).permutation(len(blocks))
    counts = [max(1, round(share * len(blocks))) if share > 0 else 0 for share in shares]
    if sum(counts) >= len(blocks):
        raise InputError(
            f"{frames.name}: {len(blocks)} blocks of {block_ps} ps are too few for a training, "
            "validation and test split; choose a smaller block_ps."
        )
    parts = np.split(order, np.cumsum(counts))
    validation, test, train = ([blocks[i] for i in sorted(part)] for part in parts)
    index, dealt = frames.trajectory_index, (train, [*validation, *validated], [*test, *tested])
    return Split(*(_merged(x, index) for x in dealt))


def _merged(pieces: list[slice], index: np.ndarray) -> list[slice]:
    """Join blocks that follow each other in one trajectory."""
    merged: list[slice] = []
    for piece in pieces:
        before = merged[-1] if merged else None
        if before and before.stop == piece.start and index[before.start] == index[piece.start]:
            merged[-1] = slice(before.start, piece.stop)
        else:
            merged.append(piece)
    return merged
