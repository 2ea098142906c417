"""Residue names, and the bead-type tables of the field.

Inside cgfe bead types are the 20 residues in alphabetical order of their three-letter codes,
from 1 (see cgfe.data.beads.RESIDUES). Sources number them in other ways; a table turns their
numbers into residue names, from which cgfe's own types follow.
"""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cgfe.data.beads import ONE_LETTER, RESIDUES
from cgfe.errors import InputError

Embedding = Literal["cgfe", "one_letter", "majewski"]

VARIANTS = {
    **dict.fromkeys(("HSD", "HSE", "HSP", "HID", "HIE", "HIP"), "HIS"),
    **dict.fromkeys(("CYX", "CYM"), "CYS"),
    **{"ASH": "ASP", "GLH": "GLU", "LYN": "LYS", "MSE": "MET"},
    "NLE": "LEU",
}
"""Protonation states and other names of the 20; norleucine counts as leucine, as in mlcg."""

_MAJEWSKI = {
    **{1: "ALA", 2: "GLY", 3: "PHE", 4: "TYR", 5: "ASP", 6: "GLU", 7: "TRP", 8: "PRO"},
    **{9: "ASN", 10: "GLN", 11: "HIS", 12: "SER", 13: "THR", 14: "VAL", 15: "MET"},
    **{16: "CYS", 17: "LEU", 19: "ARG", 20: "LYS", 21: "LEU", 22: "ILE"},
}

TABLES: dict[Embedding, dict[int, str]] = {
    "cgfe": dict(enumerate(RESIDUES, start=1)),
    "one_letter": dict(enumerate(sorted(RESIDUES, key=ONE_LETTER.__getitem__), start=1)),
    "majewski": _MAJEWSKI,
}
"""Number -> residue.

cgfe : alphabetical by three-letter code (ALA 1, ARG 2, ASN 3, ...).
one_letter : alphabetical by one-letter code (ALA 1, CYS 2, ASP 3, ...), mlcg's table; its 21 to
    24 are backbone atoms, which are no Cα beads of residues.
majewski : Majewski et al. 2022 (arXiv 2212.07492), AA2INT of torchmd-protein-thermodynamics; 17
    is norleucine, 18 is not used.
"""


def canonical_residue(name: str) -> str:
    """Return the common name of a residue's variant, or the name itself."""
    name = name.strip().upper()
    return VARIANTS.get(name, name)


def residues_of_embedding(
    embedding: NDArray[Any], table: str, source: str, beads: int
) -> tuple[str, ...]:
    """Return the residue names that bead-type numbers stand for.

    Parameters
    ----------
    embedding : int array (N,) or (F, N) with equal rows
    table : str
        A key of TABLES.
    source : str
        Named in errors.
    beads : int
        N.

    Raises
    ------
    InputError
        If the shape is wrong, the table unknown, or a number not in it.
    """
    if table not in get_args(Embedding):
        raise InputError(f"embedding {table!r} is unknown; expected one of {get_args(Embedding)}.")
    if embedding.ndim == 2 and len(embedding) and (embedding == embedding[:1]).all():
        embedding = embedding[0]
    if embedding.shape != (beads,):
        raise InputError(f"{source}: bead types have shape {embedding.shape}, expected ({beads},).")
    numbers = np.asarray(embedding, dtype=np.float64)
    known = TABLES[table]  # type: ignore[index]
    unknown = [value for value in numbers.tolist() if value not in known]
    if unknown:
        raise InputError(
            f"{source}: bead type {unknown[0]:g} is not in the table {table} of Cα beads, which "
            f"has {min(known)} to {max(known)}; is it another --embedding?"
        )
    return tuple(known[int(value)] for value in numbers)


def linear_bonds(beads: int) -> NDArray[np.int64]:
    """Return the bonds (N - 1, 2) of one unbroken chain."""
    return np.stack([np.arange(beads - 1), np.arange(1, beads)], axis=1)
