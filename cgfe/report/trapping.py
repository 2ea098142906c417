"""Whether a model holds its replicas in wells: facts and figure of a run's page."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from cgfe.report.pages import NO_VALUE, figure, short
from cgfe.report.plots import MODEL_COLOUR

NOTE = (
    "Replicas are followed through the frames when they are at the data’s temperature, between a "
    "folded and an unfolded core. Memory of the start: the folded share, in the second half of the "
    "time, of replicas that began folded minus that of those that began unfolded; 0 is forgotten, "
    "1 is that nothing has left. Stretched bonds: one bond at a time, the two sides moved apart."
)


def trapping_section(trapping: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return facts, note and figures for the page; None where the result holds nothing of it.

    Parameters
    ----------
    trapping : mapping
        `FreeEnergyResult.trapping`.
    """
    facts = [*_movement(trapping), *_deepest(trapping.get("deepest")), *_bonds(trapping)]
    if not facts:
        return None
    drawn = []
    if "bonds" in trapping:
        caption = (
            "Energy as one bond is stretched: median of the scans, and the one that falls most"
        )
        drawn.append(figure(lambda: plot_bond_scans(trapping["bonds"]), caption))
    return {"facts": facts, "note": NOTE, "figures": drawn}


def _movement(trapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "began" not in trapping:
        return []
    began, stayed = trapping["began"], trapping["stayed"]
    value, low, high = trapping["memory"]
    ends = f" (95 %: {short(low)} to {short(high)})" if np.isfinite(high - low) else ""
    return [
        ("never left their start’s state", _of(sum(stayed), sum(began))),
        ("of those that began folded", _of(stayed[0], began[0])),
        ("of those that began unfolded", _of(stayed[1], began[1])),
        ("foldings", str(trapping["foldings"])),
        ("unfoldings", str(trapping["unfoldings"])),
        ("memory of the start", f"{short(value)}{ends}"),
    ]


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole} replicas ({100 * part / whole:.0f} %)" if whole else NO_VALUE


def _deepest(deepest: Mapping[str, float] | None) -> list[tuple[str, str]]:
    if deepest is None:
        return []
    shares = {key: f"{100 * share:.2g} %" for key, share in deepest.items()}
    return [
        ("deepest bin of the model", shares["model"]),
        ("the reference there", shares["reference_there"]),
        ("deepest bin of the reference", shares["reference"]),
    ]


def _bonds(trapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "bonds" not in trapping:
        return []
    bonds = trapping["bonds"]
    return [
        ("stretched bonds that rise all the way", f"{100 * bonds['monotone']:.0f} %"),
        ("largest fall kcal/mol", short(bonds["largest_fall"])),
    ]


def plot_bond_scans(scans: Mapping[str, Any]) -> Figure:
    """Draw energies against the stretch.

    Parameters
    ----------
    scans : mapping
        `cgfe.simulation.stretch.BondScans.facts`.
    """
    drawing = Figure(figsize=(6, 3.2), layout="constrained")
    axes = drawing.subplots()
    text = mpl.rcParams["text.color"]
    axes.plot(scans["stretch"], scans["median"], color=text, lw=2, label="median")
    axes.plot(scans["stretch"], scans["worst"], color=MODEL_COLOUR, label="falls most")
    axes.set(xlabel="stretch of one bond, Å", ylabel="energy, kcal/mol")
    axes.set_yscale("symlog", linthresh=10.0)
    axes.legend(frameon=False)
    return drawing
