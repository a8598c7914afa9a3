"""`python -m trainers run | models | methods`: trials on a bare machine, and what there is to choose from."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from trainers.config import Execution, PassKind, Trial
from trainers.errors import TrainerError


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 1 when a trial failed, or 2 for bad usage."""
    parser = argparse.ArgumentParser(prog="python -m trainers", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = _verb(
        verbs,
        "run",
        "train one trial, its upstream trials first",
        "python -m trainers run trial.json --state .sweeps/state",
    )
    run.add_argument("trial", type=Path, help="a trial.json, as it lies in a trial's directory")
    run.add_argument("--state", type=Path, default=Path(".sweeps/state"), help="state root (default .sweeps/state)")
    run.add_argument("--data", type=Path, default=Path(".sweeps/data"), help="data root (default .sweeps/data)")
    run.add_argument("--device", default="cpu", help="torch device (default cpu)")
    run.add_argument(
        "--threads", type=int, default=1, help="CPU threads of a trial that was never claimed before (default 1)"
    )
    run.add_argument(
        "--passes",
        choices=get_args(PassKind),
        default="eager",
        help="how networks are run in updates of such a trial (default eager)",
    )
    models = _verb(
        verbs,
        "models",
        "list networks with their number of parameters",
        "python -m trainers models --classes 100 --json",
    )
    models.add_argument("--classes", type=int, default=100, help="number of classes (default 100)")
    models.add_argument("--json", action="store_true", help="as JSON")
    methods = _verb(verbs, "methods", "list methods with their hyper-parameters", "python -m trainers methods --json")
    methods.add_argument("--json", action="store_true", help="as JSON")
    arguments = parser.parse_args(argv)
    if arguments.verb == "run" and arguments.passes == "cuda_graphs" and not arguments.device.startswith("cuda"):
        parser.error(f"--passes cuda_graphs needs a GPU, got --device {arguments.device}; give --device cuda")
    try:
        if arguments.verb == "run":
            return _run(arguments)
        rows = _models(arguments.classes) if arguments.verb == "models" else _methods()
    except (TrainerError, OSError, ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(json.dumps(rows, indent=1) + "\n" if arguments.json else _text(rows))
    return 0


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, example: str
) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _run(arguments: argparse.Namespace) -> int:
    from trainers.attempts import Busy, State, heal, read_status
    from trainers.run import run_trial
    from trainers.train import require_runnable

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    content = json.loads(arguments.trial.read_bytes())
    trial = Trial.model_validate(content["trial"] if isinstance(content, dict) and "trial" in content else content)
    wanted = {each.digest(): each for each in (*_upstream_first(trial), trial)}
    todo = [each for digest, each in wanted.items() if read_status(arguments.state, digest).state is not State.DONE]
    for each in todo:
        require_runnable(each)
    for each in todo:
        try:
            for _ in run_trial(
                each,
                arguments.state,
                arguments.data,
                device=arguments.device,
                execution=Execution.of_new(arguments.threads, arguments.passes),
            ):
                pass
        except Busy as error:
            sys.stderr.write(f"error: trial {each.digest()[:12]}: {error}\n")
            return 1
        except (TrainerError, OSError) as error:
            sys.stderr.write(f"error: trial {each.digest()[:12]} failed: {error}\n")
            return 1
    heal(arguments.state, trial.digest())
    sys.stdout.write(json.dumps(read_status(arguments.state, trial.digest()).result, indent=1, sort_keys=True) + "\n")
    return 0


def _upstream_first(trial: Trial) -> Iterator[Trial]:
    for upstream in trial.upstreams():
        yield from _upstream_first(upstream)
        yield upstream


def _models(classes: int) -> list[dict[str, object]]:
    from trainers import models

    return [{"name": name, "parameters": models.parameters(name, classes=classes)} for name in models.known()]


def _methods() -> list[dict[str, object]]:
    from trainers import registry
    from trainers.methods import config_type, module, presets

    rows: list[dict[str, object]] = []
    for name in registry.names("methods"):
        schema = config_type(name).model_json_schema()
        bounds = (
            "minimum",
            "exclusiveMinimum",
            "maximum",
            "exclusiveMaximum",
            "enum",
            "type",
            "default",
            "description",
            "anyOf",
        )
        fields = {
            key: {k: value[k] for k in bounds if k in value} for key, value in schema.get("properties", {}).items()
        }
        summary = (module(name).__doc__ or "").strip().splitlines()[0]
        rows.append(
            {
                "name": name,
                "summary": summary,
                "version": module(name).VERSION,
                "hparams": fields,
                "presets": dict(presets(name)),
            }
        )
    return rows


def _text(rows: list[dict[str, object]]) -> str:
    lines = []
    for row in rows:
        lines.append(f"{row['name']:<16}{row.get('parameters', row.get('summary'))}")
        hparams = row.get("hparams", {})
        assert isinstance(hparams, dict)
        for key, field in hparams.items():
            lines.append(f"    {key} = {field.get('default')}: {field.get('description', '')}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
