"""Is it converged? Each question is answered yes, no, or that there is too little to know."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cgfe.analysis.core_sets import FOLDED, FOLDED_CORE, UNFOLDED_CORE, SurvivalTest
from cgfe.analysis.folding import FoldedShare, Folding
from cgfe.analysis.intervals import Interval
from cgfe.reference.convergence import TARGET_DELTA_F_KT, TARGET_JS, Convergence
from cgfe.reference.ways import Agreement
from cgfe.report.pages import short

Answer = Literal["yes", "no", "unknown"]

FEWEST_EVENTS = 10
"""Foldings, and unfoldings, below which nothing is known of their rates' true spread."""
FEWEST_WALKERS = 8
"""Below which a bootstrap over walkers cannot tell its own spread."""
SMALLEST_P = 0.005
"""Of each of two tests, so that a right reference is accused in one of a hundred cases."""
GROWTH_TOLERATED = math.log(1.1)
GROWTH_KNOWN = math.log(1.5)
"""ln of the slowest timescale's growth that does not matter, and of half its 95 % interval."""
CHAPMAN_TOLERATED = 0.1
CHAPMAN_KNOWN = 0.25
"""Difference of probabilities that does not matter, and half of its 95 % interval, as shares of
the probability of having left."""
SHARE_KNOWN = 0.5
"""Half of the 99 % interval of the difference of folded shares within which groups can meet."""

WAYS = {
    "all": "all walkers together",
    "msm": "unbiased walkers (MSM)",
    "bias": "biased walkers",
    "counts": "unbiased walkers (counts)",
    "rates": "rates between core sets",
    "against": "the second set",
}


@dataclass(frozen=True)
class Verdict:
    """One question, its answer, and what stands behind it in words."""

    question: str
    answer: Answer
    words: str


def judge(result: Convergence) -> list[Verdict]:
    """Return the answers to all questions; converged is what has yes for each."""
    found = [_floor(result)]
    if result.folding is not None:
        found += [_delta_f(result), _transitions(result.folding)]
        if result.folding.share is not None:
            found.append(_starts(result.folding.share))
        found.append(_memory(result, result.folding))
    found += [_timescales(result), _chapman_kolmogorov(result)]
    # Two ways that agree say nothing while what both rest on is in doubt.
    keys = [(v.question, v.answer) for v in found]
    doubts = [_FOUNDATIONS[key] for key in keys if key in _FOUNDATIONS]
    found.insert(2 if result.folding is not None else 1, _two_ways(result, doubts))
    return found


_FOUNDATIONS = {
    ("Enough transitions?", "no"): "there are too few transitions",
    ("Starts forgotten?", "no"): "walkers still remember where they started",
    ("Starts forgotten?", "unknown"): "whether starts are forgotten is not known",
    ("States without memory?", "no"): "states are not what they seem",
    ("States without memory?", "unknown"): "whether states have memory is not known",
}
"""What makes an agreement of two ways worthless, in words."""

_FAILURES = {
    "Surface known?": "walkers differ too much",
    "Folding free energy known?": "ΔF is too uncertain",
    "Two ways agree?": "two ways contradict each other",
    "Enough transitions?": "too few transitions",
    "Starts forgotten?": "starts are not forgotten",
    "States without memory?": "states have memory",
    "Timescales flat in the lag?": "timescales rise with the lag",
    "Chapman-Kolmogorov test passed?": "the Chapman-Kolmogorov test fails",
}


def headline(result: Convergence) -> str:
    """Say in one sentence whether models can be told apart."""
    verdicts = judge(result)
    if all(v.answer == "yes" for v in verdicts):
        return (
            "Converged: models whose JS or ΔF differ by more than the figures below can be told "
            "apart."
        )
    wrong = [_FAILURES[v.question] for v in verdicts if v.answer == "no"]
    if not wrong:
        open_ = [v.question.rstrip("?").lower() for v in verdicts if v.answer == "unknown"]
        return f"Not known to be converged; undecided: {', '.join(open_)}."
    verdict = (
        "It tells a model that loses a basin from one that does not, but no finer."
        if useful(result)
        else "It decides nothing yet."
    )
    return f"Not converged: {', '.join(wrong)}. {verdict}"


def useful(result: Convergence) -> bool:
    """Whether a model that loses a basin could be told."""
    # Two ensembles without any overlap have ln 2.
    return result.js_walkers < 0.5 * math.log(2)


