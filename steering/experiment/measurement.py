"""An experiment made concrete: crystal, force constants, path, voxels, instrument, prior, model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import structlog

from consumers.fold import ChunkStart, SetAside, trajectories_of
from consumers.recorded import recorded_source
from simulations.arrays import FloatArray
from simulations.crystal import (
    Crystal,
    builtin_crystals,
    read_crystal,
    species_words,
    structure_notes,
    with_isotopes,
)
from simulations.dynamics import (
    ForceConstantModel,
    PairForceConstants,
    carried_onto,
    compare_dipole_sums,
    force_constant_model,
    path_sensitivity,
    read_force_constants,
    select_free,
    with_dipole_sum,
)
from simulations.errors import InputError, NoForceConstantsError
from simulations.fold import (
    BRAGG_REACH,
    ELASTIC_REACH,
    FoldGeometry,
    Form,
    Masking,
    MergedVoxels,
    VoxelExposure,
    VoxelMap,
    build_voxel_map,
    form_for,
    merge_voxels,
)
from simulations.instrument import (
    NAMELESS,
    UNKNOWN_RESOLUTION,
    Instrument,
    Orientation,
    Resolution,
    find_instrument,
    known_instruments,
    names_geometry,
    read_mask,
    read_vanadium,
    same_instrument,
    with_chopper,
    with_mask_file,
    with_vanadium,
)
from simulations.likelihood import (
    TYPICAL,
    Drift,
    FoldedPhonons,
    Missetting,
    QBlur,
    QSpreadSection,
    ThinnedPhonons,
    Trajectories,
    TrajectoryPhonons,
    ZoneMap,
    drift_of,
    missetting,
    q_blur,
)
from simulations.prior import BoxPrior, load_prior, load_prior_record, stored_priors
from simulations.reciprocal import EnergyAxis, Path, PathSection, seekpath_segments
from simulations.scattering import Pockets, converged_displacements, look_for_pockets
from steering.experiment.experiment_file import Experiment
from steering.experiment.fingerprint_file import fingerprint_of
from steering.experiment.zone_grids import ZoneGrids

log = structlog.get_logger()

QUICK_REACH_SIGMAS = 4.0  # of lines of the forward model where it only finds the way
FORWARD_BYTES = 2e8  # most memory for the matrices of the forward model on its own voxels
COUPLINGS = 11_000  # modes squared times free parameters at a point of the zone grid: 1.3 GB
ELASTIC_WIDTHS = 5.0  # cells within this many standard deviations of E = 0 are left out
EI_TOLERANCE = 0.01  # a chunk whose incident energy differs by more belongs to another experiment
REFERENCE_BOX = 0.5  # without a stored prior: this share of the reference on either side


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """What every command computes from an experiment file."""

    experiment: Experiment
    crystal: Crystal
    model: ForceConstantModel  # with all force constants free that fits can bear
    box: BoxPrior  # over the free parameters
    targeted: tuple[str, ...]  # the first of them: what is asked for and steered by
    path: Path
    energy: EnergyAxis
    voxels: VoxelMap
    instrument: Instrument
    orientation: Orientation
    folder: FilePath  # that relative paths of the experiment start from
    form: Form  # of every exposure
    fingerprint: Mapping[str, str] = field(default_factory=dict)  # all that changes a fold

    @property
    def ei_meV(self) -> float:
        """Incident energy of the experiment."""
        return self.experiment.instrument.ei_meV

    @property
    def prior(self) -> BoxPrior:
        """The box of the parameters: samples are drawn from it, fits take its mean and width."""
        return self.box

    @property
    def held(self) -> tuple[str, ...]:
        """Force constants within the cutoff that stay at their reference."""
        return tuple(name for name in self.model.elements if name not in self.model.names)

    def targeted_alone(self) -> Measurement:
        """The same with nothing free but what is targeted."""
        return replace(
            self,
            model=self.model.with_free(self.targeted),
            box=self.box.restricted(self.targeted),
        )

    @cached_property
    def _pockets(self) -> tuple[Pockets | None, str]:
        found, words = look_for_pockets(self.model, self.experiment.sample.imaginary)
        if found is not None:
            log.warning("imaginary_modes", told=words)
        return found, words

    @property
    def pockets(self) -> Pockets | None:
        """How the reference's imaginary modes count; None where it has none.

        Raises
        ------
        InputError
            If they are no small pocket, or are to be refused (``sample.imaginary``).
        """
        return self._pockets[0]

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What was assumed that the experiment does not say, and the convention of dipoles."""
        dipoles = compare_dipole_sums(self.model)
        polar = (() if dipoles is None else (dipoles.note,)) + self.energy.beyond(self.ei_meV)
        if self.pockets is not None:
            polar = (self._pockets[1], *polar)
        beam = self.experiment.instrument
        told = beam.resolution is not None or beam.chopper is not None
        if told or self.instrument.resolution != UNKNOWN_RESOLUTION:
            return polar
        return (
            *polar,
            f"energy resolution of {self.instrument.name} is unknown: a typical one stands in, "
            f"FWHM {UNKNOWN_RESOLUTION.coefficients[0]:.0%} of Ei at E = 0. Give "
            "instrument.resolution",
        )

    @cached_property
    def beliefs(self) -> tuple[str, ...]:
        """What fits take to be right: their error bars do not know of it."""
        told: list[str] = []
        if self.held:
            told.append(
                f"{len(self.model.names)} of {len(self.model.elements)} force constants are fitted;"
                " the others stay at their reference, and error bars do not know of them"
            )
        if "missetting" not in self.experiment.model_fields_set:
            told.append(self.experiment.missetting.assumed)
        if "q_spread" not in self.experiment.model_fields_set:
            told.append(
                "pixels are taken to be points, the beam to be parallel and the crystal to be "
                "without mosaic: give q_spread"
            )
        return tuple(told)

    @property
    def elastic_cut_meV(self) -> float:
        """Energy transfer below which the elastic line rules."""
        at_zero = self.instrument.resolution.sigma_meV(np.zeros(1), self.ei_meV)[0]
        return float(ELASTIC_WIDTHS * at_zero)

    @cached_property
    def geometry(self) -> FoldGeometry:
        """All of the fold that no chunk changes."""
        sample, section = self.experiment.sample, self.experiment.background
        masking = None
        if section.bragg_tails or section.elastic_band:
            masking = Masking(
                mosaic_deg=section.mosaic_deg,
                reflection_width=section.reflection_width,
                elastic_reach=ELASTIC_REACH if section.elastic_band else 0.0,
                bragg_reach=BRAGG_REACH if section.bragg_tails else 0.0,
            )
        return FoldGeometry(
            crystal=self.crystal,
            path=self.path,
            energy=self.energy,
            voxels=self.voxels,
            orientation=self.orientation,
            psi_offset_deg=sample.psi_offset_deg,
            ei_meV=self.ei_meV,
            resolution=self.instrument.resolution,
            displacement=self.displacement,
            form=self.form,
            masking=masking,
        )

    @cached_property
    def displacement(self) -> FloatArray:
        """Mean-square displacements (atoms, 3, 3) of the reference, for the Debye-Waller factor."""
        temperature_K = self.experiment.sample.temperature_K
        return converged_displacements(self.model, temperature_K, pockets=self.pockets).tensors

    @cached_property
    def forward(self) -> FoldedPhonons:
        """One-phonon forward model of the folded path."""
        return self._forward(self.voxels)

    @cached_property
    def exact(self) -> TrajectoryPhonons:
        """One-phonon rates by walking trajectories through the whole zone."""
        return self._walking(self.zones.chosen())

    @cached_property
    def rough(self) -> ThinnedPhonons:
        """The same approximately, of few trajectories and of a wider grid, to look around with."""
        exact, wider = self.exact, self.zones.rough()
        walked = exact if wider.n_points >= exact.zone.n_points else self._walking(wider)
        return ThinnedPhonons(walked.coarsely() if self.costly else walked)

    @property
    def zones(self) -> ZoneGrids:
        """Grids of the zone to choose from."""
        return ZoneGrids(
            model=self.model,
            crystal=self.crystal,
            energy=self.energy,
            ei_meV=self.ei_meV,
            temperature_K=self.experiment.sample.temperature_K,
            resolution=self.instrument.resolution,
            voxel_rlu=self.experiment.path.voxel_rlu,
        )

    def _walking(self, zone: ZoneMap) -> TrajectoryPhonons:
        told = self.experiment.missetting
        spread = self.experiment.q_spread
        ways = missetting(
            self.crystal, self.instrument, self.orientation, self.ei_meV, told,
            spread.known_percent if spread.active else 0.0,
        )  # fmt: skip
        fitted = told.fitted & (ways.sigma > 0)
        return TrajectoryPhonons(
            model=self.model,
            crystal=self.crystal,
            zone=zone,
            energy=self.energy,
            n_path_bins=self.path.n_bins,
            ei_meV=self.ei_meV,
            temperature_K=self.experiment.sample.temperature_K,
            resolution=self.instrument.resolution,
            pockets=self.pockets,
            missetting=ways.where(fitted),
            aside=ways.where(~fitted),
            q_blur=self._q_blur(self.experiment.q_spread),
            typical_blur=None
            if "q_spread" in self.experiment.model_fields_set
            else self._q_blur(TYPICAL),
        )

    def _q_blur(self, told: QSpreadSection) -> QBlur:
        return q_blur(self.crystal, self.instrument, self.orientation, told)

    @cached_property
    def merged(self) -> MergedVoxels:
        """Voxels of three times the edge, for annealing and for the exposure of candidates."""
        section = self.experiment.path
        unit = np.prod(np.linalg.norm(self.crystal.conventional_reciprocal, axis=1)) ** (1 / 3)
        return merge_voxels(self.voxels, 3 * section.voxel_rlu * float(unit))

    @cached_property
    def coarse_forward(self) -> FoldedPhonons:
        """The forward model on merged voxels."""
        return self._forward(self.merged)

    @property
    def costly(self) -> bool:
        """Whether the ``forward`` model of this crystal would take too much time and memory."""
        size = 16 * self.model.n_modes**2 * self.voxels.n_voxels
        return size * 5 * (1 + len(self.model.names)) > FORWARD_BYTES

    @property
    def quick_forward(self) -> FoldedPhonons:
        """The best forward model that this crystal can bear."""
        return self.coarse_forward if self.costly else self.forward

    def _forward(self, voxels: VoxelMap | MergedVoxels) -> FoldedPhonons:
        quick: dict[str, Any] = {"reach_sigmas": QUICK_REACH_SIGMAS} if self.costly else {}
        return FoldedPhonons(
            model=self.model,
            voxels=voxels,
            energy=self.energy,
            ei_meV=self.ei_meV,
            temperature_K=self.experiment.sample.temperature_K,
            resolution=self.instrument.resolution,
            pockets=self.pockets,
            q_blur=self._q_blur(self.experiment.q_spread),
            **quick,
        )

    def calibrated(self, instrument: Instrument) -> Instrument:
        """Pixels that came with a recorded file, with the experiment's mask and vanadium."""
        return calibrated(instrument, self.experiment, self.folder)

    def exposure(
        self,
        psi_deg: float,
        instrument: Instrument | None = None,
        *,
        ei_meV: float | None = None,
        reduced: bool = False,
    ) -> VoxelExposure:
        """Exposure of one orientation for one coulomb of proton charge, nothing left out.

        Another ``ei_meV`` than the experiment's tells what a candidate setting would see; rates of
        ``forward`` and ``exact`` are those of the experiment's.
        """
        instrument = self.instrument if instrument is None else instrument
        bare = replace(self.geometry, masking=None)
        return bare.sight(psi_deg, instrument, ei_meV=ei_meV).exposure(reduced=reduced)

    def trajectories(
        self, psi_deg: float, instrument: Instrument | None = None, *, reduced: bool = False
    ) -> Trajectories:
        """Stretches of trajectories inside the tubes for one coulomb, nothing left out."""
        instrument = self.instrument if instrument is None else instrument
        bare = replace(self.geometry, masking=None)
        return trajectories_of(bare.sight(psi_deg, instrument), reduced=reduced)

    def drift(self, trajectories: Trajectories, ways: Missetting) -> Drift:
        """How the neutrons of every path cell move where the set-up is off in these ways."""
        return drift_of(
            trajectories,
            ways,
            self.voxels,
            reciprocal=self.crystal.reciprocal,
            energy_centres_meV=self.energy.centres_meV,
            ei_meV=self.ei_meV,
        )


