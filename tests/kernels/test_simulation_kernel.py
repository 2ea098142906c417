"""The C++ kernel: the potential's energies and forces, its noise, and nothing else in its steps."""

import copy
import math
import platform
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from cgfe import native
from cgfe.kernels.accuracy import TOLERANCE, in_float64
from cgfe.kernels.fast_potential import FastPotential, accelerated
from cgfe.kernels.simulation import Dynamics, NativeForces, runs_natively
from cgfe.kernels.tables import network_arrays
from cgfe.model.potential import Potential
from cgfe.model.prior import PriorEnergy
from cgfe.model.prior_terms import HarmonicBonds
from tests.kernels.systems import CUTOFF, Nothing, chains, network_of, potential_of, prior_of

pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")),
    reason="the kernel needs a C++ compiler",
)


def native_of(potential: Potential, frames: Tensor) -> NativeForces:
    fast = accelerated(potential, frames)
    assert isinstance(fast, FastPotential)
    return fast.native


def tabulated(
    potential: Potential, intervals: int, prior: PriorEnergy | None = None
) -> NativeForces:
    """Return the kernel of a network, and of a prior if there is one, on any grid."""
    exact, types = in_float64(potential.network), potential.bead_types
    terms = [] if prior is None else list(prior.terms.values())
    arrays = network_arrays(exact, types, intervals)
    return NativeForces(len(types), terms, exact.config, arrays)


def exact(potential: Potential, positions: Tensor) -> tuple[Tensor, Tensor]:
    return copy.deepcopy(potential).double().energy_and_forces(positions.double())


def assert_close(found: Tensor, expected: Tensor, relative: float) -> None:
    assert (found - expected).norm() <= relative * expected.norm() + 1e-5


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    frames=st.integers(1, 20),
    beads=st.sampled_from([2, 3, 4, 7, 10, 25]),
    activation=st.sampled_from(["tanh", "silu"]),
    basis=st.sampled_from(["expnorm", "gaussian"]),
    layers=st.integers(1, 4),
    hidden=st.integers(8, 70),
    filters=st.integers(8, 70),
    spread=st.sampled_from([0.5, 1.0, 4.0]),
)
def test_any_potential_agrees_with_autograd(
    seed, frames, beads, activation, basis, layers, hidden, filters, spread
):
    potential = potential_of(
        seed,
        beads,
        activation=activation,
        radial_basis=basis,
        num_layers=layers,
        hidden_channels=hidden,
        num_filters=filters,
    )
    positions = spread * chains(frames, beads, seed)
    # Where two beads nearly cancel, float32 itself is no better than this.
    tolerance = 5 * TOLERANCE
    alone = Potential(Nothing(), potential.network, potential.bead_types)
    for whole, prior in ((potential, potential.prior), (alone, None)):
        energy, forces = tabulated(potential, 1024, prior).energy_and_forces(positions)
        expected = exact(whole, positions)
        assert_close(energy, expected[0], tolerance)
        assert_close(forces, expected[1], tolerance)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), frames=st.integers(1, 5), beads=st.integers(2, 9))
def test_prior_agrees_on_any_chain(seed, frames, beads):
    positions, prior = chains(frames, beads, seed), prior_of(beads, seed)
    found = NativeForces(beads, list(prior.terms.values())).energy_and_forces(positions)
    expected = exact(Potential(prior, None, torch.zeros(beads, dtype=torch.long)), positions)
    for value, wanted in zip(found, expected, strict=True):
        assert_close(value, wanted, TOLERANCE)


@pytest.mark.parametrize("beads", [1, 80])
def test_one_bead_and_many(beads):
    potential = Potential(
        Nothing(), network_of(1, hidden_channels=64, num_filters=64), torch.arange(beads) % 25
    )
    positions = 0.5 * chains(3, beads, 0)
    found = tabulated(potential, 1024).energy_and_forces(positions)
    for value, wanted in zip(found, exact(potential, positions), strict=True):
        assert_close(value, wanted, TOLERANCE)


@pytest.mark.parametrize("intervals", [8, 1024])
def test_energy_differences_are_the_work_of_the_forces(intervals):
    """On a coarse grid too, where the interpolated function is far from the network."""
    potential, ends = potential_of(2, 7), chains(2, 7, 5)
    kernel = tabulated(potential, intervals, potential.prior)
    points = 2**14  # the slope of forces jumps at the grid's points: errors of order 1/points²
    shares = ((torch.arange(points) + 0.5) / points)[:, None, None]
    way = 0.2 * (ends[1] - ends[0])
    forces = kernel.energy_and_forces(ends[0] + shares * way)[1]
    work = (forces.double() * way.double()).sum((1, 2)).mean()
    energy = kernel.energy_and_forces(torch.stack([ends[0], ends[0] + way]))[0].double()
    assert abs(energy[1] - energy[0]) > 1
    # Both ends' energies are sums in float32.
    assert abs(work + energy[1] - energy[0]) < 1e-5 * energy.abs().max()


