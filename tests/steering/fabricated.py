"""A realistic run for tests of the API, the page and the plots: germanium after eight chunks."""

from __future__ import annotations

import numpy as np

from steering.run import (
    RunSnapshot,
    RunStore,
    SpectrumView,
    chunk_results,
    history_entries,
    result_document,
)
from steering.run.reach import Reach

NAMES = (
    ("1NN xx", 6.92),
    ("1NN xy", 4.87),
    ("2NN xx", -0.19),
    ("2NN xy", -0.22),
    ("2NN zz", 0.41),
    ("3NN xx", -0.07),
    ("4NN xx", 0.05),
    ("5NN xy", -0.11),
)
TICKS = ((0, "Gamma"), (40, "X"), (50, "U|K"), (80, "Gamma"), (100, "L"), (120, "W"), (140, "X"))

HKL = (
    (((0, 0, 0), (0, 0, 1)), 40),
    (((0, 0, 1), (0.25, 0.25, 1)), 10),
    (((0.75, 0.75, 0), (0, 0, 0)), 30),
    (((0, 0, 0), (0.5, 0.5, 0.5)), 20),
    (((0.5, 0.5, 0.5), (0.5, 0, 1)), 20),
    (((0.5, 0, 1), (0, 0, 1)), 20),
)


def spectrum(seed: int = 3, energy_bins: int = 140) -> SpectrumView:
    bins = 140
    rng = np.random.default_rng(seed)
    x = np.arange(bins) + 0.5
    k = np.concatenate(
        [
            np.linspace(0, 1, 40),
            np.linspace(1, 0.9, 10),
            np.linspace(0.75, 0, 30),
            np.linspace(0, 0.5, 20) * 1.5,
            np.linspace(0.75, 0.9, 20),
            np.linspace(0.9, 1, 20),
        ]
    )
    acoustic = np.sin(np.pi * k / 2)
    branches = np.stack(
        [
            10 * acoustic**0.8,
            10.4 * acoustic**0.8,
            28 * acoustic,
            37 - 8 * acoustic**2,
            37 - 3 * acoustic**2,
            37 - 2.2 * acoustic**2,
        ],
        axis=1,
    )
    edges = np.linspace(0, 70, energy_bins + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    peak = np.exp(-0.5 * ((centres[None, :, None] - branches[:, None, :]) / 0.9) ** 2)
    model = (peak * (8 / (4 + branches[:, None, :]))).sum(axis=2) + 0.03
    exposure = 60 * np.exp(-(((x[:, None] - 70) / 90) ** 2)) * np.ones((1, energy_bins))
    # Kinematics: nothing above 38 meV; holes where a few orientations do not reach.
    exposure[:, centres > 38] = 0
    holes = np.sin(x[:, None] / 9) + np.cos(centres[None, :] / 6 + x[:, None] / 25) > 1.35
    exposure[holes] = 0
    counts = rng.poisson(model * exposure)
    with np.errstate(divide="ignore", invalid="ignore"):
        intensity = np.where(exposure > 0, counts / exposure, np.nan)
        sigma = np.where(exposure > 0, np.sqrt(counts) / exposure, np.nan)
        residual = np.where(
            exposure > 0, (counts - model * exposure) / np.sqrt(model * exposure), np.nan
        )
    wide = 0.1 + 0.008 * branches
    zone = np.concatenate([np.linspace(*ends, n, endpoint=False) for ends, n in HKL])
    return SpectrumView(
        path_position=x,
        segment_breaks=(50,),
        tick_positions=tuple(float(p) for p, _ in TICKS),
        tick_labels=tuple(label for _, label in TICKS),
        energy_edges_meV=edges,
        intensity=intensity,
        sigma=sigma,
        model_intensity=np.where(exposure > 0, model, np.nan),
        residual_sigma=residual,
        branches=branches,
        exposure=exposure,
        fitted=(exposure > 0) & (centres > 2.0),  # the elastic band is not
        hkl=zone,
        counts=counts.astype(float),
        scale=np.array(1.0),
        branches_low=branches - wide,
        branches_high=branches + wide,
    )


def reach(measured: tuple[float, ...], advised: tuple[float, ...]) -> Reach:
    """Every orientation sees another stretch of the path."""
    at, psi = np.arange(140), np.array([*sorted(measured), *advised])
    share = np.clip(0.8 - np.abs((at - 1.3 * psi[:, None] + 70) % 140 - 70) / 60, 0, 1)
    return Reach(
        psi_deg=psi,
        rank=np.array([0] * len(measured) + list(range(1, len(advised) + 1))),
        share=share,
        measured=len(measured),
    )


def snapshot(run_id: str = "ge-demo", **changes) -> RunSnapshot:
    rng = np.random.default_rng(8)
    psis = (0.0, 55.0, 110.0, 20.0, 75.0, 95.0, 36.0, 62.0)
    chunks, history = [], []
    for i, psi in enumerate(psis):
        chunk = f"{178900 + i}"
        chunks.append(
            {
                "chunk": chunk,
                "psi_deg": psi,
                "minutes": 1.0,
                "events": {
                    "read": 21000 + 10 * i,
                    "folded": 6100 + i,
                    "outside_path": 12000,
                    "outside_energy": 2500 + 9 * i,
                    "masked": 300,
                    "filtered": 100,
                },
                "status": "folded",
                "reason": None,
            }
        )
        history.append(
            {
                "chunk": chunk,
                "minutes_used": 1.6 * (i + 1),
                "parameters": [
                    {
                        "name": name,
                        "value": value + 0.06 * abs(value) * rng.normal() / np.sqrt(i + 1),
                        "sigma": (0.06 * abs(value) + 0.01) / np.sqrt(i + 1),
                    }
                    for name, value in NAMES
                ],
                "trusted": i >= 2,
            }
        )
    chunks.insert(
        4,
        {
            "chunk": "178903b",
            "psi_deg": None,
            "minutes": 0.0,
            "events": {},
            "status": "set aside",
            "reason": "psi is NaN; expected degrees. Give --psi.",
        },
    )
    last = history[-1]["parameters"]
    result = {
        "schema_version": 1,
        "run": run_id,
        "parameters": [
            {
                "name": p["name"],
                "unit": "eV/angstrom^2",
                "value": p["value"],
                "sigma": p["sigma"],
                "interval90": [p["value"] - 1.645 * p["sigma"], p["value"] + 1.645 * p["sigma"]],
            }
            for p in last
        ],
        "covariance": np.diag([p["sigma"] ** 2 for p in last]).tolist(),
        "goodness_of_fit": {
            "chi_square": 1826.0,
            "degrees_of_freedom": 1790,
            "reduced_chi_square": 1826 / 1790,
            "p_value": 0.41,
            "alarm_below": 0.0004,
        },
        "derived": [
            {"name": "on-site xx", "unit": "eV/angstrom^2", "value": 28.4, "sigma": 0.3},
        ],
        "trusted": True,
        "reasons": ["chi-square per cell 1.02 (p = 0.41)", "chunks agree (p = 0.63)"],
        "advice": [
            {
                "psi_deg": psi,
                "ei_meV": 40.0,
                "minutes": minutes,
                "gain_per_minute": gain,
                "policy": "information",
            }
            for psi, minutes, gain in (
                (48.0, 4.0, 0.412),
                (84.0, 3.0, 0.377),
                (12.0, 4.0, 0.301),
                (102.0, 2.0, 0.122),
                (30.0, 2.0, 0.064),
            )
        ],
        "policy": "information",
        # As ``absolute_targets``: 5 % of a parameter's size, which is at least its own error.
        "targets": [
            {"name": p["name"], "sigma": 0.05 * max(abs(p["value"]), p["sigma"])} for p in last
        ],
        "stop": {
            "stop": False,
            "reason": "3 of 8 parameters are above their target",
            "minutes_to_target": 11.5,
        },
        "minutes_used": 12.8,
        "coverage_fraction": 0.46,
        "events": {
            "read": 168280,
            "folded": 48828,
            "outside_path": 96100,
            "outside_energy": 20352,
            "masked": 2500,
            "filtered": 500,
        },
        "chunks": chunks,
        "notes": [],
    }
    values = {
        "run_id": run_id,
        "title": "germanium on ARCS, demonstration",
        "status": "running",
        "experiment": {
            "instrument": {"name": "ARCS", "ei_meV": 40.0, "coarsen": 4},
            "sample": {"structure": "germanium", "temperature_K": 5.0},
            "motion": {"limits_deg": [0.0, 120.0]},
            "targets": {"relative_sigma": 0.05, "per_parameter": {}},
        },
        "updated_ns": 1_763_716_248_000_000_000,
        "chunks": chunk_results(chunks),
        "spectrum": spectrum(),
        "result": result_document(result),
        "history": history_entries(history),
        "reach": reach(psis, (48.0, 84.0, 12.0, 102.0, 30.0)),
        "estimate_seconds": 0.8,
        "lag_seconds": 1.4,
    }
    return RunSnapshot(**(values | changes))


def store(*snapshots: RunSnapshot) -> RunStore:
    filled = RunStore()
    for one in snapshots or (snapshot(),):
        filled.publish(one)
    return filled