def build_measurement(
    experiment: Experiment, experiment_dir: FilePath, *, recorded: Instrument | None = None
) -> Measurement:
    """Read and compute everything an experiment names.

    Parameters
    ----------
    experiment : Experiment
    experiment_dir : Path
        Folder that relative paths in the experiment start from.
    recorded : Instrument, optional
        Of ``recorded_instrument``, for an instrument that is not known here.

    Raises
    ------
    ValueError
        Unknown structure, instrument, prior or parameter; the message says what is known.
    """
    crystal, reference = _sample(experiment, experiment_dir)
    path = build_path(experiment.path, crystal)
    model, box, targeted = _parameters(experiment, experiment_dir, crystal, reference, path)
    axis = experiment.path.energy
    energy = EnergyAxis(
        edges_meV=np.linspace(axis.min_meV, axis.max_meV, axis.bins + 1), substeps=axis.substeps
    )
    sample = experiment.sample
    return Measurement(
        experiment=experiment,
        fingerprint=fingerprint_of(experiment, experiment_dir),
        folder=experiment_dir,
        form=form_for(crystal),
        crystal=crystal,
        model=model,
        box=box,
        targeted=targeted,
        path=path,
        energy=energy,
        voxels=build_voxel_map(
            crystal,
            path,
            half_width_rlu=experiment.path.half_width_rlu,
            voxel_rlu=experiment.path.voxel_rlu,
        ),
        instrument=_with_live_pixels(
            chosen_instrument(experiment, experiment_dir, recorded=recorded), experiment
        ),
        orientation=Orientation(
            u=sample.u,
            v=sample.v,
            omega_deg=sample.omega_deg,
            dpsi_deg=sample.dpsi_deg,
            gl_deg=sample.gl_deg,
            gs_deg=sample.gs_deg,
        ),
    )


