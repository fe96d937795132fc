"""A training's state on disk: what it takes to go on at a step as if nothing had happened, or to fork there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from repsim.training.weight_files import write_whole

_METADATA = "repsim"  # one key only: the order of several would change the file's bytes from run to run


@dataclass
class TrainingState:
    """Where a training stands. Everything random of a step follows from its number, so no random state is kept."""

    step: int = 0  # steps done
    curves: dict[str, list[Any]] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)  # "weight/NAME", and "SLOT/NAME" of the optimizer
    identity: dict[str, Any] = field(default_factory=dict)  # of what is trained on what

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Fill the weights that train, and the optimizer's averages of them, as `capture` found them.

        >>> read_state("half.safetensors").restore(model, optimizer)

        Raises: ValueError for a model with other weights.
        """
        names = trained_names(model)
        wanted = {name: tuple(parameter.shape) for name, parameter in names.items()}
        found = {
            name.partition("/")[2]: tuple(tensor.shape)
            for name, tensor in self.tensors.items()
            if name.startswith("weight/")
        }
        if wanted != found:
            name = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))[0]
            raise ValueError(f"[train] expected a state with {name} {wanted.get(name)}, got {found.get(name)}")
        with torch.no_grad():
            for name, parameter in names.items():
                parameter.copy_(self.tensors[f"weight/{name}"])
        for name, parameter in names.items():
            slots = {key.partition("/")[0]: key for key in self.tensors if key.partition("/")[2] == name}
            optimizer.state[parameter] = {
                slot: self.tensors[key].clone() if slot == "step" else self.tensors[key].to(parameter.device).clone()
                for slot, key in slots.items()
                if slot != "weight"
            }


def trained_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that train, by name, each once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def capture(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    curves: dict[str, list[Any]],
    identity: dict[str, Any],
) -> TrainingState:
    """The state of a training after a step.

    >>> write_state(capture(model, optimizer, 500, curves, identity), "half.safetensors")
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in trained_names(model).items():
        tensors[f"weight/{name}"] = parameter.detach().cpu().contiguous()
        for slot, value in optimizer.state[parameter].items():
            tensors[f"{slot}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return TrainingState(step, curves, tensors, identity)


def write_state(state: TrainingState, path: str | Path) -> None:
    """Write the state as safetensors; whole under its name, or not at all.

    >>> write_state(state, "half.safetensors")
    """
    from safetensors.torch import save as to_bytes

    said = json.dumps({"step": state.step, "curves": state.curves, "identity": state.identity})
    write_whole(Path(path), to_bytes(state.tensors, metadata={_METADATA: said}))


def read_state(path: str | Path) -> TrainingState:
    """Read what `write_state` wrote.

    >>> read_state("half.safetensors").step
    500

    Raises: FileNotFoundError, and ValueError for a file that holds no state of a training.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"[train] expected a state of a training, got no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {})[_METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return TrainingState(said["step"], said["curves"], tensors, said["identity"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"[train] expected a state of a training, got {path}: {error}") from error
