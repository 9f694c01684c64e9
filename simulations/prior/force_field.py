"""Force constants of a crystal from universal force fields that ship their weights.

Relax the cell, displace atoms of a supercell, read the forces, solve for the force constants. Six
published networks are on offer; none needs a download, and MACE or M3GNet run from a weight file of
yours. Their phonons are soft: on germanium the top
of the optic branch lies at 19 to 31 meV where experiment has 37, so what comes from here is a prior
range or a first guess, never a reference.

The networks are an optional extra (``pip install beamsteer[forcefields]``) and are imported only
when one is asked for.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from simulations.arrays import FloatArray
from simulations.errors import InputError

THZ_TO_MEV = 4.135667696923859
"""Energy of one terahertz in meV (h, exact in the SI)."""

STABLE_ABOVE_meV = -0.5
"""A member whose lowest mode on the mesh lies below this (imaginary, shown negative) is unstable.

Not zero: float32 forces and Fourier interpolation leave acoustic modes a little below it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForceField:
    """One published network, as its package knows it."""

    name: str  # our name for it
    package: str  # the distribution whose wheel carries the weights
    checkpoint: str  # the package's own name
    modal: str | None = None  # which of several fidelities, where a network has them
    reference: str = ""


FORCE_FIELDS: dict[str, ForceField] = {
    field.name: field
    for field in (
        ForceField(
            name="chgnet-0.3.0",
            package="chgnet",
            checkpoint="0.3.0",
            reference="Deng et al., Nat. Mach. Intell. 5, 1031 (2023)",
        ),
        ForceField(
            name="chgnet-0.2.0",
            package="chgnet",
            checkpoint="0.2.0",
            reference="Deng et al., Nat. Mach. Intell. 5, 1031 (2023)",
        ),
        ForceField(
            name="sevennet-0-11Jul2024",
            package="sevenn",
            checkpoint="7net-0_11Jul2024",
            reference="Park et al., J. Chem. Theory Comput. 20, 4857 (2024)",
        ),
        ForceField(
            name="sevennet-0-22May2024",
            package="sevenn",
            checkpoint="7net-0_22May2024",
            reference="Park et al., J. Chem. Theory Comput. 20, 4857 (2024)",
        ),
        ForceField(
            name="sevennet-l3i5",
            package="sevenn",
            checkpoint="7net-l3i5",
            reference="Park et al., J. Chem. Theory Comput. 20, 4857 (2024)",
        ),
        ForceField(
            name="sevennet-mf-0",
            package="sevenn",
            checkpoint="7net-mf-0",
            modal="PBE",
            reference="Kim et al., J. Am. Chem. Soc. 147, 1042 (2025)",
        ),
    )
}
"""The networks on offer by name."""


FROM_FILE = {"mace": "mace-torch", "m3gnet": "matgl"}
"""Networks that run from a weight file, ``mace:PATH`` or ``m3gnet:PATH``, and their packages."""


class ForceFieldUnavailableError(RuntimeError):
    """The package of a force field is not installed; the message says how to install it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ForceFieldPhonons:
    """What one force field says about one crystal, relaxed in that force field."""

    force_field: str
    versions: dict[str, str]  # of the packages that made it
    cell: PhonopyAtoms  # relaxed cell, the one that was given otherwise
    supercell_matrix: tuple[int, int, int]
    displacement_A: float
    residual_force_eV_A: float  # largest force on an atom of the relaxed cell
    residual_stress_kbar: float  # largest element of its stress
    force_constants: FloatArray  # (cell atoms, supercell atoms, 3, 3) eV/angstrom^2
    lowest_meV: float  # lowest mode energy on a mesh, imaginary ones negative
    highest_meV: float

    @property
    def stable(self) -> bool:
        """Whether no mode on the mesh lies below ``STABLE_ABOVE_meV``."""
        return self.lowest_meV >= STABLE_ABOVE_meV


@contextlib.contextmanager
def _expected_noise() -> Iterator[None]:
    """Silence exactly what the two packages are known to say, and nothing else.

    CHGNet prints its size; torch deprecates the scripting e3nn was written with; SevenNet advises
    an accelerator for GPUs; CHGNet builds a tensor of volumes from tensors, and hands pymatgen the
    symmetry constraint of a relaxation, which it does not need.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings(
            "ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning, r"torch\.jit\..*"
        )
        warnings.filterwarnings("ignore", "No tensor product accelerator is enabled", UserWarning)
        warnings.filterwarnings(
            "ignore",
            "Converting a tensor with requires_grad=True to a scalar",
            UserWarning,
            r"chgnet\..*",
        )
        warnings.filterwarnings("ignore", "Only FixAtoms and FixCartesian is", UserWarning)
        yield