def _floor(result: Convergence) -> Verdict:
    floor = result.floor
    words = (
        f"A perfect model would score JS {short(floor.mean)} (95 % below {short(floor.high)}), "
        f"the target is {TARGET_JS:g}; halves of the walkers, each with weights of its own, "
        f"differ by {short(result.js_walkers)}, halves of time by {short(result.js_time)}."
    )
    answer: Answer = "yes" if floor.mean <= TARGET_JS else "no"
    if answer == "yes" and floor.walkers < FEWEST_WALKERS:
        answer = "unknown"
        words += f" {floor.walkers} walkers are too few to draw from."
    return Verdict("Surface known?", answer, words)


def _delta_f(result: Convergence) -> Verdict:
    delta_f = result.ways["all"].delta_f
    assert delta_f is not None
    words = f"F(folded) - F(unfolded) is {span(delta_f)} kT, the target ± {TARGET_DELTA_F_KT:g}."
    answer: Answer = "yes" if delta_f.half_width <= TARGET_DELTA_F_KT else "no"
    return Verdict("Folding free energy known?", answer, words)


def _transitions(folding: Folding) -> Verdict:
    question = "Enough transitions?"
    rates = folding.rates
    if rates is None:
        return Verdict(
            question, "no", "No unbiased walker was in both core sets' states: no rates are known."
        )
    sampled = folding.unbiased_us
    cores = [core * folding.folded_rmsd for core in (FOLDED_CORE, UNFOLDED_CORE)]
    words = (
        f"{rates.foldings} foldings and {rates.unfoldings} unfoldings between the cores (RMSD "
        f"below {cores[0]:g} and above {cores[1]:g} Å) in {short(sampled)} µs, "
        f"{short(rates.foldings / sampled)} and {short(rates.unfoldings / sampled)} per µs; rates "
        f"{span(rates.folding_per_us)} and {span(rates.unfolding_per_us)} per µs, relaxation "
        f"{short(rates.relaxation_ns)} ns."
    )
    if min(rates.foldings, rates.unfoldings) < FEWEST_EVENTS:
        return Verdict(question, "no", f"{words} Too few transitions to know.")
    return Verdict(question, "yes", words)


def _starts(share: FoldedShare) -> Verdict:
    question = "Starts forgotten?"
    who = (
        f"The {share.walkers[0]} walkers that start folded and the {share.walkers[1]} unfolded ones"
    )
    last_time, _, last = share.differences[-1]
    left = (
        f"from {short(last_time)} ns on their folded shares differ by {span(last)}, 99 % interval"
    )
    if not last.contains(0):
        return Verdict(question, "no", f"{who} have not met: {left}.")
    if share.met_ns is None or last.half_width > SHARE_KNOWN:
        return Verdict(question, "unknown", f"{who} may have met, but {left}: too few to know.")
    return Verdict(question, "yes", f"{who} have met by {short(share.met_ns)} ns: {left}.")


def _memory(result: Convergence, folding: Folding) -> Verdict:
    lag = short(result.timescales.msm_lag_ps)
    question = "States without memory?"
    worst = min(folding.survival, key=lambda test: test.p_value)
    if worst.p_value < SMALLEST_P:
        return Verdict(question, "no", _remembers(worst, lag))
    seen = sum(sum(test.ended) for test in folding.survival)
    words = (
        f"Beyond the MSM's lag of {lag} ps, visits to the folded and to the unfolded state end "
        "as often whether a walker began there or came there: "
        + "; ".join(_ended(test) for test in folding.survival)
        + f" (p = {short(worst.p_value)})."
    )
    if seen < FEWEST_EVENTS:
        words += " Too few ends to know."
    return Verdict(question, "yes" if seen >= FEWEST_EVENTS else "unknown", words)


def _remembers(test: SurvivalTest, lag: str) -> str:
    name = "folded" if test.state == FOLDED else "unfolded"
    kinds = (
        "Frames of the same beads are of two kinds (such as side chains packed or not), and "
        "starts made one of them: neither an MSM of these states nor a bias on the beads knows "
        "of it."
    )
    return (
        f"Walkers that began {name} and walkers that became {name} leave at different rates "
        f"beyond the MSM's lag of {lag} ps: {_ended(test)} (p = {test.p_value:.1g}). {kinds}"
    )


def _ended(test: SurvivalTest) -> str:
    name = "folded" if test.state == FOLDED else "unfolded"
    (begun, came), (begun_ns, came_ns) = test.ended, test.ns
    return (
        f"{name}, {begun} ended in {short(begun_ns)} ns of those begun there and {came} in "
        f"{short(came_ns)} ns of the others"
    )


