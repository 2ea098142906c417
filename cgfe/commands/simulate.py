"""`cgfe simulate`: Langevin dynamics of a checkpoint, streamed into trajectories."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cgfe.commands.parsing import Parser
from cgfe.errors import InputError

EPILOG = """\
Example:
  cgfe simulate --ckpt_path runs/NAME/checkpoints/last.ckpt --output traj.xtc --steps 100000
With several trajectories each has its own file (traj-000.xtc, ...). The topology is written beside
them (traj.pdb): mdtraj.load("traj.xtc", top="traj.pdb").
"""


def run(words: Sequence[str]) -> None:
    """Simulate as the command line says."""
    parser = Parser("simulate", "Run Langevin (BAOAB) dynamics of a checkpoint.", EPILOG)
    parser.add_argument("--ckpt_path", required=True, help="checkpoint of cgfe fit")
    parser.add_argument("--output", required=True, help="trajectory: .xtc, .dcd or .h5")
    parser.add_argument("--replicas", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--ladder",
        type=float,
        nargs="+",
        default=[1.0],
        metavar="FACTOR",
        help="replica exchange between temperatures of these multiples, as 1 1.4; each such "
        "ladder of replicas gives one trajectory, at the first (default: none)",
    )
    parser.add_argument(
        "--exchange_interval",
        type=int,
        default=50,
        help="steps between attempts to exchange (default: %(default)s)",
    )
    parser.add_argument("--steps", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument(
        "--save_interval", type=int, default=250, help="steps per frame (default: %(default)s)"
    )
    parser.add_argument("--temperature", type=float, help="K (default: that of the data)")
    parser.add_argument("--time_step", type=float, default=0.016, help="ps (default: %(default)s)")
    parser.add_argument("--friction", type=float, default=0.2, help="1/ps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--system", help="which protein, if trained on several (default: first)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: GPU if there is one)")
    parser.add_argument(
        "--plain", action="store_true", help="autograd forces in place of filter tables (slower)"
    )
    options = parser.parse_args(list(words[1:]))
    output = Path(options.output)
    if output.suffix not in (".xtc", ".dcd", ".h5"):
        raise InputError(f"{output}: expected a name that ends with .xtc, .dcd or .h5.")

    import torch

    from cgfe.files import check_output, replacing
    from cgfe.kernels.fast_potential import accelerated
    from cgfe.progress import Bar
    from cgfe.simulation.langevin import LangevinSimulation, SimulationConfig
    from cgfe.simulation.trajectories import TrajectoryWriter
    from cgfe.training.module import CGForceField

    SimulationConfig(
        replicas=options.replicas,
        steps=options.steps,
        save_interval=options.save_interval,
        time_step_ps=options.time_step,
        friction_per_ps=options.friction,
        ladder=options.ladder,
        exchange_interval=options.exchange_interval,
    ).check()
    trajectories = -(-options.replicas // len(options.ladder))
    names = [output]
    if trajectories > 1:
        names = [output.with_stem(f"{output.stem}-{i:03d}") for i in range(trajectories)]
    for name in (*names, output.with_suffix(".pdb")):
        check_output(name)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"device {device!r} is not here; expected cpu, cuda or mps.") from None
    model = CGForceField.load(options.ckpt_path)
    if not model.references:
        raise InputError(f"{options.ckpt_path}: holds no system to simulate.")
    if options.system not in (None, *model.system_names):
        raise InputError(
            f"system {options.system!r} is not in the checkpoint; "
            f"expected one of {', '.join(model.system_names)}."
        )
    number = model.system_names.index(options.system) if options.system else 0
    reference = model.references[number]
    plain = model.to(device).potential(number)
    system, frames = reference.system, torch.from_numpy(reference.starts.positions)
    simulation = LangevinSimulation(
        plain if options.plain else accelerated(plain, frames),
        torch.from_numpy(system.masses),
        system.temperature_kelvin if options.temperature is None else options.temperature,
        options.time_step,
        options.friction,
        options.seed,
        device,
        options.ladder,
        options.exchange_interval,
    )
    starts = reference.starts.deal(trajectories * len(options.ladder))
    with ExitStack() as stack:
        writers = [
            TrajectoryWriter(stack.enter_context(replacing(name)), system, str(name))
            for name in names
        ]
        for writer in writers:
            stack.callback(writer.close)
        bar = stack.enter_context(Bar(total=options.steps, unit="step", desc="simulating"))

        def write(number: int, positions: torch.Tensor) -> None:
            steps_done = (number + 1) * options.save_interval
            for writer, frame in zip(writers, positions.cpu().numpy(), strict=True):
                writer.write(frame, steps_done * options.time_step)
            bar.update(options.save_interval)

        result = simulation.run(
            torch.from_numpy(starts), options.steps, options.save_interval, on_frame=write
        )
    if output.suffix != ".h5":
        with replacing(output.with_suffix(".pdb")) as path:
            writers[0].save_topology(path, starts[0])
    print(
        f"simulated: {names[0]}{' ...' if len(names) > 1 else ''} "
        f"({result.replica_steps_per_second:.0f} replica-steps/s, "
        f"{int(result.blown_up.sum())} of {trajectories} blew up"
        + (f", exchange accepted {_shares(result.acceptance)}" if result.acceptance else "")
        + ")"
    )


def _shares(acceptance: Sequence[float]) -> str:
    return ", ".join(f"{share:.2f}" for share in acceptance)
