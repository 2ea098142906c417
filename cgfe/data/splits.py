"""Training, validation and test frames: whole trajectories, or blocks with gaps between them.

Neighbouring frames are nearly equal, so a split by single frames would test on what was trained
on; and a walker that has found a basin stays there, so that even its next nanoseconds tell
nothing new. Where a file has few trajectories, each is cut into blocks, and what lies next to a
block of another split is left out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgfe.data.frames import CGFrames
from cgfe.errors import InputError

FEWEST_TRAJECTORIES = 12
"""From this number on whole trajectories are dealt out, since of fewer a split would hold one or
two, which tell no error."""


@dataclass(frozen=True)
class SplitConfig:
    """How frames are dealt out, where the file does not name the trajectories of each split.

    Attributes
    ----------
    validation_share, test_share : float
        Of the trajectories, or of the blocks.
    block_ps : float
        Length of the blocks of trajectory, where there are fewer than 12 trajectories.
    gap_ps : float
        Left out of a block where the one before it belongs to another split.
    seed : int
        Which trajectories or blocks go where.
    """

    validation_share: float = 0.15
    test_share: float = 0.1
    block_ps: float = 200.0
    gap_ps: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """Contiguous segments of frames for each purpose."""

    train: list[slice]
    validation: list[slice]
    test: list[slice]


def split_frames(frames: CGFrames, config: SplitConfig) -> Split:
    """Deal out trajectories, those of each kind (biased or not) by themselves, or blocks.

    Trajectories that the file names for validation or test are that split; its share then counts
    for nothing, and no part of any other trajectory goes there.

    Raises
    ------
    InputError
        If the shares leave nothing for training or a split without frames.
    """
    shares = (config.validation_share, config.test_share)
    if not (shares[0] > 0 and shares[1] >= 0 and sum(shares) < 1):
        raise InputError(
            f"validation_share {shares[0]} and test_share {shares[1]} must be positive "
            "and leave a share for training."
        )
    pieces = frames.trajectory_slices()
    names = np.array([frames.trajectory_index[piece.start] for piece in pieces])
    given = [
        np.intersect1d(names, own)
        for own in (frames.validation_trajectories, frames.test_trajectories)
    ]
    left = (0.0 if len(given[0]) else shares[0], 0.0 if len(given[1]) else shares[1])
    free = ~np.isin(names, np.concatenate(given))
    random = np.random.default_rng(config.seed)
    if any(left) and free.sum() < FEWEST_TRAJECTORIES:
        dealt = _blocks(frames, [p for p, own in zip(pieces, free, strict=True) if own],
                        config, left, random)  # fmt: skip
    else:
        biased = np.isin(names, frames.biased_trajectories)
        part = np.where(free, 0, -1)
        for kind in (False, True):
            own = np.flatnonzero(free & (biased == kind))
            part[own] = _dealt(len(own), left, random)
        dealt = tuple([p for p, k in zip(pieces, part, strict=True) if k == n] for n in range(3))
    train, *others = dealt
    named = [
        [piece for piece, name in zip(pieces, names, strict=True) if name in trajectories]
        for trajectories in given
    ]
    return Split(train, *([*a, *b] for a, b in zip(others, named, strict=True)))


def _dealt(
    count: int, shares: tuple[float, float], random: np.random.Generator
) -> NDArray[np.int64]:
    """Return the part (0 training, 1 validation, 2 test) of each of so many things."""
    part = np.zeros(count, dtype=np.int64)
    order = random.permutation(count)
    first = round(shares[0] * count)
    part[order[:first]] = 1
    part[order[first : first + round(shares[1] * count)]] = 2
    return part


def _blocks(
    frames: CGFrames,
    pieces: list[slice],
    config: SplitConfig,
    shares: tuple[float, float],
    random: np.random.Generator,
) -> tuple[list[slice], ...]:
    """Cut trajectories into blocks and deal them out; join blocks that follow each other."""
    length = max(1, round(config.block_ps / frames.frame_interval_ps))
    gap = round(config.gap_ps / frames.frame_interval_ps)
    blocks: list[slice] = []
    for piece in pieces:
        # A remainder shorter than half a block joins the block before it.
        cuts = list(range(piece.start, piece.stop, length))
        if len(cuts) > 1 and piece.stop - cuts[-1] < length / 2:
            cuts.pop()
        blocks += [slice(a, b) for a, b in zip(cuts, [*cuts[1:], piece.stop], strict=True)]
    counts = [max(1, round(share * len(blocks))) if share > 0 else 0 for share in shares]
    if sum(counts) >= len(blocks):
        raise InputError(
            f"{frames.name}: {len(blocks)} blocks of {config.block_ps} ps are too few for a "
            "training, validation and test split; choose a smaller block_ps."
        )
    part = np.zeros(len(blocks), dtype=np.int64)
    order = random.permutation(len(blocks))
    part[order[: counts[0]]] = 1
    part[order[counts[0] : sum(counts)]] = 2
    dealt: tuple[list[slice], ...] = ([], [], [])
    before: tuple[slice, int] | None = None
    index = frames.trajectory_index
    for block, own in zip(blocks, part, strict=True):
        follows = (
            before is not None
            and before[0].stop == block.start
            and index[before[0].start] == index[block.start]
        )
        if follows and before is not None and before[1] == own:
            # The one before it may have been all gap.
            joins = bool(dealt[own]) and dealt[own][-1].stop == block.start
            start = dealt[own].pop().start if joins else block.start
            dealt[own].append(slice(start, block.stop))
        else:
            start = block.start + (gap if follows else 0)
            if start < block.stop:
                dealt[own].append(slice(start, block.stop))
        before = (block, int(own))
    if not all(dealt[n] for n, share in enumerate((1.0, *shares)) if share > 0):
        raise InputError(
            f"{frames.name}: gaps of {config.gap_ps} ps leave nothing of blocks of "
            f"{config.block_ps} ps; choose a smaller gap_ps or a larger block_ps."
        )
    return dealt
