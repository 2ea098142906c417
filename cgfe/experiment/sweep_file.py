"""The W&B sweep file: its parameters, method and command, read for sweeps without an account.

What W&B's own agent does with the file (docs.wandb.ai, "sweep configuration") is done here too,
or refused in one sentence.
"""

import itertools
import json
import math
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from cgfe.errors import InputError
from cgfe.experiment.config_files import config_files

Method = Literal["grid", "random", "bayes"]
Point = dict[str, Any]
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
CONFIG = "config"
"""A parameter whose values are further config files."""
TOLD_BY_NAME = (CONFIG, "data.frames")
"""Parameters whose values are files, told without folder and ending."""
LARGEST_GRID = 100_000


@dataclass(frozen=True)
class EarlyTermination:
    """Hyperband (arXiv 1603.06560): runs that are behind at a rung are ended there.

    Rungs are counted in values of the metric, so in validations that simulate.
    """

    min_iter: int
    max_iter: int | None
    eta: int


@dataclass(frozen=True)
class SweepFile:
    """A sweep: which parameters, how they are chosen, and what is run with them."""

    path: Path
    text: str
    name: str
    method: Method
    metric: str
    minimize: bool
    space: dict[str, BaseDistribution]
    """Of each parameter that is varied."""
    fixed: Point
    """Parameters of one value."""
    command: tuple[str, ...]
    program: str
    run_cap: int | None
    early_termination: EarlyTermination | None

    @classmethod
    def load(cls, path: str | Path) -> "SweepFile":
        """Read a sweep file.

        Raises
        ------
        InputError
            If it is missing, no YAML, or asks for what is not known here; the message names the
            key.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            content = yaml.safe_load(text)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error}).") from None
        except yaml.YAMLError as error:
            first = str(error).replace("\n", " ")
            raise InputError(f"{path}: no YAML ({first}).") from None
        if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
            raise InputError(f"{path}: no sweep file; expected `parameters`, `method`, `metric`.")
        try:
            return _parsed(path, text, content)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def grid(self) -> list[Point]:
        """Return every point of a grid, the last parameter varying fastest.

        Raises
        ------
        InputError
            If a parameter has no list of values, or the points are too many.
        """
        choices = []
        for name, distribution in self.space.items():
            if not isinstance(distribution, CategoricalDistribution):
                raise InputError(
                    f"{self.path}: parameters.{name} has a range, but method is grid; "
                    "expected `values`."
                )
            choices.append(distribution.choices)
        count = math.prod(map(len, choices))
        if count > LARGEST_GRID:
            raise InputError(f"{self.path}: the grid has {count:,} points.")
        return [dict(zip(self.space, point, strict=True)) for point in itertools.product(*choices)]

    def config_files(self) -> list[Path]:
        """Return the config files that the runs' command names, and those that are varied."""
        varied = self.space.get(CONFIG)
        choices = varied.choices if isinstance(varied, CategoricalDistribution) else ()
        files = [*config_files(self.arguments({})), *(Path(str(name)) for name in choices)]
        return list(dict.fromkeys(files))

    def arguments(self, point: Point, extra: Sequence[str] = ()) -> list[str]:
        """Return the words of the command that runs a point.

        `extra` words follow the point's own.
        """
        values = {**self.fixed, **point}
        as_flags = [f"--{name}={_word(value)}" for name, value in values.items()]
        words: list[str] = []
        for word in self.command:
            if word == "${args}":
                words += [*as_flags, *extra]
            elif word == "${args_no_hyphens}":
                words += [flag.removeprefix("--") for flag in as_flags] + list(extra)
            elif word == "${args_no_boolean_flags}":
                words += [
                    f"--{name}" if value is True else f"--{name}={_word(value)}"
                    for name, value in values.items()
                    if value is not False
                ] + list(extra)
            elif word == "${args_json}":
                words += [json.dumps(values), *extra]
            else:
                words.append(_filled(word, self.program))
        return words