def chosen_instrument(
    experiment: Experiment,
    experiment_dir: FilePath | None = None,
    *,
    recorded: Instrument | None = None,
) -> Instrument:
    """Instrument of an experiment, its pixels merged along the tubes where asked.

    An instrument that is neither known nor a file is ``recorded``, with its own pixels.
    """
    section = experiment.instrument
    if recorded is not None and not names_geometry(section.name):
        nameless = section.name.upper() in NAMELESS
        instrument = recorded if nameless else replace(recorded, name=section.name)
    else:
        name = section.name if section.coarsen == 1 else f"{section.name}/{section.coarsen}"
        instrument = find_instrument(name, experiment_dir)
    if section.resolution is not None:
        instrument = replace(instrument, resolution=Resolution(coefficients=section.resolution))
    if section.chopper is not None:
        setting = section.chopper
        instrument = with_chopper(instrument, setting.package, setting.frequency_Hz, section.ei_meV)
    return calibrated(instrument, experiment, experiment_dir)


def _with_live_pixels(instrument: Instrument, experiment: Experiment) -> Instrument:
    """The instrument, unless every pixel of it is masked."""
    section = experiment.instrument
    if instrument.masked.all():
        causes = [f"correct instrument.{n}" for n in ("mask", "vanadium") if getattr(section, n)]
        if section.coarsen > 1:
            causes.append(f"set instrument.coarsen below {section.coarsen}")
        raise InputError(
            f"instrument is {instrument.name}, of which all {instrument.n_pixels} pixels are "
            "masked; expected some that count (merged ones are masked when any member is). "
            f"To have some, {' or '.join(causes) or 'choose another instrument.name'}."
        )
    return instrument