def test_beads_beyond_the_cutoff_and_on_one_point():
    potential = potential_of(3, 5)
    kernel = tabulated(potential, 1024)
    for apart in (1, 2):
        far = apart * CUTOFF * torch.arange(5.0)[:, None] * torch.tensor([1.0, 0, 0])
        assert kernel.energy_and_forces(far[None])[1].abs().max() == 0
    together = chains(3, 5, 2)
    together[0, 3] = together[0, 0]  # a pair that the prior repels
    together[1, 2] = together[1, 1]  # bonded beads
    together[2] = together[2, :1]  # all of them
    energy, forces = native_of(potential, chains(8, 5, 0)).energy_and_forces(together)
    expected = exact(potential, together)
    assert forces.isfinite().all()
    assert_close(energy, expected[0], TOLERANCE)
    assert_close(forces, expected[1], TOLERANCE)


def test_a_replica_that_is_not_a_number_leaves_the_others_alone():
    positions = chains(6, 5, 0)
    kernel = native_of(potential_of(4, 5, activation="silu"), positions)
    energy, forces = kernel.energy_and_forces(positions)
    broken = positions.clone()
    broken[2, 1], broken[4, 0, 0] = float("nan"), float("inf")
    found = kernel.energy_and_forces(broken)
    assert not found[0][[2, 4]].isfinite().any()
    rest = [0, 1, 3, 5]
    assert torch.equal(found[0][rest], energy[rest])
    assert torch.equal(found[1][rest], forces[rest])


