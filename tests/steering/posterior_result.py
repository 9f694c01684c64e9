"""Results of runs with a posterior of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from simulations.dynamics import ForceConstantModel
from steering.experiment import force_constants_of, load_experiment
from steering.run import RunResult, result_document
from tests.steering.fabricated import snapshot

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example_model(name: str = "ge-arcs.yaml") -> ForceConstantModel:
    """All elements of an example free, around its reference."""
    path = EXAMPLES / name
    return force_constants_of(load_experiment(path), path.parent)


def result_of(
    model: ForceConstantModel, relative: float, *, trusted: bool = True, **changes: Any
) -> RunResult:
    """A result with the model's free parameters and correlated errors of that relative size."""
    values = model.values
    sigma = relative * np.maximum(np.abs(values), 0.05 * np.abs(values).max())
    correlation = 0.6 * np.eye(len(values)) + 0.4
    covariance = correlation * sigma[:, None] * sigma
    made = snapshot().result
    assert made is not None
    document = made.document() | {
        "parameters": [
            {
                "name": name,
                "unit": "eV/angstrom^2",
                "value": float(v),
                "sigma": float(s),
                "interval90": [float(v - 1.645 * s), float(v + 1.645 * s)],
            }
            for name, v, s in zip(model.names, values, sigma, strict=True)
        ],
        "covariance": covariance.tolist(),
        "trusted": trusted,
        "reasons": [] if trusted else ["chi-square per cell 3.1"],
    }
    del document["targets"]
    return result_document(document | changes)
