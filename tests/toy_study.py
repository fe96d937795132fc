"""A study of arithmetic: the tests of the sweep and of the command run it where training would take minutes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repsim.experiments.sweep import Cell
from repsim.records import RunDirectory

NAME = "toy"
SUMMARY = "Does adding work?"


@dataclass(frozen=True)
class Config:
    alpha: tuple[float, ...] = field(default=(0.0, 1.0), metadata={"help": "overlaps, 0 to 1"})
    seeds: int = field(default=2, metadata={"help": "number of seeds; 100% of them are used"})
    model: str = field(default="sum", metadata={"help": "name of the model", "choices": ("sum", "product")})
    learning_rate: float = field(default=0.1, metadata={"help": "step"})
    pretrained: bool = field(default=False, metadata={"help": "begin with weights"})
    pause: float = field(default=0.0, metadata={"help": "seconds that each cell takes"})
    trouble: str = field(default="", metadata={"help": "what happens to the model of seed 0"})

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"[toy.Config] expected seeds of at least 1, got {self.seeds}")


PRESETS = {"smoke": Config(seeds=1), "quick": Config(seeds=2), "paper": Config(seeds=100)}


def cells(config: Config) -> list[Cell]:
    made = []
    for seed in range(config.seeds):
        shared = {"seed": seed, "pause": config.pause}
        trouble = config.trouble if seed == 0 else ""
        models = [Cell(NAME, "model", {**shared, "role": role, "trouble": trouble if role == "first" else ""})
                  for role in ("first", "second")]  # fmt: skip
        keys = tuple(model.key for model in models)
        made += models
        made += [
            Cell(NAME, "pair", {**shared, "alpha": alpha, "first": keys[0], "second": keys[1]}, needs=keys)
            for alpha in config.alpha
        ]
    return made


def estimate(cell: Cell) -> float:
    return 2.0 if cell.kind == "model" else 1.0


def run_cell(cell: Cell, run: RunDirectory) -> Mapping[str, Any]:
    with open(run.path / "artifacts" / "begun.txt", "a") as file:
        file.write(cell.key + "\n")
    time.sleep(cell.params["pause"])
    trouble = cell.params.get("trouble", "")
    if trouble == "error" and not (run.path / "artifacts" / "repaired").exists():
        raise ArithmeticError("the sum does not add up")
    if trouble == "kill":
        print("about to be killed")
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble == "exit":
        sys.exit(3)
    if trouble == "full":
        raise OSError(28, "No space left on device", "weights")
    if cell.kind == "model":
        return {"sum": cell.params["seed"] + len(cell.params["role"]), "worker": os.getpid()}
    first, second = (run.read(cell.params[role])["result"]["sum"] for role in ("first", "second"))
    value = (first + second) * cell.params["alpha"]
    return {
        "similarity": {"cka": {"values": [[0.0, value]], "z": [[1.0, 2.0]], "p": [[0.5, 0.25]], "last": value,
                               "last_null": 0.0}},
        "accuracy_first": [0.5, 1.0],
        "transfer": {"first_to_second": [{"epsilon": 8 / 255, "joint_n": 10, "joint_success": 4}]},
        "transfer_auc": 0.5 * value,
    }  # fmt: skip


def effects(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    values = [record["result"]["similarity"]["cka"]["last"] for record in records if record["kind"] == "pair"]
    if not values:
        raise ValueError("[toy.effects] expected at least one pair, got none")
    return [{"study": NAME, "outcome": "cka", "factor": "alpha", "estimate": sum(values), "low": 0.0, "high": 1.0,
             "p": 0.04, "n_seeds": len(values)}]  # fmt: skip
