"""A loopback stand-in of the W&B server for sweeps, and a reader of runs written offline."""

import itertools
import json
import re
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import yaml
from wandb.proto import wandb_internal_pb2

Point = dict[str, Any]

SWEEP_ID = "sweep123"
ENTITY = "someone"
LOG_BLOCK = 32768  # bytes; LevelDB's log format


class SweepServer:
    """Takes a sweep from `wandb sweep` and hands points of its grid to `wandb agent`.

    Parameters
    ----------
    choose : callable
        Gets all points of the grid, returns those to run, each a dict of option and value.
    seconds : float
        After this time agents are told to kill their run and exit.
    ended_early : tuple of str
        Runs that agents are told to stop once they are at work, as early termination does.

    Attributes
    ----------
    config : dict
        What `wandb sweep` sent.
    handed_out : dict
        The point of each run id.
    unanswered : list of str
        Operations that it has no answer to.
    """

    def __init__(
        self,
        choose: Callable[[list[Point]], list[Point]],
        seconds: float,
        ended_early: tuple[str, ...] = (),
    ) -> None:
        self.config: dict[str, Any] = {}
        self.handed_out: dict[str, Point] = {}
        self.unanswered: list[str] = []
        self._choose, self._ended_early = choose, ended_early
        self._waiting: list[Point] = []
        self._deadline = time.monotonic() + seconds
        self._lock = Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "SweepServer":
        Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        """Return the data of a GraphQL answer, None for an unknown operation."""
        project = {"id": "project", "name": "cgfe", "entity": {"id": "entity", "name": ENTITY}}
        if operation == "Viewer":
            return {"viewer": {"id": "viewer", "username": ENTITY, "entity": ENTITY}}
        if operation == "UpsertSweep":
            self.config = yaml.safe_load(variables["config"])
            self._waiting = self._choose(grid(self.config))
            sweep = {"name": SWEEP_ID, "project": project}
            return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}
        if operation == "SweepWithRuns":
            sweep = {"id": SWEEP_ID, "name": SWEEP_ID, "method": "grid", "state": "RUNNING"}
            content = {"config": yaml.dump(self.config), "runs": {"edges": []}}
            return {"project": {"sweep": sweep | content}}
        if operation == "CreateAgent":
            return {"createAgent": {"agent": {"id": "agent"}}}
        if operation == "Heartbeat":
            commands = json.dumps(self._commands(json.loads(variables["runState"])))
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": commands}}
        return None

    def _commands(self, running: dict[str, bool]) -> list[dict[str, Any]]:
        if time.monotonic() > self._deadline:
            return [{"type": "exit"}]
        if running:
            return [{"type": "stop", "run_id": r} for r in running if r in self._ended_early]
        if not self._waiting:
            return [{"type": "exit"}]
        run_id, point = f"run{len(self.handed_out)}", self._waiting.pop(0)
        self.handed_out[run_id] = point
        args = {name: {"value": value} for name, value in point.items()}
        program = self.config.get("program")
        return [{"type": "run", "run_id": run_id, "program": program, "args": args}]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                request = json.loads(self.rfile.read(length) or b"{}")
                found = re.search(r"\b(?:query|mutation)\s+(\w+)", request.get("query", ""))
                operation = found[1] if found else self.path
                with server._lock:
                    data = server.answer(operation, request.get("variables") or {})
                    if data is None:
                        server.unanswered.append(operation)
                content: dict[str, Any] = {"data": data}
                if data is None:
                    content["errors"] = [{"message": f"no answer to {operation}"}]
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def grid(config: dict[str, Any]) -> list[Point]:
    """Return all points of a grid sweep; ranges are there with their lowest value alone."""
    parameters = config["parameters"]
    choices = itertools.product(*map(_choices, parameters.values()))
    return [dict(zip(parameters, choice, strict=True)) for choice in choices]


def _choices(settings: dict[str, Any]) -> list[Any]:
    if "values" in settings:
        return list(settings["values"])
    return [settings["value"] if "value" in settings else settings["min"]]


@dataclass
class OfflineRun:
    """What a run under WANDB_MODE=offline keeps for `wandb sync`.

    Attributes
    ----------
    sweep_id : str
    config : dict
    history : list of dict
        Logged rows, nested keys joined by dots.
    artifacts : list
        Artifact records.
    """

    sweep_id: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[Any] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "OfflineRun":
        """Read the .wandb file in `folder`."""
        run = cls()
        (path,) = folder.glob("*.wandb")
        for content in _log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run.sweep_id = record.run.sweep_id
                run.config |= _items(record.run.config.update)
            elif kind == "config":
                run.config |= _items(record.config.update)
            elif kind == "history":
                run.history.append(_items(record.history.item))
            elif kind == "artifact":
                run.artifacts.append(record.artifact)
        return run

    def values(self, key: str) -> list[Any]:
        """Return everything logged under a key."""
        return [row[key] for row in self.history if key in row]


def _items(items: Any) -> dict[str, Any]:
    return {".".join(x.nested_key) or x.key: json.loads(x.value_json) for x in items}


def _log_records(data: bytes) -> Iterator[bytes]:
    """Split a LevelDB log (after W&B's 7-byte header) into records.

    A record is a chain of fragments, each with CRC, length and type (1 full, 2 first, 3 middle,
    4 last); a fragment never crosses a block, whose last bytes are void when fewer than 7.
    """
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = LOG_BLOCK - position % LOG_BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""
