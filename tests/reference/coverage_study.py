"""Made experiments by the dozen: how often intervals hold the truth, and what the report says.

Run by hand (`python -m tests.reference.coverage_study 40`, one to three seconds per experiment
and core); the tests repeat a small part of it. Of 40 experiments each (3.84 µs of 32 walkers,
relaxation 40 ns, with the bias 20 ns; the short ones 0.14 µs of 68), the share whose 95 %
interval of ΔF held the truth, its median half width in kT, the mean floor, and a perfect model's
mean JS:

    walkers               weights     counts      rates       bias        floor  JS
    long                  0.98 ± 0.7  1.00 ± 1.0  0.93 ± 0.7  -           .0054  .0052 ± .0006
    long, 95 % folded     0.95 ± 0.9  0.95 ± 1.5  1.00 ± 1.0  -           .0041  .0038 ± .0005
    long and biased       1.00 ± 0.5  0.95 ± 0.6  0.98 ± 0.5  0.93 ± 1.2  .0030  .0030 ± .0002
    long, hidden packing  0.90 ± 0.6  0.93 ± 0.8  0.88 ± 0.5  -           .0045  .0057 ± .0008
    short                 0.45 ± 2.4  -           1.00 ± 6.5  -           .1140  .1374 ± .0059
    short, hidden packing 0.88 ± 3.1  -           0.88 ± 2.1  -           .0957  .1013 ± .0058

Of the right ones the report denied that starts were forgotten in 2 of 120, that states have no
memory in 2, that two ways agree in 5, that the Chapman-Kolmogorov test passes in 5; that there are
enough transitions in 37 of the 40 at 95 %. Of the hidden packing it denied the Chapman-Kolmogorov
test in 29 of 40 and flat timescales in 13. Of the short ones, whose intervals are wrong,
it denied in 80 of 80 that starts are forgotten and that there are enough transitions. Of 300
right ones 0.7 % were accused of memory, 1.7 % of unforgotten starts.
"""

import sys
from collections import Counter

import numpy as np

from cgfe.analysis import kinetics
from cgfe.analysis.metrics import js_divergence
from cgfe.reference.convergence import Convergence, analyse_sampled
from cgfe.reference.sampled import Sampled
from cgfe.report.verdicts import judge
from tests.reference.made_walkers import STEP_NS, Made, make

LONG_NS, SHORT_NS = 120.0, 2.0


def halves(made: Made, random: np.random.Generator) -> Sampled:
    """32 walkers of 120 ns, half started folded and half unfolded."""
    starts = np.concatenate([made.starts(kind, 16, random) for kind in (1, -1)])
    paths = made.walk(starts, round(LONG_NS / STEP_NS), random)
    return made.sampled(paths, random, lag=50)


def with_bias(made: Made, random: np.random.Generator) -> Sampled:
    """The same, and eight biased walkers of as long to whom both states are alike."""
    starts = np.concatenate([made.starts(kind, 16, random) for kind in (1, -1)])
    paths = made.walk(starts, round(LONG_NS / STEP_NS), random)
    tilt = 1 / np.array([made.population[made.kind == k].sum() for k in (-1, 0, 1)])[made.kind + 1]
    biased = made.walk(made.starts(0, 8, random), round(LONG_NS / STEP_NS), random, tilt)
    return made.sampled(paths, random, 50, biased, tilt)


def short(made: Made, random: np.random.Generator) -> Sampled:
    """Walkers far shorter than the relaxation, started anywhere: an old kind of reference."""
    numbers = ((1, 16), (0, 20), (-1, 32))
    starts = np.concatenate([made.starts(kind, n, random) for kind, n in numbers])
    paths = made.walk(starts, round(SHORT_NS / STEP_NS), random)
    return made.sampled(paths, random, lag=1)


def blind(made: Made, random: np.random.Generator) -> Sampled:
    """Short walkers and five of 15 ns under a bias on the beads, too short for the packing.

    The five start between the states, so they see the folded state unpacked alone.
    """
    numbers = ((1, 40), (0, 60), (-1, 30))
    starts = np.concatenate([made.starts(kind, n, random) for kind, n in numbers])
    paths = made.walk(starts, round(SHORT_NS / STEP_NS), random)
    tilt = 1 / np.array([made.population[made.kind == k].sum() for k in (-1, 0, 1)])[made.kind + 1]
    biased = made.walk(made.starts(0, 5, random), round(15.0 / STEP_NS), random, tilt)
    return made.sampled(paths, random, 1, biased, tilt)


EXPERIMENTS = {
    "long, 50 % folded": ({"folded_share": 0.5, "relaxation_ns": 40.0}, halves),
    "long, 75 % folded": ({"folded_share": 0.7, "relaxation_ns": 40.0}, halves),
    "long, quick": ({"folded_share": 0.5, "relaxation_ns": 4.0}, halves),
    "long, 95 % folded": ({"folded_share": 0.93, "relaxation_ns": 40.0}, halves),
    "long and biased": ({"folded_share": 0.5, "relaxation_ns": 20.0}, with_bias),
    "long, hidden packing": ({"folded_share": 0.5, "relaxation_ns": 40.0, "hidden": True}, halves),
    "short, hidden packing": ({"folded_share": 0.5, "relaxation_ns": 40.0, "hidden": True}, short),
    "short, blind bias": (
        {"folded_share": 0.6, "relaxation_ns": 40.0, "hidden": True},
        blind,
    ),
    "short": ({"folded_share": 0.5, "relaxation_ns": 40.0}, short),
}


def tell(name: str, made: Made, results: list[Convergence]) -> None:
    """Print coverage, the floor against the measured JS, and the share of each answer."""
    print(f"{name}: ΔF {made.delta_f:.2f} kT by RMSD, {made.delta_f_by_core():.2f} by core")
    for way in ("all", "msm", "bias", "counts", "rates"):
        for attribute, truth in (("delta_f", made.delta_f), ("by_core", made.delta_f_by_core())):
            found = [getattr(r.ways[way], attribute) for r in results if way in r.ways]
            found = [x for x in found if x is not None]
            if found:
                held = np.mean([x.contains(truth) for x in found])
                half = np.median([x.half_width for x in found])
                shift = np.mean([x.value for x in found]) - truth
                print(f"  {way:7} {attribute:8} {held:.3f} of {len(found)}, ± {half:.2f}, "
                      f"mean error {shift:+.2f}")  # fmt: skip
    measured = [js_divergence(r.ways["all"].surface, made.surface) for r in results]
    error = np.std(measured) / len(results) ** 0.5
    floor = np.mean([r.floor.mean for r in results])
    below = np.mean([m <= r.floor.high for m, r in zip(measured, results, strict=True)])
    print(f"  floor {floor:.4f}, a perfect model's JS {np.mean(measured):.4f} ± {error:.4f}, "
          f"{below:.2f} below the 95 % quantile")  # fmt: skip
    answers = [{v.question: v.answer for v in judge(r)} for r in results]
    for question in answers[0]:
        counted = Counter(a.get(question, "-") for a in answers)
        print(f"  {question:34} {dict(counted)}")
    print(flush=True)


def main(experiments: int, names: list[str]) -> None:
    """Make so many experiments of each kind, or of some."""
    kinetics.LAGS_PS = (200.0, 1e4, 2e4)  # those shorter than the MSM's are only drawn
    for name, (peptide, sample) in EXPERIMENTS.items():
        if names and name not in names:
            continue
        made = make(**peptide)
        results = []
        for number in range(experiments):
            random = np.random.default_rng(number)
            results.append(analyse_sampled(sample(made, random), number))
        tell(name, made, results)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
