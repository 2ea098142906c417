"""What the figures of a run mean, in words."""

import math
from dataclasses import dataclass

from cgfe.report.pages import short
from cgfe.simulation.results import FreeEnergyResult

COMPARED_WITH = {
    "train": "the training frames, which the fit has seen",
    "validation": "the validation frames",
    "test": "the test frames",
}
MOST_HEATING = 0.05
"""Share of the temperature that a simulation may miss it by; BAOAB at 16 fs is 2 to 3 % below."""


@dataclass(frozen=True)
class Verdict:
    """What the figures say, in words."""

    headline: str
    details: tuple[str, ...]
    tone: str
    """`good` (at the floor), `fair` (better than the prior), `bad`."""


def verdict(result: FreeEnergyResult) -> Verdict:
    """Say in words what the metrics of one system mean."""
    js, floor = result.metrics.get("js", math.nan), result.floor.get("js", math.nan)
    prior = result.prior.get("js", math.nan)
    if not math.isfinite(js):
        headline = "There is no free-energy error: no simulated frame could be judged."
        return Verdict(headline, tuple(filter(None, [_blow_ups(result)])), "bad")
    low, high = result.intervals.get("js", (math.nan, math.nan))
    headline = f"JS {short(js)}"
    if math.isfinite(high - low):
        headline += f" (95 %: {short(low)} to {short(high)})"
    headline += f" from {COMPARED_WITH[result.compared_with]}"
    comparisons = []
    if math.isfinite(floor):
        most = short(result.floor_high["js"])
        comparisons.append(f"a perfect model would score {short(floor)}, at most {most}")
    if "js" in result.training:
        comparisons.append(f"the training frames themselves score {short(result.training['js'])}")
    if prior > 0:
        comparisons.append(f"the prior alone scores {short(prior)}")
    headline += (": " if comparisons else "") + ", and ".join(comparisons) + "."
    best = low <= floor
    tone = "bad" if js >= prior else "good" if best else "fair"
    hot = _temperature(result)
    if hot:
        tone = "bad"
    details = [hot, _standing(result, best, prior), _delta_f(result), _equilibrium(result)]
    return Verdict(headline, tuple(filter(None, [*details, _blow_ups(result)])), tone)


def _standing(result: FreeEnergyResult, best: bool, prior: float) -> str:
    """Compare with the prior, and with the floor: reached if the interval reaches it."""
    js, low = result.metrics["js"], result.intervals.get("js", (math.nan,))[0]
    found = []
    if math.isfinite(prior):
        found.append("better than the prior alone" if js < prior else "no better than the prior")
    if not math.isfinite(low - result.floor.get("js", math.nan)):
        found.append("how near it is to perfect cannot be told from so few trajectories")
    elif best:
        found.append("as good as can be told with these frames and this simulation")
    else:
        found.append("a better one could still be told apart")
    return f"The model is {found[0]}; {found[1]}." if len(found) > 1 else f"The model: {found[0]}."


def _delta_f(result: FreeEnergyResult) -> str:
    """ΔF is F(folded) - F(unfolded), the model's minus the reference's."""
    error = result.metrics.get("delta_f_kt", math.nan)
    if not math.isfinite(error):
        return ""
    side = "less" if error > 0 else "more"
    return (
        f"The folded state is {short(abs(error))} kT {side} stable against the unfolded one than "
        "in the reference."
    )


def _equilibrium(result: FreeEnergyResult) -> str:
    """Say whether twice the time would give the same, and what it would take."""
    known = result.equilibrium
    if not known:
        return "Whether the simulation is at equilibrium is not known."
    value, low, high = (_signed(known[f"js_change{end}"]) for end in ("", "_low", "_high"))
    change = (
        f"from the first half of its time to the second JS changes by {value} "
        f"(95 %: {low} to {high})"
    )
    if known["reached"] == "yes":
        return f"The simulation is at equilibrium as far as this figure goes: {change}."
    simulated = result.simulation
    longer = ""
    if {"steps", "time_step_ps"} <= simulated.keys():
        wanted = known["longer"] * simulated["steps"]
        longer = (
            f"; it would take about {wanted:,.0f} steps "
            f"({wanted * simulated['time_step_ps'] / 1000:.3g} ns) a replica or more"
        )
    if known["reached"] == "no":
        return f"The simulation is not at equilibrium, nor any figure of it: {change}{longer}."
    return f"Whether the simulation is at equilibrium cannot be told: {change}{longer}."


def _temperature(result: FreeEnergyResult) -> str:
    """Say whether the integrator kept the temperature: a hotter ensemble is not the model's."""
    heating = result.metrics.get("heating", math.nan)
    kinetic = result.simulation.get("kinetic_temperature_kelvin", math.nan)
    if not abs(heating) > MOST_HEATING:
        return ""
    wanted = kinetic / (1 + heating)
    return (
        f"The simulation ran at {kinetic:.0f} K in place of {wanted:.0f} K, so that no figure is "
        "of the model itself: it takes a shorter time_step_ps, or more friction_per_ps."
    )


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + short(value)


def _blow_ups(result: FreeEnergyResult) -> str:
    share = result.metrics.get("blown_up", math.nan)
    if not math.isfinite(share):
        return ""
    if share == 0:
        return "No replica blew up."
    replicas = result.simulation.get("replicas")
    if replicas is None:
        return f"{100 * share:.3g} % of the replicas blew up and are left out."
    return f"{round(share * replicas)} of {replicas} replicas blew up and are left out."