def test_only_float32_on_a_cpu_with_a_compiler(monkeypatch):
    assert runs_natively(torch.zeros(1))
    assert not runs_natively(torch.zeros(1, dtype=torch.float64))
    assert not runs_natively(torch.zeros(1, device="meta"))
    monkeypatch.setattr("cgfe.kernels.simulation.library", lambda name: None)
    assert not runs_natively(torch.zeros(1))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86 processors")
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3"])
def test_processors_with_narrower_vectors(processor, monkeypatch, tmp_path):
    if processor == "x86-64-v3" and "avx512f" not in native._processor():
        pytest.skip("this processor's own vectors are no wider")
    positions = chains(9, 7, 0)
    potential = potential_of(6, 7, num_layers=3, hidden_channels=40, num_filters=36)
    wide = native_of(potential, positions).energy_and_forces(positions)
    flags = [flag for flag in native.FLAGS if not flag.startswith("-march")]
    monkeypatch.setattr(native, "FLAGS", (*flags, f"-march={processor}"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    narrow = native.library.__wrapped__("simulation")
    monkeypatch.setattr("cgfe.kernels.simulation.library", lambda name: narrow)
    found = native_of(potential, positions).energy_and_forces(positions)
    assert not torch.equal(found[1], wide[1])  # another order of sums
    for value, wanted in zip(found, wide, strict=True):
        assert_close(value, wanted, TOLERANCE)


def free_of(beads: int) -> NativeForces:
    """Return a potential without forces."""
    return NativeForces(beads, [])


def state_of(kernel: NativeForces, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    positions = positions.clone()
    energy, forces = kernel.energy_and_forces(positions)
    return positions, torch.zeros_like(positions), energy, forces


def noise_of(replicas: int, beads: int, steps: int, seed: int = 1) -> np.ndarray:
    """Return the kernel's noise (steps, replicas, beads, 3): velocities that friction stops."""
    kernel = free_of(beads)
    state = state_of(kernel, torch.zeros(replicas, beads, 3))
    scales = torch.zeros(beads, 3), torch.ones(beads, 3), torch.ones(replicas)
    noise = []
    for step in range(steps):
        kernel.advance(Dynamics(seed=seed, first_step=step, steps=1), scales, state)
        noise.append(state[1].double().numpy().copy())
    return np.stack(noise)


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Return Philox4x32-10, written from the paper (Salmon et al. 2011)."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = right >> 32 ^ b ^ k, right % 2**32, left >> 32 ^ d ^ m, left % 2**32
        k, m = (k + 0x9E3779B9) % 2**32, (m + 0xBB67AE85) % 2**32
    return a, b, c, d


def test_noise_is_box_muller_of_philox():
    # The authors' known answers (Random123, kat_vectors).
    assert philox((0,) * 4, (0,) * 2) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    ones = 2**32 - 1
    assert philox((ones,) * 4, (ones,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    seed, replicas, beads = 0x123456789ABCDEF, 3, 30  # 90 numbers of a replica: three batches
    found = noise_of(replicas, beads, 2, seed).reshape(2, replicas, -1)
    for step in range(2):
        for replica in range(replicas):
            key = (seed % 2**32, seed >> 32)
            words = np.array([philox((step, 0, replica, k), key) for k in range(32)], dtype=float)
            words = words.reshape(2, 16, 4)
            expected = []
            for batch in range(2):
                for pair in range(2):
                    one, two = words[batch, :, 2 * pair], words[batch, :, 2 * pair + 1]
                    radius = np.sqrt(-2 * np.log(np.minimum((one + 0.5) / 2**32, 1)))
                    expected += [radius * f(two / 2**32 * 2 * np.pi) for f in (np.cos, np.sin)]
            # An even number near 1 has seven digits, so its logarithm has an error of 1e-7.
            assert np.abs(found[step, replica] - np.concatenate(expected)[:90]).max() < 1e-3
            assert np.abs(found[step, replica] - np.concatenate(expected)[:90]).mean() < 1e-6


def test_noise_is_normal_and_independent():
    noise = noise_of(replicas=400, beads=10, steps=40)
    values = noise.ravel()
    count = len(values)
    # Standard errors of the moments of n normal numbers.
    assert abs(values.mean()) < 4 / count**0.5
    assert abs(values.var() - 1) < 4 * (2 / count) ** 0.5
    assert abs(stats.skew(values)) < 4 * (6 / count) ** 0.5
    assert abs(stats.kurtosis(values)) < 4 * (24 / count) ** 0.5
    assert stats.kstest(values, "norm").pvalue > 1e-4
    assert np.abs(values).max() > 4  # the tails are there: 30 are expected beyond
    # Steps, replicas, beads and axes with their neighbours, and squares, whose correlation
    # noise of one radius would show.
    for array in (noise, noise**2 - 1):
        for axis in range(4):
            moved = np.roll(array, 1, axis=axis)
            correlation = (array * moved).mean() / (array**2).mean()
            assert abs(correlation) < 4 / count**0.5
    half = noise.reshape(40, 400, 30)
    for shift in (15, 16):  # sine and cosine of one draw lie 16 apart
        pairs = half[..., :-shift] * half[..., shift:]
        assert abs(pairs.mean()) < 4 / pairs.size**0.5
    assert not np.isin(noise_of(2, 10, 1, seed=2), values).any()


@pytest.mark.parametrize("beads", [3, 10])
def test_threads_and_cuts_do_not_change_a_bit(beads, monkeypatch):
    replicas = 37
    start = chains(replicas, beads, 0)
    kernel = native_of(potential_of(7, beads, num_layers=3), start)
    kick, noise_scale = torch.full((beads, 3), 0.008), torch.full((beads, 3), 0.3)
    heat = torch.linspace(1, 2, replicas)

    def run(threads: int, cuts: list[int], chosen: slice = slice(None)) -> list[Tensor]:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        state = state_of(kernel, start[chosen])
        done = 0
        for steps in cuts:
            dynamics = Dynamics(
                half_step=0.002, damping=0.9, seed=3, first_step=done + 2**32 - 4, steps=steps
            )
            kernel.advance(dynamics, (kick, noise_scale, heat[chosen]), state)
            done += steps
        return list(state)

    reference = run(1, [12])
    assert not torch.equal(reference[0], start)
    for threads, cuts in ((1, [5, 7]), (2, [12]), (3, [1] * 12), (64, [11, 1])):
        for found, wanted in zip(run(threads, cuts), reference, strict=True):
            assert torch.equal(found, wanted)
    # The forces it hands back are those at its positions, and fewer replicas go the same way.
    energy, forces = kernel.energy_and_forces(reference[0])
    assert torch.equal(forces, reference[3])
    assert torch.equal(energy, reference[2])
    for found, wanted in zip(run(2, [12], slice(0, 9)), reference, strict=True):
        assert torch.equal(found, wanted[:9])


def test_a_step_is_baoab():
    beads, half, damping = 4, 0.002, 0.8
    start = chains(5, beads, 1)
    kernel = native_of(potential_of(8, beads), start)
    kick, noise_scale = torch.rand(beads, 3) * 0.01, torch.rand(beads, 3)
    heat = torch.rand(5) + 1
    state = state_of(kernel, start)
    state[1].normal_()
    x, v, _, f = (tensor.clone() for tensor in state)
    noise = torch.from_numpy(noise_of(5, beads, 1)[0]).float()
    dynamics = Dynamics(half_step=half, damping=damping, seed=1, steps=1)
    kernel.advance(dynamics, (kick, noise_scale, heat), state)
    v = v + f * kick
    x = x + half * v
    v = damping * v + noise * noise_scale * heat[:, None, None]
    x = x + half * v
    v = v + kernel.energy_and_forces(x)[1] * kick
    assert torch.allclose(state[0], x, rtol=1e-6, atol=1e-6)
    assert torch.allclose(state[1], v, rtol=1e-4, atol=1e-4)


def test_several_terms_of_one_kind_add_up():
    index = torch.tensor([[0, 1]])
    bonds = [
        HarmonicBonds(index, centre=torch.tensor([c]), stiffness=torch.tensor([2.0]))
        for c in (3.0, 4.0)
    ]
    prior = PriorEnergy({"bonds": bonds[0], "others": bonds[1]})
    fast = accelerated(
        Potential(prior, None, torch.zeros(2, dtype=torch.long)), torch.zeros(1, 2, 3)
    )
    positions = torch.tensor([[[0.0, 0, 0], [0, 5, 0]]])
    energy, forces = fast.energy_and_forces(positions)
    assert math.isclose(float(energy), 0.5 * 2 * (4 + 1))
    assert forces[0, 0].tolist() == [0, 6, 0]