def load_calculator(name: str) -> Any:
    """Load a force field as an ASE calculator on the CPU.

    Parameters
    ----------
    name : str
        A key of ``FORCE_FIELDS``, or ``mace:PATH``, ``m3gnet:PATH`` with a weight file (a folder
        for M3GNet). Weight files run code when they are read: take none from strangers.

    Returns
    -------
    ase.calculators.calculator.Calculator
        Energy eV, forces eV/angstrom, stress eV/angstrom^3; float32 inside but for MACE.

    Raises
    ------
    ValueError
        If there is no force field of that name or no such file.
    ForceFieldUnavailableError
        If its package is not installed.
    """
    kind, colon, path = name.partition(":")
    if colon and kind in FROM_FILE:
        return _from_file(kind, path)
    if name not in FORCE_FIELDS:
        raise InputError(
            f"force field is {name!r}; expected one of {', '.join(FORCE_FIELDS)}, or "
            f"{' or '.join(f'{k}:PATH' for k in FROM_FILE)} with your weight file"
        )
    field = FORCE_FIELDS[name]
    try:
        with _expected_noise():
            if field.package == "chgnet":
                from chgnet.model.dynamics import CHGNetCalculator
                from chgnet.model.model import CHGNet

                model = CHGNet.load(model_name=field.checkpoint, use_device="cpu", verbose=False)
                return CHGNetCalculator(model, use_device="cpu")
            from sevenn.calculator import SevenNetCalculator

            return SevenNetCalculator(field.checkpoint, device="cpu", modal=field.modal)
    except ImportError as error:
        raise ForceFieldUnavailableError(
            f"force field {name} needs the package {field.package}, which cannot be imported "
            f"({error}). Install it with: pip install 'beamsteer[forcefields]'"
        ) from error


def _from_file(kind: str, path: str) -> Any:
    """Load a network from a weight file; see ``load_calculator``."""
    if not Path(path).exists():
        raise InputError(
            f"force field is {kind}:{path}, but there is no such file; expected the weight file "
            f"that came with {FROM_FILE[kind]}'s model. Correct the path"
        )
    try:
        with _expected_noise():
            if kind == "mace":
                calculators: Any = import_module("mace.calculators")
                return calculators.MACECalculator(
                    model_paths=path, device="cpu", default_dtype="float64"
                )
            matgl: Any = import_module("matgl")
            extension: Any = import_module("matgl.ext.ase")
            return extension.PESCalculator(matgl.load_model(path))
    except ImportError as error:
        raise ForceFieldUnavailableError(
            f"force field {kind}:{path} needs the package {FROM_FILE[kind]}, which cannot be "
            f"imported ({error}). Install it with: pip install {FROM_FILE[kind]}"
        ) from error


def _package_of(name: str) -> str:
    kind = name.partition(":")[0]
    return FROM_FILE[kind] if kind in FROM_FILE else FORCE_FIELDS[name].package


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def versions_of(name: str) -> dict[str, str]:
    """Versions of the packages that a force field's answer comes from."""
    return {
        package: _version(package) for package in (_package_of(name), "torch", "ase", "phonopy")
    }


def relax(
    cell: PhonopyAtoms,
    calculator: Any,
    *,
    keep_cell: bool = False,
    force_tolerance_eV_A: float = 1e-3,
    steps: int = 300,
) -> PhonopyAtoms:
    """Relax positions, and the cell at zero pressure unless it is kept; the space group stays.

    Parameters
    ----------
    cell : PhonopyAtoms
        Starting cell, angstrom.
    calculator : ase.calculators.calculator.Calculator
        From ``load_calculator``.
    keep_cell : bool
        Relax the atoms alone.
    force_tolerance_eV_A : float
        Largest remaining generalised force.
    steps : int
        Most steps of the optimiser.

    Returns
    -------
    PhonopyAtoms
        Relaxed cell with the same atoms, masses and orientation.

    Raises
    ------
    RuntimeError
        If the forces have not fallen below the tolerance after ``steps``.
    """
    from ase import Atoms
    from ase.constraints import FixSymmetry
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    atoms = Atoms(
        numbers=cell.numbers, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True
    )
    atoms.set_constraint(FixSymmetry(atoms))
    atoms.calc = calculator
    with _expected_noise():
        target: Any = atoms if keep_cell else FrechetCellFilter(atoms)
        optimiser = BFGS(target, logfile=None)
        converged = optimiser.run(fmax=force_tolerance_eV_A, steps=steps)
    if not converged:
        raise RuntimeError(
            f"relaxation left forces above {force_tolerance_eV_A} eV/angstrom after {steps} steps; "
            "start from a structure nearer to equilibrium or raise `steps`"
        )
    return PhonopyAtoms(
        numbers=cell.numbers,
        masses=cell.masses,
        cell=np.asarray(atoms.cell),
        scaled_positions=atoms.get_scaled_positions(wrap=False),
    )


