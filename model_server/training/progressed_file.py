"""Where a training stands, kept beside it: one that was killed goes on behind its last kept epoch.

Weights, moments of the optimiser, its schedule and every source of chance are kept, so that it ends
with the same bundle, interrupted or not.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from simulations.errors import InputError, storing

EVERY_S = 20.0  # between two keepings of a stage
_OF_GROUP = ("lr", "betas", "momentum")  # that a schedule changes
_safe_open: Any = safe_open  # says nothing of its types


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Keeping:
    """Where the stages of one training are kept.

    Parameters
    ----------
    folder : Path or None
        None: nowhere; a training that is killed begins anew.
    key : str
        Of all that goes into the training.
    every_s : float
        Between two keepings; the last epoch of a stage is always kept.
    clock : callable
        Seconds.
    """

    folder: Path | None = None
    key: str = ""
    every_s: float = EVERY_S
    clock: Callable[[], float] = time.monotonic
    _kept_s: dict[str, float] = field(default_factory=dict[str, float])

    def stage(
        self,
        name: str,
        modules: Mapping[str, nn.Module],
        optimiser: torch.optim.Optimizer,
        schedule: Any,
        rngs: Sequence[np.random.Generator],
    ) -> Stage:
        """A part of the training with an optimiser of its own."""
        path = None if self.folder is None else self.folder / f"{name}.safetensors"
        return Stage(
            keeping=self, name=name, path=path, modules=modules, optimiser=optimiser,
            schedule=schedule, rngs=rngs,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stage:
    """Modules that are trained together, with all that their next step depends on."""

    keeping: Keeping
    name: str
    path: Path | None
    modules: Mapping[str, nn.Module]
    optimiser: torch.optim.Optimizer
    schedule: Any  # None: there is none
    rngs: Sequence[np.random.Generator]

    def begun(self) -> int:
        """Put everything where it stood, and return how many epochs are done.

        Raises
        ------
        InputError
            If what is kept is damaged, or is of another training.
        """
        if self.path is None or not self.path.is_file():
            return 0
        try:
            with _safe_open(self.path, framework="torch") as file:
                told = json.loads(file.metadata()["stage"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path}: is no training that can go on ({type(error).__name__}: {error}); "
                "expected what an earlier call left. Remove it to begin anew."
            ) from error
        if told["key"] != self.keeping.key:
            raise InputError(
                f"{self.path.parent}: was begun with another experiment, other options or another "
                "version; expected the same. Name another folder with --work, or remove this one."
            )
        for name, module in self.modules.items():
            start = f"{name}."
            module.load_state_dict(
                {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            )
        self._restore_optimiser(told, tensors)
        for rng, state in zip(self.rngs, told["rngs"], strict=True):
            rng.bit_generator.state = state
        torch.set_rng_state(tensors["-torch"])
        return int(told["epochs"])

    def done(self, epochs: int, of: int) -> None:
        """So many epochs are done, of so many: keep that, unless the last was kept just now.

        Raises
        ------
        StorageError
            If there is no room.
        """
        if self.path is None:
            return
        now = self.keeping.clock()
        before = self.keeping._kept_s.setdefault(self.name, now)  # noqa: SLF001
        if epochs < of and now - before < self.keeping.every_s:
            return
        self.keeping._kept_s[self.name] = now  # noqa: SLF001
        tensors: dict[str, Tensor] = {"-torch": torch.get_rng_state()}
        for name, module in self.modules.items():
            tensors |= {f"{name}.{k}": v.contiguous() for k, v in module.state_dict().items()}
        moments = self.optimiser.state_dict()["state"]
        for place, state in moments.items():
            tensors |= {
                f"-{place}.{k}": torch.as_tensor(v).clone()
                for k, v in state.items()
                if v is not None
            }
        told = {
            "key": self.keeping.key,
            "epochs": epochs,
            "groups": [
                {k: group[k] for k in _OF_GROUP if k in group}
                for group in self.optimiser.param_groups
            ],
            "schedule": None if self.schedule is None else self.schedule.last_epoch,
            "rngs": [rng.bit_generator.state for rng in self.rngs],
        }
        content = save_tensors(tensors, metadata={"stage": json.dumps(told)})
        partial = self.path.with_name(f"{self.path.name}.partial")
        with storing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(content)
                partial.replace(self.path)
            finally:
                partial.unlink(missing_ok=True)

    def _restore_optimiser(self, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            place, _, key = name[1:].partition(".")
            if name.startswith("-") and place.isdigit():
                state.setdefault(int(place), {})[key] = value
        groups = self.optimiser.state_dict()["param_groups"]
        for group, kept in zip(groups, told["groups"], strict=True):
            group |= {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        if self.schedule is not None:
            self.schedule.last_epoch = told["schedule"]
            self.schedule._step_count = told["schedule"] + 1  # noqa: SLF001


def key_of(**parts: Any) -> str:
    """A name for all that goes into a training: of values, and of arrays by their bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(parts.items()):
        digest.update(f"{name}=".encode())
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()