def _parsed(path: Path, text: str, content: Mapping[str, Any]) -> SweepFile:
    known = {"program", "command", "method", "metric", "parameters", "name", "project", "entity"}
    known |= {"description", "run_cap", "early_terminate"}
    for key in content:
        if key not in known:
            raise InputError(f"{key} is not known; expected one of {', '.join(sorted(known))}.")
    method = content.get("method")
    if method not in ("grid", "random", "bayes"):
        raise InputError(f"method is {method!r}, expected grid, random or bayes.")
    metric = content.get("metric")
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise InputError(f"metric is {metric!r}, expected a name and a goal.")
    goal = metric.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise InputError(f"metric.goal is {goal!r}, expected minimize or maximize.")
    run_cap = content.get("run_cap")
    if run_cap is not None and not (isinstance(run_cap, int) and run_cap > 0):
        raise InputError(f"run_cap is {run_cap!r}, expected a positive number of runs.")
    space: dict[str, BaseDistribution] = {}
    fixed: Point = {}
    if not content["parameters"]:
        raise InputError("parameters is empty, expected one at least.")
    for name, settings in _flat(content["parameters"]):
        found = _distribution(name, settings)
        if isinstance(found, BaseDistribution):
            space[name] = found
        else:
            fixed[name] = found[0]
    command = content.get("command", DEFAULT_COMMAND)
    if isinstance(command, str):
        command = shlex.split(command)
    sweep = SweepFile(
        path=path,
        text=text,
        name=path.stem,
        method=method,
        metric=metric["name"],
        minimize=goal == "minimize",
        space=space,
        fixed=fixed,
        command=tuple(str(word) for word in command),
        program=str(content.get("program", "cgfe")),
        run_cap=run_cap,
        early_termination=_early_termination(content.get("early_terminate")),
    )
    sweep.arguments({})  # names what is not known in the command
    return sweep


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    """Return (dotted name, settings) of parameters, those within `parameters` of others too."""
    found = []
    for name, settings in parameters.items():
        if not isinstance(settings, dict):
            raise InputError(f"parameters.{prefix}{name} is {settings!r}, expected `values`, ...")
        if isinstance(settings.get("parameters"), dict):
            found += _flat(settings["parameters"], f"{prefix}{name}.")
        else:
            found.append((prefix + str(name), settings))
    return found


def _distribution(name: str, settings: Mapping[str, Any]) -> BaseDistribution | tuple[Any]:
    """Return what to draw a parameter from, or its one value."""
    if "value" in settings:
        return (settings["value"],)
    if "values" in settings:
        values = settings["values"]
        if not isinstance(values, list) or not values:
            raise InputError(f"parameters.{name}.values is {values!r}, expected a list.")
        if "probabilities" in settings:
            raise InputError(f"parameters.{name}.probabilities cannot be used in local sweeps.")
        plain = all(isinstance(v, bool | int | float | str | None) for v in values)
        if not plain:
            raise InputError(f"parameters.{name}.values holds lists; expected plain values.")
        files = Counter(Path(v).stem for v in values if isinstance(v, str))
        twice = [file for file, count in files.items() if count > 1]
        if name in TOLD_BY_NAME and twice:
            raise InputError(
                f"parameters.{name}.values has two files {twice[0]}; expected different names, by "
                "which they are told."
            )
        if len(values) == 1:
            return (values[0],)
        return CategoricalDistribution(values)
    return _range(name, settings)


def _range(name: str, settings: Mapping[str, Any]) -> BaseDistribution:
    low, high = settings.get("min"), settings.get("max")
    for key, bound in (("min", low), ("max", high)):
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise InputError(f"parameters.{name}.{key} is {bound!r}, expected a number.")
    assert low is not None
    assert high is not None
    whole = isinstance(low, int) and isinstance(high, int)
    kind = settings.get("distribution", "int_uniform" if whole else "uniform")
    step = settings.get("q")
    try:
        match kind:
            case "int_uniform":
                return IntDistribution(int(low), int(high))
            case "uniform":
                return FloatDistribution(low, high)
            case "q_uniform":
                return FloatDistribution(low, high, step=step or 1)
            case "log_uniform_values":
                return FloatDistribution(low, high, log=True)
            case "log_uniform":  # W&B's bounds are exponents
                return FloatDistribution(math.exp(low), math.exp(high), log=True)
    except ValueError as error:
        raise InputError(f"parameters.{name}: {error}") from None
    raise InputError(
        f"parameters.{name}.distribution is {kind!r}; local sweeps know int_uniform, uniform, "
        "q_uniform, log_uniform and log_uniform_values."
    )


def _early_termination(settings: Any) -> EarlyTermination | None:
    if settings is None:
        return None
    if not isinstance(settings, dict) or settings.get("type") != "hyperband":
        raise InputError(f"early_terminate is {settings!r}, expected type hyperband.")
    eta = settings.get("eta", 3)
    least, most = settings.get("min_iter"), settings.get("max_iter")
    if least is None and most is not None:
        least = max(1, most // eta ** settings.get("s", 2))
    for key, value in (("min_iter", least), ("eta", eta), ("max_iter", most or 1)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"early_terminate.{key} is {value!r}, expected 1 or more.")
    assert isinstance(least, int)
    return EarlyTermination(least, most, eta)


def _word(value: Any) -> str:
    return "null" if value is None else str(value)


def _filled(word: str, program: str) -> str:
    """Replace what W&B's agent replaces in a word of the command."""
    known = {"env": "/usr/bin/env", "interpreter": sys.executable, "program": program}

    def found(match: re.Match[str]) -> str:
        key = match.group(1)
        if key.startswith("envvar:"):
            return os.environ.get(key.removeprefix("envvar:"), "")
        if key not in known:
            raise InputError(f"command: ${{{key}}} is not known.")
        return known[key]

    return re.sub(r"\$\{([^}]*)\}", found, word)
