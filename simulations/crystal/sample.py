"""The sample section of an experiment file: which crystal, how it is mounted, how warm it is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from simulations.crystal.species import Isotopes
from simulations.section import NotNegative, Number, Positive, Section, Text, Vector, expected

Treatment = Literal["left_out", "damped", "refuse"]
"""What to do with a small pocket of imaginary modes."""

Whole = Annotated[int, Field(strict=True, ge=-100, le=100)]


class SampleSection(Section):
    """Crystal and mount.

    At psi = 0, ``u`` points along the beam and ``v`` lies in the horizontal plane on the side of
    laboratory +x, as in Horace and Mantid. ``UB`` may be given in place of the two; it is read in
    Mantid's convention (``Q_lab = 2 pi UB hkl``) and replaced by the ``u`` and ``v`` that it means.
    """

    structure: Text = Field(
        description="a builtin crystal (germanium, aluminium, MnO) or a structure file, its path "
        "relative to the experiment file"
    )
    u: Vector = Field(description="three numbers, hkl along the beam at psi = 0")
    v: Vector = Field(description="three numbers, hkl in the horizontal plane, not along u")
    temperature_K: NotNegative = Field(description="kelvin, zero or more")
    isotopes: dict[Text, Text | dict[Text, Positive]] | None = Field(
        default=None,
        description="what species are made of, by symbol: an isotope (`H: D`, `Li: 7Li`), or "
        "shares of several that sum to 1",
    )
    force_constants: Text | None = Field(
        default=None,
        description="file of force constants, where they do not lie beside the structure; its cell "
        "may be another one of the same crystal",
    )
    supercell: tuple[Whole, ...] | None = Field(
        default=None,
        description="three or nine whole numbers: supercell of FORCE_SETS or FORCE_CONSTANTS that "
        "lie beside a structure",
    )
    imaginary: Treatment = Field(
        default="left_out",
        description="what becomes of a small pocket of imaginary modes: left_out, damped (counted "
        "by their modulus, as wide as that) or refuse",
    )
    omega_deg: Number = Field(default=0.0, description="axis of the goniometer's small arcs")
    dpsi_deg: Number = Field(default=0.0, description="correction of psi")
    gl_deg: Number = Field(default=0.0, description="large goniometer arc")
    gs_deg: Number = Field(default=0.0, description="small goniometer arc")
    psi_offset_deg: Number = Field(default=0.0, description="added to every recorded psi")

    @model_validator(mode="before")
    @classmethod
    def _u_and_v_from_UB(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or raw.get("UB") is None:
            return raw
        if raw.get("u") is not None or raw.get("v") is not None:
            raise expected("either u and v, or UB. Remove one of the two.")
        try:
            UB = np.array(raw["UB"], dtype=float)
        except (TypeError, ValueError):
            UB = np.zeros((0, 0))
        if UB.shape != (3, 3) or not np.isfinite(UB).all() or abs(np.linalg.det(UB)) < 1e-9:
            raise expected("UB to be a regular 3 x 3 matrix, rows first, 1/angstrom. Correct UB.")
        inverse = np.linalg.inv(UB)
        rest = {key: value for key, value in raw.items() if key not in ("UB", "u", "v")}
        return rest | {"u": inverse[:, 2].tolist(), "v": inverse[:, 0].tolist()}

    @property
    def made_of(self) -> Isotopes:
        """Isotopes by species; empty where all are as the structure has them."""
        return self.isotopes or {}

    @field_validator("supercell")
    @classmethod
    def _three_or_nine(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and len(value) not in (3, 9):
            raise expected("three or nine whole numbers, e.g. [2, 2, 1]. Correct them.")
        return value

    @field_validator("u")
    @classmethod
    def _not_zero(cls, value: Vector) -> Vector:
        if not any(value):
            raise expected("a direction, not the zero vector. Give the hkl along the beam.")
        return value

    @field_validator("v")
    @classmethod
    def _spans_a_plane(cls, value: Vector, info: ValidationInfo) -> Vector:
        u = info.data.get("u")
        if u is not None:
            length = np.linalg.norm(u) * np.linalg.norm(value)
            if np.linalg.norm(np.cross(u, value)) <= 1e-6 * length:
                raise expected(
                    f"a direction that is not parallel to u = {list(u)}. "
                    "Give another hkl of the horizontal plane."
                )
        return value
