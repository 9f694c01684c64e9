"""``beamsteer database``: build a database of force constants, search it, compute spectra."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steering.cli import _terminal as terminal
from steering.cli._option_text import Imaginary, Treatment, axis, within

if TYPE_CHECKING:
    from steering.database import Card, Database, Match

Store = Annotated[Path, typer.Argument(help="Folder that `beamsteer database build` wrote.")]
Workers = Annotated[
    int,
    typer.Option(min=1, max=256, help="Processes (Dask); the result is the same at any number."),
]
SHOWN = 40


def register(app: typer.Typer) -> None:
    """Add the verb and what follows it."""
    group = typer.Typer(
        help="Build a database of force constants from files, search it, compute its spectra.\n\n"
        "A store is a folder: blocks of entries in HDF5 and an index in SQLite. With --database "
        "STORE, `predict`, `phonons` and `spectrum` take its ids and find entries by structure.",
        epilog="Example: beamsteer database build phonondb-2018.h5 -o build/phonondb (each part "
        "has its own --help; all print --json)",
        no_args_is_help=True,
        rich_markup_mode="markdown",
    )
    for verb, example in (
        (build, "phonondb-2018.h5 my-phonons/ -o build/phonondb --workers 2"),
        (search, "build/phonondb --formula TiO2 --space-group 136"),
        (show, "build/phonondb mp-149"),
        (
            spectra,
            "build/phonondb --instrument SEQUOIA --ei-meV 160 --energy-meV 0:150:0.5 "
            "--q-inverse-A 0:15:0.05 -o build/sequoia --workers 2",
        ),
    ):
        group.command(epilog=f"Example: beamsteer database {verb.__name__} {example}")(verb)
    app.add_typer(group, name="database")


def build(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Phonon databases in one HDF5 file, and folders of phonopy files."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder of the store.")
    ],
    workers: Workers = 1,
    json: terminal.Json = False,
) -> None:
    """Build an indexed store, or go on with one, or add sources to it.

    Kill it at any time and run it again: it goes on behind the last whole block. Bad entries are
    set aside with reasons.
    """
    from steering.database import build_store, open_database

    with terminal.progress("database", quiet=json) as progress:
        built = build_store(sources, output, workers=workers, progress=progress)
    database = open_database(output)
    aside = database.aside()
    if json:
        terminal.print_json(
            {
                "store": str(built.store),
                "entries": built.entries,
                "aside": [{"id": a.id, "source": a.source, "reason": a.reason} for a in aside],
                "blocks_made": built.blocks_made,
                "blocks_kept": built.blocks_kept,
            }
        )
        return
    _print_aside([(f"{a.id} of {a.source}", a.reason) for a in aside])
    unstable = built.entries - len(database.search(stable=True))
    terminal.out.print(
        f"{built.entries:,} entries in {built.store}, {len(aside):,} set aside; {unstable:,} have "
        "imaginary modes at their supercell's wave vectors: they are kept, and a spectrum leaves "
        "out small pockets and refuses more"
    )


def search(
    store: Store,
    formula: Annotated[str | None, typer.Option(help="Formula; TiO2 finds Ti4O8 as well.")] = None,
    elements: Annotated[
        str | None, typer.Option(help="Elements that are all in it, e.g. Ba,Ti,O.")
    ] = None,
    only: Annotated[bool, typer.Option("--only", help="No other elements.")] = False,
    space_group: Annotated[
        int | None, typer.Option(help="Number of the space group, 1 to 230.")
    ] = None,
    entry_id: Annotated[str | None, typer.Option("--id", help="Id of the entry.")] = None,
    structure: Annotated[
        str | None,
        typer.Option(
            help="POSCAR, CIF or phonopy.yaml, or a builtin name: entries that are this crystal, "
            "in any cell, with how far it is off."
        ),
    ] = None,
    stable: Annotated[
        bool, typer.Option("--stable", help="Without imaginary modes at their own wave vectors.")
    ] = False,
    json: terminal.Json = False,
) -> None:
    """Search by formula, elements, space group, id or a structure that matches."""
    from steering.database import open_database

    database = open_database(store)
    found = database.search(
        formula=formula,
        elements=tuple(e for e in (elements or "").split(",") if e.strip()),
        only=only,
        space_group=space_group,
        stable=stable,
    )
    cards = [one.card for one in found if entry_id is None or one.card.id == entry_id]
    matched: dict[str, Match] | None = None
    if structure is not None:
        matched = _matched(database, structure)
        known = {card.id: card for card in cards}
        cards = [known[name] for name in matched if name in known]
    if json:
        terminal.print_json([_card(card, matched) for card in cards])
        return
    _print_cards(cards, matched)


def show(
    store: Store,
    entry_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the entry.")],
    json: terminal.Json = False,
) -> None:
    """Show an entry: what it is, where it comes from, and how to compute from it."""
    from steering.database import open_database

    database = open_database(store)
    card, entry = database.card(entry_id), database.entry(entry_id)
    told = {
        **_card(card, None),
        "source": database.source_words(card),
        "notes": list(entry.notes),
        "lattice": entry.lattice,
        "positions": entry.positions,
        "symbols": list(entry.symbols),
        "supercell_matrix": entry.supercell_matrix,
        "displacements": None if entry.moved is None else len(entry.moved),
    }
    if json:
        terminal.print_json(told)
        return
    given = "force constants" if entry.moved is None else f"{len(entry.moved)} displacements"
    lengths = (entry.lattice**2).sum(axis=1) ** 0.5
    terminal.table(
        card.words,
        ["", ""],
        [
            ["source", str(told["source"])],
            ["cell", f"{len(entry.symbols)} atoms, {', '.join(f'{x:.4g}' for x in lengths)}"],
            ["primitive cell", f"{card.atoms} atoms, {card.volume_A3:.4g} cubic angstrom each"],
            ["supercell", f"{card.supercell_atoms} atoms, {given}"],
            ["Born charges", "yes" if card.polar else "no"],
            ["at the supercell's q", f"{card.lowest_meV:.4g} to {card.highest_meV:.4g} meV"],
        ],
    )
    for note in entry.notes:
        terminal.out.print(f"  - {note}", markup=False)
    terminal.out.print(
        f"Compute from it: beamsteer phonons {entry_id} --database {store} (predict and spectrum "
        "likewise)",
        markup=False,
    )


def spectra(
    store: Store,
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder of the spectra.")
    ],
    energy_meV: Annotated[  # noqa: N803
        str, typer.Option("--energy-meV", help="Energy transfer as min:max:step.")
    ],
    instrument: Annotated[
        str,
        typer.Option(
            help="A known instrument, VISION, TOSCA, or generic (with --fwhm-meV; no kinematic "
            "limits without --ei-meV)."
        ),
    ] = "ARCS",
    ei_meV: Annotated[  # noqa: N803
        float | None, typer.Option("--ei-meV", "--ei", help="Incident energy.")
    ] = None,
    q_axis: Annotated[
        str | None,
        typer.Option("--q-inverse-A", help="|Q| as min:max:step; not of VISION and TOSCA."),
    ] = None,
    temperature_K: Annotated[  # noqa: N803
        float, typer.Option("--temperature-K", "--temperature", help="Of the samples.")
    ] = 10.0,
    fwhm_meV: Annotated[  # noqa: N803
        float | None,
        typer.Option("--fwhm-meV", help="One energy resolution, in place of the instrument's."),
    ] = None,
    error: Annotated[float, typer.Option(help="Wanted relative error of each spectrum.")] = 0.03,
    imaginary: Imaginary = Treatment.LEFT_OUT,
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="So many entries at random, to see what the whole will take."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random entries.")] = 0,
    workers: Workers = 1,
    json: terminal.Json = False,
) -> None:
    """Compute the spectra of all entries for an instrument, on one pair of axes.

    Kill it at any time and run it again: it goes on behind the last whole block. Entries with more
    imaginary modes than a spectrum may leave out are set aside with reasons.
    """
    energies, momenta = axis(energy_meV, "--energy-meV"), axis(q_axis, "--q-inverse-A")
    within(temperature_K, "--temperature-K", 0, 5000)
    within(error, "--error", 1e-3, 0.5)

    from steering.database import open_database
    from steering.predict import SpectraSetting, write_spectra

    setting = SpectraSetting(
        instrument=instrument,
        energy_edges_meV=() if energies is None else tuple(float(x) for x in energies),
        momentum_edges=() if momenta is None else tuple(float(x) for x in momenta),
        ei_meV=ei_meV,
        fwhm_meV=fwhm_meV,
        temperature_K=temperature_K,
        error=error,
        imaginary=imaginary.value,
    )
    database = open_database(store)
    every = [one.card.id for one in database.search()]
    ids = every if sample is None else _drawn(every, sample, seed)
    begun = _processor_s()
    with terminal.progress("spectra", quiet=json) as progress:
        written = write_spectra(
            database, setting, output, ids=ids, workers=workers, progress=progress
        )
    hours = (_processor_s() - begun) / 3600
    made = len(ids) * written.blocks_made / max(1, written.blocks_made + written.blocks_kept)
    whole = hours / made * len(every) if made else None
    if json:
        terminal.print_json(
            {
                "file": str(written.file),
                "spectra": written.spectra,
                "aside": [{"id": a, "reason": reason} for a, reason in written.aside],
                "core_hours": hours,
                "core_hours_of_the_whole_database": whole,
                "words": setting.words,
            }
        )
        return
    _print_aside(written.aside)
    terminal.out.print(
        f"{written.spectra:,} spectra in {written.file}, {len(written.aside):,} entries set aside; "
        f"{setting.words}",
        markup=False,
    )
    if whole is not None:
        terminal.out.print(
            f"{hours:.3g} core-hours now; at that pace the whole database takes {whole:.3g}"
        )


def _drawn(every: list[str], count: int, seed: int) -> list[str]:
    """Some ids at random."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(every))
    return [every[k] for k in order[:count]]


