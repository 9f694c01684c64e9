"""What each estimator reads off single orientations; resumable.

    python -m tests.model_server.single_orientations FOLDER --network published=build/ge-fc-vae \
        --network flow=build/ge-flow --every 5

Of 120 orientations of the reference experiment (every degree; ``--every`` takes fewer), one minute
each: constants drawn from the full prior, a set-up that is off by its prior, background of 0.3 to 2
times the phonons, counts from exact rates of pixels merged eight to one. Networks read the same
folded sums that the refinement fits from its usual starts, with no network's help. FOLDER keeps a
line of JSON per orientation, with errors of the dominant four constants (those asked for first) in
prior standard deviations; readers whose line is there are not asked again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from model_server.networks import Bundle
from model_server.posterior.observation import pool
from tests.steering.posterior_coverage import TARGETED, Study

ORIENTATIONS_DEG = np.arange(0.0, 120.0)
DOMINANT = 4
MERGED = 8  # pixels along a tube as one: what the figures in docs/learned.md are of
REFINED = "refined"


def table(file: Path) -> str:
    """Median over orientations of each reader's error, and the largest reader's over it."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    readers = sorted({row["reader"] for row in rows})
    shared = set.intersection(
        *({row["psi_deg"] for row in rows if row["reader"] == reader} for reader in readers)
    )
    lines = [f"{len(shared)} orientations that every reader has read"]
    found = {}
    for reader in readers:
        errors = [
            np.sqrt(np.mean(np.square(row["error"])))
            for row in rows
            if row["reader"] == reader and row["psi_deg"] in shared
        ]
        found[reader] = float(np.median(errors))
    worst = max(found.values())
    for reader, median in sorted(found.items(), key=lambda one: one[1]):
        lines.append(
            f"{reader:20s} median error {median:.3f} prior sigma, {worst / median:.1f} times less "
            "than the largest"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--network", action="append", default=[], help="NAME=BUNDLE, may be given again"
    )
    parser.add_argument("--every", type=int, default=1, help="orientation of so many")
    parser.add_argument("--no-refinement", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / "orientations.jsonl"
    done: set[tuple[str, float]] = set()
    if file.exists():
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        done = {(row["reader"], row["psi_deg"]) for row in lines}
    asked = argparse.Namespace(
        free=21, all=21, off=1.0, chunks=1, minutes=(1.0, 1.0), model=None, set_up="marginal",
        merged=MERGED, led=False,
    )  # fmt: skip
    study = Study(asked, ORIENTATIONS_DEG)
    prior = study.fitted.prior
    names = list(study.fitted.model.names)
    dominant = names[:TARGETED][:DOMINANT]
    bundles = {}
    for one in arguments.network:
        name, _, where = one.partition("=")
        bundles[name] = Bundle.load(where)
    for k in range(0, len(ORIENTATIONS_DEG), arguments.every):
        psi = float(ORIENTATIONS_DEG[k])
        readers = [*bundles, *([] if arguments.no_refinement else [REFINED])]
        readers = [name for name in readers if (name, psi) not in done]
        if not readers:
            continue
        observations, true, _, rng = study.drawn(10_000 + k, k)
        sums = pool(observations).sums
        for reader in readers:
            begun = time.process_time()
            row = {"reader": reader, "psi_deg": psi, "counts": float(sums.signal.sum())}
            if reader == REFINED:
                found = study.fit(observations, rng)
                values = dict(zip(found.names, found.values.tolist(), strict=True))
                sigma = dict(zip(found.names, found.sigma.tolist(), strict=True))
                row["stated"] = [
                    sigma[name] / float(prior.sigma[names.index(name)]) for name in dominant
                ]
            else:
                bundle = bundles[reader]
                read, _ = bundle.estimate(sums.intensity, sums.sigma, sums.exposure)
                values = dict(zip(bundle.parameter_names, read.tolist(), strict=True))
            row["error"] = [
                float((values[name] - true[at]) / prior.sigma[at])
                for name, at in ((name, names.index(name)) for name in dominant)
            ]
            row["seconds"] = time.process_time() - begun
            with file.open("a") as sink:
                sink.write(json.dumps(row) + "\n")
        print(table(file), flush=True)  # noqa: T201
    print(table(file))  # noqa: T201


if __name__ == "__main__":
    main()
