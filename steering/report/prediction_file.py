"""A prediction as picture, arrays and tables, from the content that the API and the CLI share."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from simulations.arrays import FloatArray
from simulations.errors import InputError
from steering.report.plots_file import GREEK, UNKNOWN
from steering.report.tables_file import write_files

PARTS = ("powder", "background", "vibrational", "line", "plane", "dos", "dispersion")
"""What a prediction may hold, that most wanted as one table first."""
_UNITS = {
    "dos": "densities of states in modes/meV per primitive cell: all together are 3 per atom",
    "dispersion": "energies in meV, imaginary ones negative",
    "intensity": "intensities in barn/meV/sr per primitive cell; empty cells: out of reach",
}
LINE = "#1b4f72"
COLOURS = ("#c77d11", "#2f7d5b", "#7a4fa3", "#a33a52", "#3d6fb0", "#6b6b2f")
MEV_PER_THZ = 4.135667696923859
MEV_PER_WAVENUMBER = 0.1239841984


def write_prediction(content: Mapping[str, Any], names: Sequence[Path]) -> list[Path]:
    """Write a prediction under names of `named_files`; returns the files.

    Tables of NAME.csv: of every part one, NAME-powder.csv and so on.
    """
    return write_files(
        names,
        picture=lambda: prediction_png(content),
        content=content,
        tables=lambda: {f"-{part}": _table(content, part) for part in _parts(content)},
        notes=_notes(content, _parts(content)),
    )


def prediction_npz(content: Mapping[str, Any]) -> bytes:
    """Every array under its name, keys joined by dots; the rest as JSON in ``about``."""
    arrays: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {}
    _sort(content, "", arrays, about)
    buffer = io.BytesIO()
    words = json.dumps(about, ensure_ascii=False, default=lambda array: array.tolist())
    arrays["about"] = np.array(words)
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def prediction_csv(content: Mapping[str, Any], part: str | None = None) -> bytes:
    """One part as a table, the most wanted one if none is named.

    Raises
    ------
    InputError
        If the prediction does not hold it.
    """
    there = _parts(content)
    if part is None and there:
        part = there[0]
    if part not in there:
        raise InputError(f"part is {part!r}; expected one of {', '.join(there)}")
    heads, rows = _table(content, part)
    text = io.StringIO()
    for note in _notes(content, [part]):
        text.write("# " + " ".join(note.split()) + "\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def prediction_png(content: Mapping[str, Any]) -> bytes:
    """What a prediction holds in one picture: phonons above, what is measured below, as PNG."""
    upper = "dispersion" in content or "dos" in content
    lower = bool({"powder", "background", "vibrational", "line", "plane"} & set(content))
    figure = Figure(figsize=(10.4, 4.4 * (upper + lower) + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    structure, route = content["structure"], content["route"]
    figure.suptitle(
        f"{_subscripted(structure['formula'])}: {route['kind'].replace('_', ' ')} "
        f"({route['source']}); {_setting(content)}",
        fontsize=10.5,
    )
    rows = figure.subfigures(max(upper + lower, 1), 1, squeeze=False)[:, 0]
    if upper:
        _draw_phonons(rows[0], content)
    if lower and "vibrational" in content:
        _draw_vibrational(rows[-1], content["vibrational"])
    elif "line" in content or "plane" in content:
        _draw_cut(rows[-1], content.get("line") or content["plane"])
    elif lower:
        _draw_maps(rows[-1], content)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def total_intensity(content: Mapping[str, Any]) -> tuple[FloatArray, list[str]]:
    """Sum of all that S(|Q|,E) is made of, (Q, E), and the names of what was summed."""
    parts = _maps(content)
    return np.sum(list(parts.values()), axis=0), list(parts)


# --- arrays and tables -------------------------------------------------------------------------


def _parts(content: Mapping[str, Any]) -> list[str]:
    return [part for part in PARTS if part in content]


def _array(values: Any) -> FloatArray:
    return np.array(values, dtype=float)


def _middle(edges: Any) -> FloatArray:
    found = _array(edges)
    return 0.5 * (found[1:] + found[:-1])


def _maps(content: Mapping[str, Any]) -> dict[str, FloatArray]:
    """Every part of S(|Q|,E) by name."""
    found: dict[str, FloatArray] = {}
    if "powder" in content:
        found["one_phonon"] = _array(content["powder"]["intensity"])
    for name, part in content.get("background", {}).get("components", {}).items():
        found[name] = _array(part["intensity"])
    return found


def _axes_of_maps(content: Mapping[str, Any]) -> tuple[FloatArray, FloatArray]:
    one = content.get("powder") or content["background"]
    return _array(one["q_edges_inverse_A"]), _array(one["energy_edges_meV"])


Table = tuple[list[str], list[list[Any]]]


def _table(content: Mapping[str, Any], part: str) -> Table:
    """Heads and rows of one part."""
    columns: dict[str, FloatArray]
    if part == "dos":
        dos = content["dos"]
        energy = _array(dos["energy_meV"])
        columns = {"energy_meV": energy, "total_per_meV": _array(dos["total"])}
        columns |= {f"{s}_per_meV": _array(values) for s, values in dos["partial"].items()}
    elif part == "dispersion":
        seen = content["dispersion"]
        hkl, energies = _array(seen["hkl_rlu"]), _array(seen["energies_meV"])
        columns = {"position_inverse_A": _array(seen["position_inverse_A"])}
        columns |= {name: hkl[:, k] for k, name in enumerate(("h_rlu", "k_rlu", "l_rlu"))}
        columns |= {f"energy_{s + 1}_meV": energies[:, s] for s in range(energies.shape[1])}
    elif part in ("line", "plane"):
        columns = _cut_columns(content[part])
    elif part == "vibrational":
        columns = _vibrational_columns(content["vibrational"])
    else:
        q, energy = (0.5 * (edges[1:] + edges[:-1]) for edges in _axes_of_maps(content))
        columns = {
            "q_inverse_A": np.repeat(q, len(energy)),
            "energy_meV": np.tile(energy, len(q)),
        }
        maps = _maps(content)
        if part == "powder":
            columns["total"] = total_intensity(content)[0].ravel()
        for name, values in maps.items():
            if part == "powder" or name != "one_phonon":
                columns[name] = values.ravel()
    return list(columns), np.stack(list(columns.values()), axis=1).tolist()


def _vibrational_columns(part: Mapping[str, Any]) -> dict[str, FloatArray]:
    energy = _middle(part["energy_meV_edges"])
    orders, partials = _array(part["orders"]), _array(part["partials"])
    columns = {"energy_meV": energy, "wavenumber_inverse_cm": energy / MEV_PER_WAVENUMBER}
    for b, bank in enumerate(part["banks"]):
        columns[f"{bank}_q_inverse_A"] = _array(part["momentum_inverse_A"])[b]
        columns[f"{bank}_total"] = _array(part["total"])[b]
        for order in range(orders.shape[1]):
            columns[f"{bank}_order_{order}"] = orders[b, order]
        for k, symbol in enumerate(part["elements"]):
            columns[f"{bank}_{symbol}"] = partials[k, b, 1:].sum(axis=0)
    return columns


def _cut_columns(part: Mapping[str, Any]) -> dict[str, FloatArray]:
    x, y, hkl = _middle(part["x_edges"]), _middle(part["y_edges"]), _array(part["hkl_rlu"])
    if hkl.ndim == 2:  # of a line: the same for every energy
        hkl = np.repeat(hkl[:, None], len(y), axis=1)
    columns = {name: hkl[..., k].ravel() for k, name in enumerate(("h_rlu", "k_rlu", "l_rlu"))}
    return columns | {
        part["x_name"]: np.repeat(x, len(y)),
        part["y_name"]: np.tile(y, len(x)),
        "intensity": _array(part["intensity"]).ravel(),
    }


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.9g}" if np.isfinite(value) else ""
    return str(value)


def _sort(value: Any, name: str, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Numbers to ``arrays``, the rest to ``about``."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _sort(item, f"{name}.{key}" if name else str(key), arrays, about)
        return
    if isinstance(value, np.ndarray | list | tuple) and len(value) > 0:
        try:
            arrays[name] = np.array(value, dtype=float)
        except (TypeError, ValueError):
            about[name] = value
        return
    about[name] = list(value) if isinstance(value, np.ndarray | tuple) else value


def _notes(content: Mapping[str, Any], parts: Sequence[str]) -> list[str]:
    kinds = dict.fromkeys(part if part in _UNITS else "intensity" for part in parts)
    structure, route = content["structure"], content["route"]
    return [
        f"{structure['formula']}; {route['kind']}: {route['source']}",
        _setting(content),
        *content["approximations"],
        *(f"warning: {one}" for one in content["warnings"]),
        *(_UNITS[kind] for kind in kinds),
    ]


def _setting(content: Mapping[str, Any]) -> str:
    words = content.get("optics", {}).get("words") or content["instrument"]
    return f"{words}, {content['temperature_K']:g} K"


# --- pictures ----------------------------------------------------------------------------------


def _draw_phonons(figure: Any, content: Mapping[str, Any]) -> None:
    both = "dispersion" in content and "dos" in content
    found = figure.subplots(
        1, 2 if both else 1, sharey=both, squeeze=False,
        gridspec_kw={"width_ratios": [3.0, 1]} if both else None,
    )[0]  # fmt: skip
    if "dispersion" in content:
        _draw_dispersion(found[0], content["dispersion"])
    if "dos" in content:
        _draw_dos(found[-1], content["dos"], beside=both)
    for axes in found:
        axes.tick_params(direction="in")


def _draw_dispersion(axes: Axes, part: Mapping[str, Any]) -> None:
    x, energies = _array(part["position_inverse_A"]), _array(part["energies_meV"])
    starts = [0, *part["breaks"], len(x)]
    for start, stop in zip(starts, starts[1:], strict=False):
        axes.plot(x[start:stop], energies[start:stop], color=LINE, linewidth=1.0)
    ticks = _array(part["tick_positions_inverse_A"])
    for tick in ticks[1:-1]:
        axes.axvline(float(tick), color="black", linewidth=0.5, alpha=0.5)
    axes.set_xticks(list(ticks), [_greek(label) for label in part["tick_labels"]])
    axes.set_xlim(float(ticks[0]), float(ticks[-1]))
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_ylabel("phonon energy (meV)")
    if part.get("imaginary"):
        axes.set_title("imaginary modes: shown as negative energies", fontsize=9, color="#b8432f")


def _greek(label: str) -> str:
    names = [one.partition("_") for one in label.split("|")]
    letters = [
        GREEK.get(name.capitalize(), name) + (f"$_{{{index}}}$" if index else "")
        for name, _, index in names
    ]
    return "|".join(letters)


def _draw_dos(axes: Axes, part: Mapping[str, Any], *, beside: bool) -> None:
    energy = _array(part["energy_meV"])
    curves = {"total": _array(part["total"])}
    if len(part["partial"]) > 1:
        curves |= {symbol: _array(values) for symbol, values in part["partial"].items()}
    for k, (name, values) in enumerate(curves.items()):
        colour = LINE if name == "total" else COLOURS[(k - 1) % len(COLOURS)]
        style = "-" if name == "total" else ("--", ":", "-.")[(k - 1) % 3]
        line = (values, energy) if beside else (energy, values)
        axes.plot(*line, color=colour, linestyle=style, linewidth=1.1, label=name)
    band = part.get("band")
    if band is not None:
        edges = _array(band["energy_edges_meV"])
        shown = edges[:-1] < energy[-1]  # the last bin reaches to where no phonon is
        edges = np.minimum(edges[: int(shown.sum()) + 1], energy[-1])
        axes.stairs(
            _array(band["high"])[shown], edges, baseline=_array(band["low"])[shown],
            orientation="horizontal" if beside else "vertical", fill=True, color=LINE, alpha=0.18,
            linewidth=0, label=f"total, {band['level']:.0%} band",
        )  # fmt: skip
    axes.legend(frameon=False, fontsize=8.5)
    if beside:
        axes.set_xlim(left=0)
        axes.set_xlabel("DOS (modes/meV)")
        return
    axes.set_ylim(bottom=0)
    axes.set_xlabel("energy (meV)")
    axes.set_ylabel("DOS (modes/meV per primitive cell)")


def _draw_maps(figure: Any, content: Mapping[str, Any]) -> None:
    total, names = total_intensity(content)
    q, energy = _axes_of_maps(content)
    parts = {name: values for name, values in _maps(content).items() if name != "one_phonon"}
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.6, 1]})
    left.set_facecolor(UNKNOWN)
    mesh = left.pcolormesh(
        q, energy, np.ma.masked_invalid(total.T), cmap="viridis",
        norm=PowerNorm(0.5, vmin=0, vmax=_colour_limit(total)), rasterized=True,
    )  # fmt: skip
    figure.colorbar(mesh, ax=left, label="barn/meV/sr per primitive cell", extend="max")
    left.set_title(f"S(|Q|,E): {', '.join(names).replace('_', ' ')}", fontsize=9.5)
    left.set_xlabel("|Q| (1/Å)")
    left.set_ylabel("energy transfer (meV)")
    left.tick_params(direction="in")
    middle = 0.5 * (energy[1:] + energy[:-1])
    curves = {"total": total, **(parts if len(names) > 1 else {})}
    top = 1e-12
    for k, (name, values) in enumerate(curves.items()):
        known = np.isfinite(values)
        mean = np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        colour = LINE if name == "total" else COLOURS[(k - 1) % len(COLOURS)]
        style = "-" if name == "total" else ("--", ":", "-.")[(k - 1) % 3]
        shown = np.where(known.any(axis=0), mean, np.nan)
        top = max(top, float(np.nanmax(shown, initial=0.0)))
        right.plot(middle, shown, color=colour, linestyle=style, linewidth=1.1, label=name)
    right.set_xlim(float(energy[0]), float(energy[-1]))
    right.set_ylim(bottom=0, top=1.1 * top)
    right.set_title("mean over all |Q| in reach", fontsize=9.5)
    right.set_xlabel("energy transfer (meV)")
    right.tick_params(direction="in")
    right.legend(frameon=False, fontsize=8.5)


def _draw_cut(figure: Any, part: Mapping[str, Any]) -> None:
    """A line against energy, or a plane."""
    axes = figure.subplots()
    axes.set_facecolor(UNKNOWN)
    values = _array(part["intensity"])
    mesh = axes.pcolormesh(
        _array(part["x_edges"]), _array(part["y_edges"]), np.ma.masked_invalid(values.T),
        cmap="viridis", norm=PowerNorm(0.5, vmin=0, vmax=_colour_limit(values)), rasterized=True,
    )  # fmt: skip
    figure.colorbar(mesh, ax=axes, label="barn/meV/sr per primitive cell", extend="max")
    along = [", ".join(f"{x:.3g}" for x in row) for row in _array(part["directions_rlu"])]
    start = ", ".join(f"{x:.3g}" for x in _array(part["origin_rlu"]))
    axes.set_xlabel(f"Q along [{along[0]}] from ({start}) r.l.u. (1/Å)")
    axes.tick_params(direction="in")
    if part["band_meV"] is None:
        axes.set_ylabel("energy transfer (meV)")
        return
    low, high = part["band_meV"]
    axes.set_ylabel(f"Q along [{along[1]}] (1/Å)")
    axes.set_aspect("equal")
    axes.set_title(f"E = {low:g} to {high:g} meV", fontsize=9.5)


def _colour_limit(intensity: FloatArray) -> float:
    """What the largest value of four columns in five stays below; one where nothing is known."""
    known = np.isfinite(intensity).any(axis=1)
    highest = np.nanmax(intensity[known], axis=1) if known.any() else np.zeros(0)
    highest = highest[highest > 0]
    return float(np.percentile(highest, 80)) if len(highest) else 1.0


def _draw_vibrational(figure: Any, part: Mapping[str, Any]) -> None:
    energy = _middle(part["energy_meV_edges"])
    orders = 1e3 * _array(part["orders"])
    found = figure.subplots(1, len(part["banks"]), squeeze=False)[0]
    for b, bank in enumerate(part["banks"]):
        axes, total = found[b], orders[b, 1:].sum(axis=0)
        axes.fill_between(energy, 0, total, color=LINE, alpha=0.12, linewidth=0)
        axes.plot(energy, total, color=LINE, linewidth=1.1, label="all phonons")
        shown = {"1 phonon": orders[b, 1], "2 or more": orders[b, 2:].sum(axis=0)}
        for k, (name, values) in enumerate(shown.items()):
            axes.plot(energy, values, color=COLOURS[k], linestyle="-:"[k], label=name)
        axes.set_title(f"S(E), {bank} bank; elastic line left out", fontsize=9.5)
        axes.set_xlim(float(energy[0]), float(energy[-1]))
        axes.set_ylim(0, 1.06 * max(float(total.max()), 1e-9))
        axes.set_xlabel("energy transfer (meV)")
        axes.tick_params(direction="in")
    found[0].set_ylabel("mbarn/meV/sr per primitive cell")
    found[0].legend(frameon=False, fontsize=8.5)


def _subscripted(formula: str) -> str:
    out = "".join(f"$_{{{c}}}$" if c.isdigit() else c for c in formula)
    return out.replace("}$$_{", "")
