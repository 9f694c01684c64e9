"""The path section of an experiment file: the high-symmetry path and its bins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from simulations.section import Count, Number, Positive, Section, Text, Vector, expected


class PathPoint(Section):
    """A labelled point of the path."""

    label: Text = Field(description="the point's name, e.g. Gamma")
    hkl: Vector = Field(description="three numbers, r.l.u. of the conventional cell")


MOST_BINS = 5000  # along the path or energy: more than any map shows


class EnergySection(Section):
    """Energy bins of the folded spectrum."""

    min_meV: Number = Field(default=0.0, description="lower edge of the first bin, meV")
    max_meV: Number = Field(description="upper edge of the last bin, meV")
    bins: Count = Field(le=MOST_BINS, description="number of energy bins, 1 or more")
    substeps: Count = Field(
        default=4, le=100, description="energy steps per bin of the map, 4 or more"
    )

    @field_validator("max_meV")
    @classmethod
    def _above_min(cls, value: float, info: ValidationInfo) -> float:
        lower = info.data.get("min_meV")
        if lower is not None and value <= lower:
            raise expected(f"more than min_meV = {lower:g}. Swap or widen the two.")
        return value

    @field_validator("substeps")
    @classmethod
    def _fine_enough(cls, value: int) -> int:
        if value < 4:
            raise expected("at least 4: fewer let S and D land in different cells. Use 4.")
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A straight piece of the path; hkl in r.l.u. of the conventional cell."""

    start_label: str
    start_hkl: tuple[float, float, float]
    end_label: str
    end_hkl: tuple[float, float, float]
    bins: int


def _points_kind(value: Any) -> str:
    return "automatic" if isinstance(value, str) else "explicit"


class PathSection(Section):
    """Where the fold looks: tubes around straight segments between high-symmetry points."""

    points: Annotated[
        Annotated[Literal["seekpath"], Tag("automatic")]
        | Annotated[tuple[PathPoint | None, ...], Tag("explicit")],
        Discriminator(_points_kind),
    ] = Field(
        default="seekpath",
        description="`seekpath`, or a list of {label, hkl} with null where the path breaks",
    )
    bins: tuple[Count, ...] | None = Field(
        default=None, description="one whole number per segment; absent: from step_rlu"
    )
    step_rlu: Positive = Field(
        default=0.025, description="bin length in a segment's leading component, r.l.u."
    )
    half_width_rlu: Positive = Field(
        default=0.05, le=1.0, description="radius of the tubes, r.l.u."
    )
    voxel_rlu: Positive = Field(default=0.025, ge=0.001, description="edge of a map voxel, r.l.u.")
    energy: EnergySection

    @field_validator("points")
    @classmethod
    def _has_segments(cls, value: Any) -> Any:
        if value == "seekpath":
            return value
        if not _pairs(value):
            raise expected("at least two points in a row. Add points, or write seekpath.")
        for start, end in _pairs(value):
            if start.hkl == end.hkl:
                raise expected(
                    f"neighbours that differ, but {start.label} and {end.label} are both "
                    f"{list(start.hkl)}. Remove one."
                )
        return value

    @field_validator("bins")
    @classmethod
    def _one_per_segment(
        cls, value: tuple[int, ...] | None, info: ValidationInfo
    ) -> tuple[int, ...] | None:
        points = info.data.get("points")
        if value is not None and sum(value) > MOST_BINS:
            raise expected(f"at most {MOST_BINS} bins together. Take fewer.")
        if value is None or points is None:
            return value
        if points == "seekpath":
            raise expected("no bins beside `points: seekpath`. Use step_rlu to set their length.")
        segments = len(_pairs(points))
        if len(value) != segments:
            raise expected(
                f"{segments} numbers, one per segment of points. Add or remove "
                f"{abs(segments - len(value))}."
            )
        return value

    @field_validator("voxel_rlu")
    @classmethod
    def _inside_the_tube(cls, value: float, info: ValidationInfo) -> float:
        half_width = info.data.get("half_width_rlu")
        if half_width is not None and value > half_width:
            raise expected(f"at most half_width_rlu = {half_width:g}. Make the voxels smaller.")
        return value

    def segments(self) -> tuple[Segment, ...] | None:
        """Straight pieces of explicit points; None where seekpath is to choose them."""
        if self.points == "seekpath":
            return None
        pairs = _pairs(self.points)
        bins = self.bins or tuple(
            max(1, round(_leading(start.hkl, end.hkl) / self.step_rlu)) for start, end in pairs
        )
        return tuple(
            Segment(
                start_label=start.label,
                start_hkl=start.hkl,
                end_label=end.label,
                end_hkl=end.hkl,
                bins=n,
            )
            for (start, end), n in zip(pairs, bins, strict=True)
        )


def _pairs(points: tuple[PathPoint | None, ...]) -> list[tuple[PathPoint, PathPoint]]:
    return [
        (start, end)
        for start, end in zip(points, points[1:], strict=False)
        if start is not None and end is not None
    ]


def _leading(start: Vector, end: Vector) -> float:
    return max(abs(b - a) for a, b in zip(start, end, strict=True))