def _calculate(cell: PhonopyAtoms, calculator: Any) -> tuple[FloatArray, FloatArray]:
    """Forces (atoms, 3) eV/angstrom and stress (6,) eV/angstrom^3 of a cell."""
    from ase import Atoms

    atoms = Atoms(
        numbers=cell.numbers, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True
    )
    atoms.calc = calculator
    with _expected_noise():
        forces = np.asarray(atoms.get_forces(), dtype=float)
        stress = np.asarray(atoms.get_stress(), dtype=float)
    return forces, stress


def default_supercell(lattice: ArrayLike, reach_A: float = 7.0) -> tuple[int, int, int]:
    """Smallest diagonal supercell whose inscribed sphere has radius ``reach_A``.

    Parameters
    ----------
    lattice : (3, 3) array_like
        Rows are lattice vectors, angstrom.
    reach_A : float
        Wanted radius.

    Returns
    -------
    tuple of int
        Repeats along the three vectors.
    """
    spacing = 1.0 / np.linalg.norm(np.linalg.inv(np.asarray(lattice, dtype=float)), axis=0)
    a, b, c = (max(1, int(np.ceil(2 * reach_A / d - 1e-9))) for d in spacing)
    return a, b, c


def force_field_phonons(
    cell: PhonopyAtoms,
    name: str,
    *,
    supercell: tuple[int, int, int] | None = None,
    displacement_A: float = 0.01,
    relaxed: bool = False,
    keep_cell: bool = False,
    mesh: int = 12,
) -> ForceFieldPhonons:
    """Force constants of a crystal from one force field.

    Displacements come in pairs of both signs, so cubic anharmonicity cancels; the result obeys the
    acoustic sum rule and index symmetry.

    Parameters
    ----------
    cell : PhonopyAtoms
        Cell in which the force constants are wanted; relaxed first unless ``relaxed``.
    name : str
        As for ``load_calculator``.
    supercell : tuple of int, optional
        Repeats along the three vectors; by default ``default_supercell``.
    displacement_A : float
        Length of a displacement, angstrom.
    relaxed : bool
        The cell is at equilibrium already: do not relax.
    keep_cell : bool
        Relax the atoms alone, in the cell as it is given.
    mesh : int
        Points along each axis of the mesh (from Gamma) that decides on stability.

    Returns
    -------
    ForceFieldPhonons
        With ``.stable`` telling whether to use it.

    Raises
    ------
    ValueError, ForceFieldUnavailableError, RuntimeError
        As ``load_calculator`` and ``relax`` raise them.
    """
    calculator = load_calculator(name)
    if not relaxed:
        cell = relax(cell, calculator, keep_cell=keep_cell)
    at_rest, stress = _calculate(cell, calculator)
    repeats = supercell or default_supercell(cell.cell)
    phonopy = Phonopy(cell, np.diag(repeats), primitive_matrix=np.eye(3))
    phonopy.generate_displacements(distance=displacement_A, is_plusminus=True)
    supercells = phonopy.supercells_with_displacements or []
    phonopy.forces = np.array([_calculate(s, calculator)[0] for s in supercells if s is not None])
    phonopy.produce_force_constants(calculate_full_force_constants=True)
    phonopy.symmetrize_force_constants()
    full = np.asarray(phonopy.force_constants, dtype=float)
    phonopy.run_mesh([mesh] * 3, is_gamma_center=True)
    frequencies = np.asarray(phonopy.mesh.frequencies)  # type: ignore[union-attr]
    return ForceFieldPhonons(
        force_field=name,
        versions=versions_of(name),
        cell=cell,
        supercell_matrix=repeats,
        displacement_A=displacement_A,
        residual_force_eV_A=float(np.abs(at_rest).max()),
        residual_stress_kbar=float(np.abs(stress).max() * 1602.1766208),
        force_constants=full[phonopy.primitive.p2s_map],
        lowest_meV=float(frequencies.min() * THZ_TO_MEV),
        highest_meV=float(frequencies.max() * THZ_TO_MEV),
    )