def recorded_instrument(files: Sequence[FilePath], experiment: Experiment) -> Instrument | None:
    """Pixels that files carry themselves, for an instrument that Beamsteer does not know.

    Parameters
    ----------
    files : sequence of Path
        Recorded files, to be folded.
    experiment : Experiment

    Returns
    -------
    Instrument or None
        Of the first file that may be of ``instrument.name``; None where that name is known or is
        a file of pixels.

    Raises
    ------
    ValueError
        If there is no such file; the message says what is wrong with each.
    """
    section = experiment.instrument
    if names_geometry(section.name):
        return None
    source = recorded_source(
        files,
        run="geometry",
        psi_log=experiment.source.psi_log,
        psi_deg=0.0,  # pixels do not turn
        ei_meV=experiment.source.ei_meV,
        t0_us=experiment.source.t0_us,
        period=experiment.source.period,
        nominal_ei_meV=section.ei_meV,
    )
    faults, bare = [], True  # whether none has this instrument's pixels
    for message in source.messages():
        payload = message.payload
        if isinstance(payload, SetAside):
            faults.append(f"{payload.origin}: {payload.reason}")
        elif isinstance(payload, ChunkStart):
            fault = foreign(payload, experiment, section.name)
            if fault is None and payload.geometry is not None:
                return payload.geometry
            own = same_instrument(payload.instrument_name, section.name)
            bare &= not own or payload.geometry is None
            faults.append(f"{payload.chunk}: {fault or 'has no pixels of its own'}")
    told = "no file is of this experiment:"
    if bare:
        told = (
            f"instrument.name is {section.name!r}, which no file here brings pixels for; expected "
            f"its files, one of {', '.join(known_instruments())}, or a file of pixels"
        )
    raise InputError("\n".join((told, *faults)))


