"""Examples of the API's answers and requests, for its schema; a test holds them to the models."""

from __future__ import annotations

from typing import Any

RUN = {
    "run_id": "ge-demo",
    "title": "germanium on ARCS",
    "status": "running",
    "error": None,
    "updated_ns": 1795530120000000000,
    "version": 17,
    "trusted": True,
    "minutes_used": 12.8,
}
EVENTS = {
    "read": 18000,
    "folded": 5120,
    "outside_path": 12400,
    "outside_energy": 300,
    "masked": 180,
    "filtered": 0,
}
CHUNK = {
    "chunk": "178901",
    "psi_deg": 24.0,
    "minutes": 1.0,
    "events": EVENTS,
    "status": "folded",
    "reason": None,
}
PARAMETER = {
    "name": "1NN xx",
    "unit": "eV/angstrom^2",
    "value": 7.014,
    "sigma": 0.15,
    "interval90": [6.767, 7.262],
}
ESTIMATED = {
    "chunk": "178901",
    "minutes_used": 1.6,
    "parameters": [{"name": "1NN xx", "value": 6.198, "sigma": 0.425}],
    "trusted": False,
}
GO_ON = {
    "word": "Go on: 12 min",
    "tone": "plain",
    "evidence": ["3 of 8 parameters are above their target"],
    "more": [],
    "made_ns": 1795530120000000000,
    "age_s": 4.0,
    "code": "go on",
}
TURN = {
    "word": "psi = 48°",
    "tone": "plain",
    "evidence": ["for 4 min at Ei 40 meV"],
    "more": [],
    "made_ns": 1795530120000000000,
    "age_s": 4.0,
    "code": "turn",
}
ACTION = {
    "number": 3,
    "at_ns": 1795530130000000000,
    "by": "Ada Lovelace",
    "role": "operator",
    "way": "api",
    "what": "withdraw chunk 178903",
    "asked": {"what": "withdraw", "chunk": "178903"},
    "why": "the shutter was closed",
    "before": None,
    "after": None,
    "state": "applied",
    "applied_ns": 1795530132000000000,
    "waits_for": [],
}
ALARM = {
    "state": "state",
    "id": "stream-lost-0",
    "kind": "stream lost",
    "subject": "consume",
    "text": "The stream of consume is lost for 12 s. Look whether the broker answers.",
    "since_ns": 1795530100000000000,
    "over_ns": None,
    "told": ["night"],
    "acknowledged": None,
}
MODEL = {
    "name": "germanium",
    "title": "Model bundle for germanium on ARCS",
    "architecture": "variational-encoder",
    "experiment": "5ae488e3e18715a2",
    "parameters": ["1NN xx", "1NN xy"],
    "shipped": True,
    "loaded": True,
    "fault": None,
}

