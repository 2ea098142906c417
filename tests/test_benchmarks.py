"""Benchmarks: baselines equal cgfe's network, operations as counted by hand, a tiny run.

Nothing here depends on how fast anything is.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.models.schnet import InteractionBlock

from benchmarks import (
    machine,
    memory,
    operations,
    peptide_operations,
    pipeline,
    run,
    sampler,
    simulation,
    training,
)
from benchmarks.baselines import (
    HAS_TORCHMD_NET,
    Baseline,
    BaselinePotential,
    PyGSchNet,
    TorchMDNet,
)
from benchmarks.settings import QUICK
from benchmarks.systems import BOND, CLOSEST, compact_chain, radius_of_gyration, synthetic
from benchmarks.turns import Row, quartiles, take_turns
from cgfe.all_atom.batched import BatchedSystem, Dynamics
from cgfe.all_atom.parameters import Parameters
from cgfe.model.potential import Potential
from cgfe.model.schnet import CGSchNet, CGSchNetConfig

TOLERANCE = 1e-5
FRAMES, BEADS = 6, 12
# Shorter than the chain is wide, so that some pairs are beyond it.
NETWORK = CGSchNetConfig(
    hidden_channels=16, num_filters=16, num_layers=3, cutoff=11.0, radial_basis="gaussian"
)
TINY = dataclasses.replace(
    QUICK,
    network=dataclasses.replace(NETWORK, hidden_channels=8, num_filters=8, num_layers=1),
    turns=2,
    turn_seconds=0.001,
    heavy_turns=2,
    batch_size=16,
    simulations=((10, 2), (12, 1)),
    scaling_replicas=(1, 2),
    scaling_beads=(10, 12),
    beads_replicas=1,
    validation_replicas=8,
    validation_steps=50,
    commands=1,
    fits=1,
    peptides=("GAG",),
    melting_steps=20,
)

bench_extra = pytest.mark.skipif(
    not HAS_TORCHMD_NET, reason="torchmd-net is not installed: pip install -e '.[bench]'"
)
MAKERS: dict[str, Callable[[CGSchNet], Baseline]] = {
    "PyG": PyGSchNet,
    "torchmd-net": lambda network: TorchMDNet(network, BEADS),
    "torchmd-net, pairs given": lambda network: TorchMDNet(network, BEADS, search=False),
}
baselines = pytest.mark.parametrize(
    "name", ["PyG", *(pytest.param(name, marks=bench_extra) for name in list(MAKERS)[1:])]
)


@pytest.fixture(scope="module")
def potential() -> Potential:
    return synthetic(BEADS).potential(NETWORK, seed=3)


@pytest.fixture(scope="module")
def batch(potential: Potential) -> Batch:
    positions = synthetic(BEADS).starts(FRAMES) + 0.3 * torch.randn(FRAMES, BEADS, 3)
    distances = torch.cdist(positions, positions)
    assert 0.05 < (distances > NETWORK.cutoff).float().mean() < 0.9
    return Batch(
        pos=positions.flatten(0, 1),
        bead_types=potential.bead_types.repeat(FRAMES),
        batch=torch.arange(FRAMES).repeat_interleave(BEADS),
        ptr=torch.arange(0, FRAMES * BEADS + 1, BEADS),
        system=torch.zeros(FRAMES, dtype=torch.long),
    )


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).norm() <= TOLERANCE * expected.norm()


@baselines
def test_baselines_have_the_energies_and_forces_of_cgfe(
    name: str, potential: Potential, batch: Batch
) -> None:
    network = potential.network
    assert isinstance(network, CGSchNet)
    other = MAKERS[name](network)
    for training_mode in (True, False):
        energy, forces = network.train(training_mode).energy_and_forces(batch)
        found = other.train(training_mode).energy_and_forces(batch)
        assert energy.std() > 1e-4
        assert_close(found[0].detach(), energy.detach())
        assert_close(found[1].detach(), forces.detach())


@baselines
def test_baselines_train_as_cgfe_does(name: str, potential: Potential, batch: Batch) -> None:
    network = potential.network
    assert isinstance(network, CGSchNet)
    gradients = []
    for model in (network.train(), MAKERS[name](network).train()):
        model.zero_grad()
        energy, forces = model.energy_and_forces(batch)
        (energy.square().mean() + (forces - 0.1).square().mean()).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        model.zero_grad()
    # The same set of gradients, in another order.
    norms = [sorted(float(g.norm()) for g in own) for own in gradients]
    assert len(norms[0]) == len(list(network.parameters()))
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-4, atol=1e-6)


@baselines
def test_baselines_are_simulated_like_cgfe(name: str, potential: Potential) -> None:
    system = synthetic(BEADS)
    network = potential.network
    assert isinstance(network, CGSchNet)
    other = BaselinePotential(potential, MAKERS[name](network), system.checked)
    starts = system.starts(4)
    for plain, found in zip(
        potential.energy_and_forces(starts), other.energy_and_forces(starts), strict=True
    ):
        assert not found.requires_grad
        assert_close(found, plain)
    work, blown_up = simulation.simulation_work(other, system, 4)
    assert work(5) == 6
    assert blown_up == [0]


def test_pyg_baseline_is_made_of_its_blocks(potential: Potential) -> None:
    assert isinstance(potential.network, CGSchNet)
    baseline = PyGSchNet(potential.network)
    assert all(isinstance(block, InteractionBlock) for block in baseline.blocks)
    assert all(isinstance(block.conv, MessagePassing) for block in baseline.blocks)
    expnorm = dataclasses.replace(NETWORK, radial_basis="expnorm")
    with pytest.raises(ValueError, match="gaussian"):
        PyGSchNet(CGSchNet(expnorm))


def test_operations_by_hand() -> None:
    # 3 beads, 3 pairs, 4 channels, 5 filters, 2 layers, 6 radial functions.
    config = CGSchNetConfig(hidden_channels=4, num_filters=5, num_layers=2, num_radial=6)
    filter_in, filter_out = 2 * 3 * (6 * 5), 2 * 3 * (5 * 5)  # 180, 150
    beads = 3 * (1 * (4 * 5) + 2 * (5 * 4 + 4 * 4) + (4 * 2 + 2 * 1))  # 306
    assert (filter_in, filter_out, beads) == (180, 150, 306)

    energy = operations.energy(config, 3)
    assert (energy.matrix, energy.pairwise) == (636, 60)
    assert (energy.total, energy.flops) == (696, 1392)
    # Back: into the filters of both layers, into the features of the second.
    forces = operations.forces(config, 3)
    assert (forces.matrix, forces.pairwise) == (1272, 60 + 2 * 30 + 30)
    # A grid of 7 + 1 points for both layers, shared by 4 frames; each product has two gradients.
    step = operations.training_step(config, 3, intervals=7, batch_size=4)
    grid = 2 * 8 * (3 * 3 * (5 * 5) + 2 * 2 * (6 * 5))
    assert step.matrix == grid // 4 + 6 * 306
    assert step.pairwise == 30 * (5 + 11 + 11 + 26)
    # No filter network; 30 filters: value 4, slope 3, slope times gradient 1.
    simulated = operations.simulation_step(config, 3)
    assert (simulated.matrix, simulated.pairwise) == (2 * 306, 150 + 30 * 8)


def test_operations_against_those_that_torch_counts(potential: Potential, batch: Batch) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    assert isinstance(potential.network, CGSchNet)
    baseline = PyGSchNet(potential.network).eval()
    with FlopCounterMode(display=False) as counter:
        baseline.energy_and_forces(batch)
    counted = operations.forces(NETWORK, BEADS)
    size, layers, pairs = NETWORK.hidden_channels, NETWORK.num_layers, BEADS * (BEADS - 1) // 2
    # This baseline evaluates filters for ordered pairs, and the first layer's features of all
    # frames, forward alone.
    filters = 2 * layers * pairs * size * (NETWORK.num_radial + size)
    expected = 2 * (counted.matrix + filters + BEADS * size**2)
    assert counter.get_total_flops() == FRAMES * expected


def test_turns_rotate_and_count_units() -> None:
    order: list[str] = []

    def work_of(name: str, units: int) -> Callable[[int], int]:
        def work(calls: int) -> int:
            order.append(name)
            return units * calls

        return work

    shares: list[float] = []
    names = ["a", "b", "c"]
    seconds = take_turns({n: work_of(n, 2) for n in names}, 3, 0.0, shares.append)
    assert "".join(order[-9:]) == "abcbcacab"
    assert shares == pytest.approx([k / 9 for k in range(1, 10)])
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(names, 3)


def test_ratios_are_of_the_same_turn() -> None:
    own = Row("s", "c", "cgfe", [1.0, 2.0, 4.0], per_unit=10)
    other = Row("s", "c", "other", [3.0, 6.0, 12.0], per_unit=5)
    # Load slowed both alike, so the ratio has no spread: six times as long an item.
    assert own.times_faster_than(other) == pytest.approx((6.0, 6.0, 6.0))
    assert own.rate == pytest.approx((3.75, 5.0, 7.5))
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("beads", [3, 10, 40, 160])
def test_chains_are_as_compact_as_proteins(beads: int) -> None:
    chain = compact_chain(beads, np.random.default_rng(1))
    assert chain.shape == (beads, 3)
    np.testing.assert_allclose(np.linalg.norm(np.diff(chain, axis=0), axis=1), BOND)
    distances = np.linalg.norm(chain[:, None] - chain, axis=-1)
    assert distances[np.triu_indices(beads, 3)].min(initial=np.inf) >= CLOSEST
    if beads >= 40:
        radius = np.sqrt(np.square(chain - chain.mean(0)).sum(1).mean())
        assert radius == pytest.approx(radius_of_gyration(beads), rel=0.15)


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MATRIX", 16)
    monkeypatch.setattr(machine, "TRIAD", 256)
    monkeypatch.setattr(machine, "ROUNDS", 100)


def test_tiny_run_writes_valid_json(
    small_machine: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: Any
) -> None:
    monkeypatch.setattr(run, "QUICK", TINY)
    sections = ["machine", "training", "simulation", "scaling"]
    run.main(["--quick", "--default-allocator", "--output", str(tmp_path), "--only", *sections])

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    text = (tmp_path / "benchmarks.json").read_text()
    results = json.loads(text, parse_constant=refuse)
    assert results["settings"]["network"]["hidden_channels"] == 8
    assert {row["section"].split()[0] for row in results["rows"]} == set(sections)
    for row in results["rows"]:
        assert len(row["seconds"]) == 2
        assert all(math.isfinite(s) and s > 0 for s in row["seconds"])
        assert row.get("blown_up", 0) == 0
        if row["section"] != "machine":
            assert row["share_of_peak"] > 0
    others = {(c["section"], c["other"]) for c in results["comparisons"]}
    assert {("training", "PyG"), ("simulation", "PyG")} <= others
    assert ("training", "torchmd-net") in others or not HAS_TORCHMD_NET
    assert (tmp_path / "benchmarks.png").stat().st_size > 10_000
    assert "cgfe is" in capsys.readouterr().out


needs_compiler = pytest.mark.skipif(not BatchedSystem.available(), reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def small_peptide() -> sampler.Case:
    return sampler.Case.of("GAG", 20)


@needs_compiler
def test_sampler_of_a_tiny_budget(
    small_machine: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: Any
) -> None:
    monkeypatch.setattr(run, "QUICK", TINY)
    output = ["--output", str(tmp_path)]
    run.main(["--quick", "--default-allocator", *output, "--only", "sampler"])
    results = json.loads((tmp_path / "benchmarks.json").read_text())
    ways = {row["variant"]: row for row in results["rows"] if row["section"] == "sampler"}
    for name in ("cgfe", "OpenMM, GBSAOBCForce", "OpenMM, obc2.xml"):
        assert any(way.startswith(name) for way in ways)
    for row in ways.values():
        assert all(math.isfinite(s) and s > 0 for s in row["seconds"])
        # A walker that makes one step of 4 fs a second makes 0.3456 ns a day.
        assert row["per_unit"] == pytest.approx(row["walkers"] * 0.3456e-3)
    assert len(results["comparisons"]) == len(ways) - 1
    passes = [row for row in results["rows"] if row["section"] == sampler.PASSES]
    assert [row["variant"] for row in passes] == list(peptide_operations.PASSES)
    # Medians of two turns are means, so that they add up.
    assert sum(row["share_of_step"] for row in passes) == pytest.approx(1)
    assert all(row["share_of_peak"] > 0 for row in passes)
    text = capsys.readouterr().out
    assert "walker-µs a day" in text
    assert "µs a step of" in text


@needs_compiler
def test_kernel_that_is_timed_gives_the_same_bits(small_peptide: sampler.Case) -> None:
    places = []
    for options in ((), ("-DCGFE_TIMING",)):
        batched = BatchedSystem(small_peptide.system, options=options)
        walkers = small_peptide.walkers(batched, 3)
        batched.advance(walkers, Dynamics(50, 0.004, 1.0))
        places.append(np.array(walkers.positions))
    np.testing.assert_array_equal(*places)


@needs_compiler
def test_pairs_are_classed_as_the_kernel_meets_them(small_peptide: sampler.Case) -> None:
    layout = BatchedSystem(small_peptide.system).layout
    parameters = Parameters.of_system(small_peptide.system, layout)
    positions = 1.5 * small_peptide.positions[: layout.lanes]
    found = peptide_operations.pair_classes(positions, parameters, layout)
    atoms, rows = positions.shape[1], layout.rows
    tail = atoms * (5 + 2 * (layout.middle + layout.far))
    limits = iter(parameters.floats[-tail - atoms * (atoms - 1) // 2 : -tail])
    counts = {"far": 0, "middle": 0, "near": 0}

    def meet(block: list[int], column: int) -> None:
        differences = positions[:, block].astype(float) - positions[:, [column]]
        squared = (differences**2).sum(-1).min(0)
        for least, limit in zip(squared, [next(limits) for _ in block], strict=True):
            near = "near" if least < limit else "middle"
            counts["far" if squared.min() >= parameters.far_nm**2 else near] += 1

    for first in range(0, atoms, rows):
        if first + rows > atoms:
            for row in range(first, atoms):
                for column in range(row + 1, atoms):
                    meet([row], column)
            break
        for row in range(first, first + rows):
            for column in range(row + 1, first + rows):
                meet([row], column)
        for column in range(first + rows, atoms):
            meet(list(range(first, first + rows)), column)
    assert dataclasses.asdict(found) == counts
    assert min(counts.values()) > 0


@pytest.mark.slow
def test_memory_is_of_a_fresh_process() -> None:
    tiny = dataclasses.replace(TINY, scaling_replicas=(1,), scaling_beads=())
    # What this process holds must not show in the other's peak.
    held = torch.ones(2**28, dtype=torch.uint8)
    simulated, trained = memory.measure(tiny)
    assert 0 <= simulated.facts["own_mb"] < simulated.facts["peak_mb"]
    assert trained.facts["peak_mb"] > 100
    assert trained.facts["batch_size"] == tiny.batch_size
    assert memory.peak_bytes() > held.nbytes


def test_pipeline_of_a_tiny_budget() -> None:
    rows = {row.variant: row for row in pipeline.measure(TINY)}
    assert 0 < rows["batch from the loader"].facts["share_of_step"] < 1
    assert 0 < rows["8 replicas, 50 steps"].facts["share_of_schedule"] < 1
    assert rows["cgfe fit, first step"].seconds[0] > 0
    assert {"cgfe --help", "TICA", "Reference.fit", "training step"} <= rows.keys()


def test_pyperf_reads_the_times(tmp_path: Any) -> None:
    pyperf = pytest.importorskip(
        "pyperf", reason="pyperf is not installed: pip install -e '.[bench]'"
    )
    rows = [Row("s", "c", "cgfe", [1.0, 2.0]), Row("s", "c", "other", [3.0])]
    assert run.write_pyperf(rows, tmp_path / "pyperf.json")
    suite = pyperf.BenchmarkSuite.load(str(tmp_path / "pyperf.json"))
    assert suite.get_benchmark("s: c, cgfe").get_values() == (1.0, 2.0)


def test_ceiling_is_the_fastest_loop_on_as_many_threads() -> None:
    def row(case: str, threads: int, rate: float) -> Row:
        return Row("machine", case, "v", [1.0, 1.0], rate, "operations", {"threads": threads})

    rows = [
        row("matrix product", 1, 5.0),
        row(machine.MULTIPLY_ADDS, 1, 9.0),
        row("matrix product", 2, 10.0),
        row("triad", 1, 99.0),
    ]
    assert machine.peak_flops(rows, 1) == 9.0
    assert machine.peak_flops(rows, 2) == 10.0
    assert machine.peak_flops(rows, 4) is None


def test_training_steps_change_the_parameters() -> None:
    frames = training.data(16)
    batch = next(iter(frames.train_dataloader()))
    module = training.force_field(frames, TINY.network)
    before = [p.detach().clone() for p in module.network.parameters()]
    training.module_step(module)(batch)
    assert any(
        not torch.equal(a, b) for a, b in zip(before, module.network.parameters(), strict=True)
    )
