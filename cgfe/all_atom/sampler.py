"""Sampling all-atom peptides: several walkers, by one of two engines, resumable after any kill.

What a run depends on is in `cgfe.all_atom.config`, what it leaves behind in `cgfe.all_atom.chunks`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info
from omegaconf import OmegaConf
from openmm import app, unit

from cgfe.all_atom import batched_engine, openmm_engine
from cgfe.all_atom.batched import BatchedSystem
from cgfe.all_atom.bias import BiasVariables, begun_variables, bias_folder
from cgfe.all_atom.chunks import chunk_files
from cgfe.all_atom.config import SamplerConfig, peptide_of, read_config
from cgfe.all_atom.ends import keep_ends, load_bias, load_ends
from cgfe.all_atom.parameters import UnsupportedSystem
from cgfe.all_atom.starts import check_starts
from cgfe.all_atom.system import (
    Peptide,
    fastest_platform,
    implicit_solvent_system,
    named_platform,
)
from cgfe.errors import InputError
from cgfe.files import make_folder, replacing
from cgfe.memory import require_memory

__all__ = ["SamplerConfig", "chunk_files", "sample"]

FREE_KEYS = {"output", "nanoseconds", "walkers", "processes", "platform"}
"""May change when a run goes on."""


def sample(config: SamplerConfig, progress: bool = True) -> Path:
    """Run all walkers of `config` to their end, going on from what is on disk.

    Returns
    -------
    Path
        The run's folder, ready for `cgfe.all_atom.pack.pack_runs`.

    Raises
    ------
    InputError
        If settings make no sense together, the engine that is asked for cannot do it, the folder
        belongs to another run, the walkers do not fit into the memory, or one of them blows up.
    """
    config.check()
    peptide = peptide_of(config)
    folder = Path(config.output)
    begun = begun_config(folder)
    platform = named_platform(config.platform) if config.platform else fastest_platform().getName()
    kernel = _chosen_kernel(config, peptide, platform, begun)
    config = replace(config, engine="openmm" if kernel is None else "batched")
    # What is wrong with any of these is said before the folder is taken.
    if config.continues is not None:
        load_ends(config)
    elif begun is None:
        check_starts(config, peptide)
    variables = _bias_variables(config, peptide)
    _check_memory(config, len(peptide.positions), kernel is not None, variables)
    claim_folder(folder, config, peptide, begun)
    if config.continues is not None:
        keep_ends(config)
    if variables is not None:
        variables.save(bias_folder(folder))
    if kernel is None:
        openmm_engine.sample_with_openmm(config, platform, progress)
    else:
        batched_engine.sample_batched(config, peptide, kernel, progress)
    return folder


def _check_memory(
    config: SamplerConfig, atoms: int, batched: bool, variables: BiasVariables | None
) -> None:
    """Refuse what does not fit."""
    table = 0 if variables is None else variables.table_bytes
    if variables is not None:
        shares = variables.widths / (variables.highest - variables.lowest)
        require_memory(
            table, f"metadynamics' widths are {shares[0]:.1g} and {shares[1]:.1g} of its table's"
        )
    engine = batched_engine if batched else openmm_engine
    require_memory(
        table + engine.needed_bytes(config, atoms),
        f"walkers is {config.walkers} and chunk_frames {config.chunk_frames}",
    )


def _bias_variables(config: SamplerConfig, peptide: Peptide) -> BiasVariables | None:
    """Return the variables of a bias: the run's, the continued run's, or those of the settings."""
    if config.metadynamics is None:
        return None
    begun = begun_variables(Path(config.output))
    if begun is not None:
        return begun
    if config.continues is not None:
        return load_bias(config)[0]
    return BiasVariables.of(config.metadynamics, peptide.topology)


def _chosen_kernel(
    config: SamplerConfig, peptide: Peptide, platform: str, begun: dict[str, Any] | None
) -> BatchedSystem | None:
    """Return the system in the batched kernel, None if OpenMM is to sample.

    A folder that holds a run already decides where the config leaves it open.
    """
    engine = config.engine
    if begun is not None:
        if engine not in ("auto", begun["engine"]):
            raise InputError(
                f"{config.output} holds a run of engine {begun['engine']}, but engine is {engine}; "
                "choose another output folder or restore the setting."
            )
        engine = begun["engine"]
    needs = {
        "engine batched cannot sample this": engine == "batched",
        "replica exchange needs engine batched": config.temperatures_kelvin is not None,
        "a run that continues another needs engine batched": config.continues is not None,
    }
    kernel, why_not = None, "the config, or its folder, names engine openmm."
    if engine != "openmm":
        # Where a GPU is, OpenMM is faster; but it cannot do everything.
        kernel, why_not = _kernel(config, peptide, "CPU" if any(needs.values()) else platform)
    for what in (what for what, holds in needs.items() if holds and kernel is None):
        raise InputError(f"{what}: {why_not}")
    if engine == "auto":
        chosen = f"OpenMM ({platform}): {why_not}" if kernel is None else "the batched kernel"
        rank_zero_info(f"Engine: {chosen}")
    return kernel


def _kernel(
    config: SamplerConfig, peptide: Peptide, platform: str
) -> tuple[BatchedSystem | None, str]:
    """Return the system in the kernel, or why it cannot be there, a sentence."""
    reasons = {
        "the kernel has no explicit solvent.": config.solvent == "explicit",
        f"platform {config.platform} is one of OpenMM's.": config.platform is not None,
        f"OpenMM runs on {platform} here.": platform not in ("CPU", "Reference"),
    }
    for reason, holds in reasons.items():
        if holds:
            return None, reason
    if not BatchedSystem.available():
        return None, "no C++ compiler compiles the kernel here."
    try:
        return BatchedSystem(implicit_solvent_system(peptide.topology, config.hydrogen_mass)), ""
    except UnsupportedSystem as error:
        return None, str(error)


def begun_config(folder: Path) -> dict[str, Any] | None:
    """Return the config of the run that a folder holds already, all keys filled in.

    Raises
    ------
    InputError
        If its config.yaml is another program's.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return None
    # Before there was a choice OpenMM was the engine; other new keys had today's defaults.
    begun = read_config(path, SamplerConfig(engine="openmm"))
    values = OmegaConf.to_container(OmegaConf.structured(begun))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def claim_folder(
    folder: Path, config: SamplerConfig, peptide: Peptide, begun: dict[str, Any] | None
) -> None:
    """Write config and topology, or check that the folder belongs to the same physics."""
    new = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(new, dict)
    if begun is not None:
        # The walkers of replica exchange are whole ladders, and those of a bias in the kernel all
        # have a share in it, so their number is part of the run.
        bound = config.temperatures_kelvin or (config.metadynamics and config.engine == "batched")
        free = FREE_KEYS - ({"walkers"} if bound else set())
        changed = [str(k) for k in new if k not in free and new[k] != begun.get(str(k))]
        if changed:
            raise InputError(
                f"{folder} holds a run with another {', '.join(changed)}; "
                "choose another output folder or restore the setting."
            )
        # Packing takes as many walkers as are written here: none that was sampled may be lost.
        new["walkers"] = max(config.walkers, begun["walkers"])
    else:
        make_folder(folder)
        with replacing(folder / "topology.pdb") as temporary, open(temporary, "w") as file:
            app.PDBFile.writeFile(peptide.topology, peptide.positions * unit.nanometer, file)
    with replacing(folder / "config.yaml") as temporary:
        OmegaConf.save(OmegaConf.create(new), temporary)
