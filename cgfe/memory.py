"""How much memory there is."""

import os
from pathlib import Path

from cgfe.errors import InputError

CGROUP = Path("/sys/fs/cgroup")


def machine_memory() -> int:
    """Return the bytes of memory of this machine, or of the job or container if it has fewer."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        own = Path("/proc/self/cgroup").read_text().rpartition("::/")[2].strip()
    except OSError:  # not Linux
        return limits[0]
    for group in (CGROUP / own, *(CGROUP / own).parents):
        limit = group / "memory.max"
        if group.is_relative_to(CGROUP) and limit.is_file() and limit.read_text().strip().isdigit():
            limits.append(int(limit.read_text()))
    return min(limits)


def require_memory(needed: int, what: str) -> None:
    """Check that so many bytes fit into the memory.

    Parameters
    ----------
    needed : int
        Bytes.
    what : str
        Which settings ask for it, as the beginning of a sentence.

    Raises
    ------
    InputError
        If they do not.
    """
    there = machine_memory()
    if needed > there:
        raise InputError(
            f"{what}, which takes {needed / 2**30:.1f} GiB of memory; expected at most the "
            f"{there / 2**30:.1f} GiB of this machine."
        )
