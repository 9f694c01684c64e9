"""The verbs by name; the module of a verb is imported when it is the one asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

VERBS = {
    "init": "Write an experiment file from recorded files; what they do not say reads TODO.",
    "inspect": "Say what is inside files and what is wrong with them; 2 if one cannot be read at "
    "all.",
    "doctor": "Check Python, packages, threads, browser, data, disk, port and broker; say what to "
    "do.",
    "plan": "Plan a scan before any file exists: which incident energy, which orientations, how "
    "long.",
    "simulate": "Simulate a rotation scan, with the truth written beside it.",
    "replay": "Replay recorded files chunk by chunk: fold, estimate and advice after each.",
    "fold": "Fold recorded files into I(q,E) along the experiment's path, without estimating.",
    "estimate": "Fit the force constants of an experiment to folded.npz, and judge the fit.",
    "guess": "Read force constants off folded.npz with a frozen network, in milliseconds.",
    "align": "Find mount, lattice, psi offset and drift from elastic peaks, Ei and T0 from "
    "monitors.",
    "phonons": "Compute the phonon dispersion along the standard path and the density of states.",
    "spectrum": "Compute what a spectrometer will see: powder, path, line, plane or vibrations.",
    "prior": "Relax a crystal in universal force fields and make ranges of its force constants.",
    "predict": "Predict dispersion, phonon DOS, S(|Q|,E) or S(E), and the expected background of a "
    "crystal.",
    "database": "Build a database of force constants from files, search it, compute its spectra.",
    "invert-powder": "Fit the force constants of a crystal to a measured powder spectrum S(|Q|,E).",
    "report": "Write what a run measured, what follows and how far it may be trusted, as one page "
    "to keep.",
    "serve": "Serve the status API and the live page until interrupted.",
    "alarms": "List the alarms of a live run, acknowledge one, or test who is told.",
    "act": "Ask something of a live run: withdraw a chunk, pin psi, close it; or list what was "
    "asked.",
    "token": "Make a token for a named person and add its hash to the file of people.",
    "status": "Say what the page says of runs, in the same words; 75 while what feeds one is gone.",
    "consume": "Fold a live stream into closed chunks until interrupted; nothing is lost, nothing "
    "doubled.",
    "record": "Record every message as it comes, until Ctrl-C: bytes, keys, headers, times and "
    "offsets.",
    "backup": "Write a backup of a state folder, whole and checked, while its workers go on.",
    "restore": "Lay out a backup as a new state folder, after every byte of it was checked.",
    "model-server": "Estimate, judge and advise after every commit of the fold workers, until "
    "interrupted.",
    "train": "Train a network to read the force constants of an experiment, and write a frozen "
    "bundle.",
    "latent": "Analyse the latent of a bundle on simulated spectra, and place measured ones among "
    "them.",
    "train-direct": "Train the networks of route direct on a database of phonons, or go on with "
    "it.",
    "train-springs": "Train the network of bond springs, which tells what interferes in maps of "
    "route direct.",
    "demo": "Simulate, write and replay a short germanium scan; then invert measured aluminium.",
}
"""What each does in a sentence, the first of its own help; in the order of `beamsteer --help`."""


class Verbs(TyperGroup):
    """Knows all verbs by name and sentence, and gets the one that is run from its module."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self.commands = {name: TyperCommand(name=name, help=told) for name, told in VERBS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the verb itself in the place of its sentence."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, None if name is None or command is None else verb(name), rest


def verb(name: str) -> Any:
    """Command of a verb, made by its module."""
    alone = typer.Typer(rich_markup_mode="markdown")
    import_module(f"steering.cli.{name.replace('-', '_')}").register(alone)
    return typer.main.get_group(alone).commands[name]