def foreign(start: ChunkStart, experiment: Experiment, instrument_name: str) -> str | None:
    """Why a chunk belongs to another experiment: another instrument or Ei; None if it does not."""
    if not same_instrument(start.instrument_name, instrument_name):
        return (
            f"instrument is {start.instrument_name!r}; expected {instrument_name!r}, the "
            "experiment's. Replay it with its own experiment file."
        )
    expected = experiment.instrument.ei_meV
    if abs(start.ei_meV - expected) > EI_TOLERANCE * expected:
        return (
            f"Ei is {start.ei_meV:g} meV in the file; expected {expected:g} meV within "
            f"{EI_TOLERANCE:.0%}, the experiment's instrument.ei_meV. Correct one of them."
        )
    axis = experiment.path.energy
    if start.clean_meV is not None:
        low, high = start.clean_meV
        if axis.min_meV < low or min(axis.max_meV, expected) > high + 1e-9:
            return (
                f"path.energy spans {axis.min_meV:g} to {axis.max_meV:g} meV, but neutrons of "
                f"other incident energies of the pulse mix in outside {low:.4g} to {high:.4g} "
                "meV; expected an axis within. Narrow it."
            )
    return None


def calibrated(
    instrument: Instrument, experiment: Experiment, experiment_dir: FilePath | None = None
) -> Instrument:
    """Instrument with the mask and vanadium files of an experiment, relative to its folder."""
    section = experiment.instrument
    folder = FilePath() if experiment_dir is None else experiment_dir
    if section.mask is not None:
        instrument, _ = with_mask_file(instrument, read_mask(folder / section.mask))
    if section.vanadium is not None:
        instrument, _ = with_vanadium(instrument, read_vanadium(folder / section.vanadium))
    return instrument


def build_path(section: PathSection, crystal: Crystal) -> Path:
    """Path of an experiment; ``points: seekpath`` takes the standard one of the crystal."""
    segments = section.segments()
    if segments is None:
        return seekpath_segments(crystal, section.step_rlu)
    return Path(
        start_hkl=np.array([s.start_hkl for s in segments]),
        end_hkl=np.array([s.end_hkl for s in segments]),
        labels=tuple((s.start_label, s.end_label) for s in segments),
        bins=tuple(s.bins for s in segments),
    )


def structure_of(experiment: Experiment, experiment_dir: FilePath) -> str | FilePath:
    """Builtin name of the structure, or its file relative to the experiment file."""
    name = experiment.sample.structure
    if name in builtin_crystals():
        return name
    path = experiment_dir / name
    if not path.exists():
        raise InputError(
            f"sample.structure is {name!r}; expected one of "
            f"{', '.join(builtin_crystals())}, or a file (looked for {path}). Correct the name."
        )
    return path