READING = {
    "model": "germanium",
    "architecture": "variational-encoder",
    "experiment": MODEL["experiment"],
    "estimates": [
        {
            "name": "psi 24",
            "parameters": [
                {
                    "name": "1NN xx",
                    "unit": "eV/angstrom^2",
                    "value": -2.31,
                    "typical_error": 0.17,
                    "spread": 0.09,
                    "low": None,
                    "high": None,
                    "prior_mean": -2.26,
                    "prior_sigma": 0.99,
                }
            ],
            "counts": 18400.0,
            "known": 0.62,
            "latent_distance": 0.97,
            "latent_share": 0.55,
            "inside": True,
            "checked": ["path", "energy axis"],
            "latent_place": [0.42, -1.3],
        }
    ],
    "notes": [],
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "GET /v1/runs": {"answer": {"runs": [RUN | {"chunks": 9}], "total": 1, "next": None}},
    "GET /v1/runs/{run_id}": {
        "answer": RUN
        | {
            "experiment": {"title": "germanium on ARCS"},
            "chunks": [CHUNK],
            "result": None,
            "history": [ESTIMATED],
            "has_spectrum": True,
            "estimate_seconds": 0.8,
            "lag_seconds": 1.4,
        }
    },
    "GET /v1/runs/{run_id}/verdict": {
        "answer": {
            "trust": {
                "word": "✓ Trusted",
                "tone": "good",
                "evidence": ["chi-square 1.02 per degree of freedom, p = 0.41"],
                "more": [],
                "made_ns": 1795530120000000000,
                "age_s": 4.0,
                "code": "trusted",
            },
            "stop": GO_ON,
            "advice": TURN,
            "coverage": {
                "word": "46 % covered",
                "tone": "plain",
                "evidence": ["share of path cells with exposure (D > 0)"],
                "more": [],
                "made_ns": 1795530120000000000,
                "age_s": 4.0,
                "code": "covered",
            },
            "run_id": "ge-demo",
            "status": "running",
            "version": 17,
            "now_ns": 1795530124000000000,
            "as_of_ns": 1795530120000000000,
            "stale": [],
            "warnings": [],
        }
    },
    "GET /v1/runs/{run_id}/spectrum": {
        "answer": {
            "version": 17,
            "path_position": [0.05, 0.15],
            "segment_breaks": [],
            "tick_positions": [0.0, 0.2],
            "tick_labels": ["Gamma", "X"],
            "energy_edges_meV": [0.0, 0.5, 1.0],
            "intensity": [[0.0021, None], [0.0019, 0.0004]],
            "sigma": [[0.0003, None], [0.0003, 0.0001]],
            "model_intensity": [[0.002, None], [0.002, 0.0005]],
            "residual_sigma": [[0.3, None], [-0.3, -1.0]],
            "branches": [[2.1, 2.1, 3.4], [4.2, 4.2, 6.8]],
            "fitted": [[True, False], [True, True]],
            "unit": "barn/meV/sr per primitive cell",
        }
    },
    "GET /v1/runs/{run_id}/estimate": {
        "answer": {
            "parameters": [PARAMETER],
            "derived": [
                {"name": "on-site xx", "unit": "eV/angstrom^2", "value": 28.4, "sigma": 0.3}
            ],
            "covariance": [[0.0226]],
            "trusted": True,
            "reasons": ["chi-square per cell 1.02 (p = 0.41)"],
            "minutes_used": 12.8,
        }
    },
    "GET /v1/runs/{run_id}/history": {
        "answer": {
            "history": [ESTIMATED],
            "total": 8,
            "next": "/v1/runs/ge-demo/history?limit=1&offset=1",
        }
    },
    "GET /v1/runs/{run_id}/advice": {
        "answer": {
            "advice": [
                {
                    "psi_deg": 48.0,
                    "ei_meV": 40.0,
                    "minutes": 4.0,
                    "gain_per_minute": 0.412,
                    "policy": "information",
                }
            ],
            "stop": {
                "stop": False,
                "reason": "3 of 8 parameters are above their target",
                "minutes_to_target": 11.5,
            },
            "trusted": True,
            "next": TURN,
            "measure_on": GO_ON,
        }
    },
    "GET /v1/runs/{run_id}/actions": {
        "answer": {
            "run_id": "ge-demo",
            "live": True,
            "version": 3,
            "orders": {
                "number": 3,
                "withdrawn": {"178903": "the shutter was closed (Ada Lovelace)"},
                "relative_sigma": None,
                "per_parameter": None,
                "budget_minutes": None,
                "pinned": [],
                "vetoed": [],
                "decisions": [],
                "closed": None,
            },
            "actions": [ACTION],
            "next": None,
        }
    },
    "POST /v1/runs/{run_id}/actions": {
        "asked": {
            "version": 2,
            "asked": {"what": "withdraw", "chunk": "178903"},
            "why": "the shutter was closed",
        },
        "answer": ACTION | {"state": "asked for", "applied_ns": None, "waits_for": ["fold worker"]},
    },
    "GET /v1/me": {
        "answer": {
            "name": "Ada Lovelace",
            "role": "operator",
            "named": True,
            "may": ["withdraw", "restore"],
            "login": True,
        }
    },
    "GET /v1/workers": {
        "answer": {
            "workers": [
                {
                    "service": "consume",
                    "partitions": [0],
                    "state": "ready",
                    "reasons": [],
                    "heard_ns": 1795530123000000000,
                    "silent_s": 1.2,
                    "skew_s": None,
                    "connected": True,
                    "lost_s": None,
                    "quiet_s": 0.4,
                    "estimating_s": None,
                    "runs": {"ge-demo": {"folded": 9, "estimated": None}},
                }
            ]
        }
    },
    "GET /v1/alarms": {"answer": {"alarms": [ALARM]}},
    "POST /v1/alarms/{alarm}/acknowledge": {
        "asked": {"note": "the broker is restarted"},
        "answer": ALARM
        | {
            "acknowledged": {
                "id": "stream-lost-0",
                "by": "Ada Lovelace",
                "at_ns": 1795530140000000000,
                "note": "the broker is restarted",
                "level": 1,
            }
        },
    },
    "POST /v1/predict": {
        "asked": {
            "structure": "germanium",
            "instrument": "ARCS",
            "ei_meV": 40.0,
            "temperature_K": 300.0,
            "quantity": "dos",
        },
        "answer": {
            "structure": {"formula": "Ge2"},
            "route": "force_constants",
            "approximations": [],
            "dos": {"energy_meV": [0.25, 0.75], "dos_per_meV": [0.0001, 0.0009]},
        },
    },
    "GET /v1/predict/options": {
        "answer": {
            "presets": [
                {
                    "name": "ARCS",
                    "kind": "direct",
                    "two_theta_deg": [3.1, 139.5],
                    "ei_meV": [20.0, 40.0],
                    "elastic_fwhm_meV": [0.9, 1.7],
                }
            ],
            "routes": ["auto", "direct", "force_field"],
            "quantities": ["all", "dos", "powder"],
            "formats": ["json", "npz", "csv", "png"],
            "builtin_structures": ["germanium"],
            "can": ["aluminium", "vanadium"],
            "time_limit_s": 600.0,
            "generic_fwhm_of_ei": 0.03,
            "database": {"sources": ["phonondb-2018.h5"]},
            "predicts": True,
        }
    },
    "GET /v1/predict/search": {
        "answer": {
            "entries": [
                {
                    "id": "mp-149",
                    "formula": "Si",
                    "space_group": "Fd-3m (227)",
                    "atoms": 2,
                    "words": "Si, Fd-3m (227), 2 atoms",
                }
            ],
            "more": 3,
        }
    },
    "GET /v1/jobs/{job_id}": {
        "answer": {
            "id": "5f2c7a7be0f84d0c9f5c9d0e1a2b3c4d",
            "state": "running",
            "stage": "density of states",
            "fraction": 0.4,
            "cached": False,
            "created_ns": 1795530120000000000,
            "ended_ns": None,
            "fault": None,
            "events": "/v1/jobs/5f2c7a7be0f84d0c9f5c9d0e1a2b3c4d/events",
            "result": None,
        }
    },
    "GET /v1/runs/{run_id}/downloads": {
        "answer": {
            "downloads": [
                {"name": "map.csv", "about": "the folded map as a table", "why_not": None}
            ]
        }
    },
    "GET /v1/runs/{run_id}/open-dwell": {
        "answer": {
            "job": "5f0c",
            "chunk": "178904",
            "psi_deg": 48.0,
            "start_ns": 1795530000000000000,
            "newest_ns": 1795530095000000000,
            "looked_ns": 1795530095400000000,
            "read": 182_340,
            "folded": 12_871,
            "waiting": 0,
            "rate_per_s": 1920.5,
            "charge_coulomb": 0.0953,
            "beam_current_microampere": 1003.0,
            "temperature_K": 5.02,
            "note": None,
            "counts": [[0, 2, 1], [1, 0, 3]],
        }
    },
    "GET /v1/runs/{run_id}/reach": {
        "answer": {
            "version": 17,
            "measured": 9,
            "orientations": [
                {"psi_deg": 24.0, "rank": 0, "covered": 0.31, "share": [0.0, 0.42, 0.5]}
            ],
        }
    },
    "POST /v1/estimate": {
        "asked": {
            "model": "germanium",
            "spectra": [
                {
                    "name": "psi 24",
                    "signal": [[12.0, 7.0], [None, 31.0]],
                    "exposure": [[0.8, 0.9], [None, 1.1]],
                    "counts": [[12.0, 7.0], [None, 31.0]],
                    "path_hkl_rlu": [[0.0, 0.0, 0.25], [0.0, 0.0, 0.75]],
                    "energy_edges_meV": [4.0, 20.0, 36.0],
                }
            ],
        },
        "answer": READING,
    },
    "GET /v1/models": {"answer": {"models": [MODEL]}},
    "GET /v1/models/{name}/card": {
        "answer": {
            "format": 1,
            "title": "Model bundle for germanium on ARCS",
            "purpose": "Reads force constants from a folded spectrum in milliseconds.",
            "architecture": "variational-encoder",
        }
    },
    "GET /v1/models/{name}/reading": {"answer": READING},
    "GET /v1/models/{name}/latent": {
        "answer": {
            "title": "Model bundle for germanium on ARCS",
            "architecture": "variational-encoder",
            "experiment": MODEL["experiment"],
            "parameter_names": ["1NN xx"],
            "unit": "eV/angstrom^2",
            "spectra": 2,
            "activity": {"variance": [1.2, 0.8], "noise": [0.1, 0.1], "active": [True, True]},
            "sensitivity": [[4.1], [0.6]],
            "correlation": [[0.72], [-0.15]],
            "map": {
                "shares": [0.12, 0.11],
                "simulated": [[0.4, -1.2], [-0.8, 0.3]],
                "parameters": [[-2.31], [-1.9]],
            },
            "psi": {
                "psi_deg": [0.0, 60.0],
                "minutes": [1.0],
                "error_over_prior": [[[0.3], [0.25]]],
                "all_orientations": [[0.12]],
            },
            "distance": {
                "shares of simulated spectra that are nearer": [0.0, 0.5, 1.0],
                "levels": [{"counts": 1000.0, "spectra": 2, "distance": [0.5, 1.0, 2.0]}],
            },
        }
    },
    "GET /health": {"answer": {"status": "ok"}},
    "GET /ready": {"answer": {"status": "ready", "runs": 1, "reasons": []}},
}
"""By method and path: what is ``asked``, and the ``answer``."""