def _processor_s() -> float:
    """Processor time of this process and of its workers that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def _matched(database: Database, structure: str) -> dict[str, Match]:
    from steering.database import matches
    from steering.predict import crystal_named

    crystal = crystal_named(structure)
    found = matches(database, crystal.lattice, crystal.positions, crystal.elements)
    return {one.card.id: one for one in found}


def _card(card: Card, matched: dict[str, Match] | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        name: getattr(card, name)
        for name in (
            "id", "source", "formula", "elements", "atoms", "supercell_atoms", "space_group",
            "space_group_symbol", "volume_A3", "lowest_meV", "highest_meV", "polar",
        )
    }  # fmt: skip
    if matched is not None:
        one = matched[card.id]
        told["match"] = {
            "strain": one.strain,
            "volume": one.volume,
            "rms_A": one.rms_A,
            "largest_A": one.largest_A,
        }
    return told


def _print_cards(cards: list[Card], matched: dict[str, Match] | None) -> None:
    heads = ["id", "formula", "space group", "atoms", "lowest, meV", "highest, meV"]
    if matched is not None:
        heads += ["strain, %", "volume, %", "atoms off, A (rms)", "at most"]
    rows = []
    for card in cards[:SHOWN]:
        row = [
            card.id,
            card.formula,
            f"{card.space_group_symbol} ({card.space_group})",
            str(card.atoms),
            f"{card.lowest_meV:.3g}",
            f"{card.highest_meV:.4g}",
        ]
        if matched is not None:
            one = matched[card.id]
            row += [f"{100 * one.strain:.2f}", f"{100 * one.volume:+.2f}"]
            row += [f"{one.rms_A:.3f}", f"{one.largest_A:.3f}"]
        rows.append(row)
    terminal.table(f"{len(cards):,} entries", heads, rows)
    if len(cards) > SHOWN:
        terminal.out.print(f"and {len(cards) - SHOWN:,} more; --json lists all")


def _print_aside(aside: Any) -> None:
    for name, reason in list(aside)[:SHOWN]:
        terminal.out.print(f"set aside: {name}: {reason}", markup=False)
    if len(aside) > SHOWN:
        terminal.out.print(f"and {len(aside) - SHOWN:,} more; --json lists all")