def _two_ways(result: Convergence, doubts: list[str]) -> Verdict:
    question = "Two ways agree?"
    if not result.agreements:
        return Verdict(question, "unknown", "There is one way to the weights alone.")
    words = " ".join(_agreement(agreement) for agreement in result.agreements)
    if result.against is not None and result.against.hops is not None:
        foldings, unfoldings = result.against.hops
        words += f" Its replicas folded {foldings} times and unfolded {unfoldings} times."
    if not all(agreement.holds for agreement in result.agreements):
        return Verdict(question, "no", f"{words} They contradict each other.")
    if doubts:
        why = ", ".join(doubts)
        return Verdict(question, "unknown", f"{words} That is no agreement to rely on: {why}.")
    if not any(agreement.independent for agreement in result.agreements):
        return Verdict(
            question,
            "unknown",
            f"{words} All of these rest on the same walkers; no independent way checks them "
            "(biased walkers, or a second set by --against).",
        )
    return Verdict(question, "yes", f"{words} They agree within their intervals.")


def _agreement(agreement: Agreement) -> str:
    parts = []
    if agreement.difference is not None:
        parts.append(f"ΔF differs by {span(agreement.difference)} kT")
    if math.isfinite(agreement.js):
        parts.append(
            f"JS is {short(agreement.js)}, by chance up to {short(agreement.js_by_chance)}"
        )
    first, second = WAYS[agreement.first], WAYS[agreement.second]
    text = f"{first} against {second}: {', '.join(parts)}."
    return text[0].upper() + text[1:]


def _timescales(result: Convergence) -> Verdict:
    question = "Timescales flat in the lag?"
    times = result.timescales
    if not len(times.growth) or not np.isfinite(times.growth).any():
        return Verdict(question, "unknown", "Walkers are too short to look beyond the MSM's lag.")
    low, high = times.growth - times.growth_half, times.growth + times.growth_half
    known = np.isfinite(times.growth_half)
    worst = int(np.nanargmax(np.where(known, low, -np.inf) if known.any() else times.growth))
    beyond = times.lags_ps[times.lags_ps > times.msm_lag_ps]
    slowest = times.value[times.lags_ps == times.msm_lag_ps, 0][0] / 1000
    ends = [float(np.exp(x[worst])) for x in (times.growth, low, high)]
    words = (
        f"The slowest implied timescale, {short(slowest)} ns at the MSM's lag of "
        f"{short(times.msm_lag_ps)} ps, is {short(ends[0])} times as long at "
        f"{short(beyond[worst])} ps ({short(ends[1])} to {short(ends[2])}; flat is an interval "
        "that reaches below 1.1 and is known to a factor of 1.5, at every lag to a fifth of the "
        "longest walker)."
    )
    if (low[known] > GROWTH_TOLERATED).any():
        return Verdict(question, "no", f"{words} It rises: the states are not Markovian.")
    if not known.all() or (times.growth_half > GROWTH_KNOWN).any():
        return Verdict(question, "unknown", f"{words} Too uncertain to know.")
    return Verdict(question, "yes", words)


def _chapman_kolmogorov(result: Convergence) -> Verdict:
    question = "Chapman-Kolmogorov test passed?"
    tests = result.chapman_kolmogorov
    if not tests:
        return Verdict(question, "unknown", "Walkers are too short or not connected.")
    difference = np.array([test.observed - test.predicted for test in tests])
    half = np.array([test.difference_half for test in tests])
    left = 1 - np.array([np.minimum(test.observed, test.predicted) for test in tests])
    excess = np.abs(difference) - np.maximum(half, CHAPMAN_TOLERATED * left)
    wide = half > CHAPMAN_KNOWN * left
    side, time = np.unravel_index(np.argmax(np.abs(difference) / left), difference.shape)
    words = (
        f"At worst the MSM predicts {short(tests[side].predicted[time])} and "
        f"{short(tests[side].observed[time])} is seen after {short(tests[side].times_ps[time])} "
        f"ps, a difference known to ± {short(half[side, time])} (all times at once; of the "
        f"probability of having left, differences below {CHAPMAN_TOLERATED:.0%} do not matter "
        f"and intervals wider than ± {CHAPMAN_KNOWN:.0%} tell nothing)."
    )
    if (excess > 0).any():
        return Verdict(question, "no", f"{words} The states are not Markovian.")
    if wide.any():
        return Verdict(question, "unknown", f"{words} Too uncertain to know.")
    return Verdict(question, "yes", words)


def span(value: Interval) -> str:
    """Return a value with its 95 % interval as text."""
    return f"{short(value.value)} ({short(value.low)} to {short(value.high)})"