def _sample(experiment: Experiment, experiment_dir: FilePath):
    """Crystal and its reference force constants: given, stored, or the prior's."""
    structure = structure_of(experiment, experiment_dir)
    sample = experiment.sample
    try:
        if sample.force_constants is not None:
            path = experiment_dir / sample.force_constants
            if not path.exists():
                raise InputError(
                    f"sample.force_constants is {sample.force_constants!r}; expected a file "
                    f"(looked for {path}). Correct the name."
                )
            given = read_force_constants(path, supercell_matrix=sample.supercell)
            reference = carried_onto(read_crystal(structure), given)
        else:
            reference = read_force_constants(structure, supercell_matrix=sample.supercell)
    except NoForceConstantsError:
        prior = experiment.parameters.prior
        if prior is None:
            raise
        record = load_prior_record(prior if prior in stored_priors() else experiment_dir / prior)
        crystal = with_isotopes(read_crystal(structure), sample.made_of)
        reference = record.force_constants(crystal)
    else:
        crystal = with_isotopes(reference.crystal, sample.made_of)
        reference = replace(reference, crystal=crystal)
    decided = structure_notes(structure) if isinstance(structure, FilePath) else ()
    told = (*decided, *reference.notes, *species_words(crystal))
    if told:
        log.info("sample_read", structure=str(structure), notes=told)
    return crystal, reference


def force_constants_of(experiment: Experiment, experiment_dir: FilePath) -> ForceConstantModel:
    """Reference force constants of an experiment, every element within the cutoff free.

    Parameters
    ----------
    experiment : Experiment
    experiment_dir : Path
        Folder that relative paths in the experiment start from.
    """
    return _all_free(experiment, *_sample(experiment, experiment_dir))


def parameters_of(
    experiment: Experiment, experiment_dir: FilePath
) -> tuple[ForceConstantModel, BoxPrior]:
    """Force constants of an experiment, all freed that fits can bear, and their box.

    Parameters
    ----------
    experiment : Experiment
        ``parameters.free`` come first; nothing is held, whatever ``parameters.others`` says.
    experiment_dir : Path
        Folder that relative paths in the experiment start from.
    """
    section = experiment.parameters.model_copy(update={"others": "fitted"})
    fitted = experiment.model_copy(update={"parameters": section})
    crystal, reference = _sample(experiment, experiment_dir)
    path = build_path(experiment.path, crystal)
    model, box, _ = _parameters(fitted, experiment_dir, crystal, reference, path)
    return model, box


def _all_free(
    experiment: Experiment, crystal: Crystal, reference: PairForceConstants
) -> ForceConstantModel:
    section = experiment.parameters
    full = force_constant_model(crystal, reference, section.cutoff_A)
    return with_dipole_sum(full, section.dipole_sum)


def _parameters(experiment, experiment_dir, crystal, reference, path: Path):
    section = experiment.parameters
    full = _all_free(experiment, crystal, reference)
    if section.prior is None:
        half = REFERENCE_BOX * np.maximum(
            np.abs(full.element_values), 0.02 * np.abs(full.element_values).max()
        )
        box = BoxPrior(
            names=full.elements,
            lower=full.element_values - half,
            upper=full.element_values + half,
        )
    else:
        stored = section.prior in stored_priors()
        box = load_prior(section.prior if stored else experiment_dir / section.prior)
        missing = [name for name in full.elements if name not in box.names]
        if missing:
            raise InputError(
                f"parameters.prior is {section.prior!r}, which has no "
                f"{', '.join(missing[:4])}; expected every element within cutoff_A = "
                f"{section.cutoff_A:g}. Lower the cutoff or choose another prior."
            )
        box = box.restricted(full.elements)
    q = path.centres_hkl() @ crystal.conventional_reciprocal
    if isinstance(section.free, int):
        names = select_free(full, section.free, q, scale=box.sigma)
    else:
        names = section.free
    # Targets first, then what moves the lines most, as many as the walk has memory for.
    room = max(len(names), COUPLINGS // full.n_modes**2)
    rest = [name for name in full.elements if name not in names]
    if section.others == "held":
        rest = []
    if len(names) + len(rest) > room:
        response = path_sensitivity(full, q, scale=box.sigma)
        of_name = dict(zip(full.elements, response, strict=True))
        rest.sort(key=lambda name: -of_name[name])
        rest = rest[: room - len(names)]
    names = (*names, *rest)
    return full.with_free(names), box.restricted(names), names[: len(names) - len(rest)]
