"""The base of every section of an experiment file, and the field types that sections share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError


def expected(expectation: str) -> PydanticCustomError:
    """Error that says what a field should have been and what to do, e.g. ``lower < upper``.

    The reader of the file (``steering.experiment.experiment_file``) puts file, field and value
    before it.
    """
    return PydanticCustomError("expectation", "{expectation}", {"expectation": expectation})


def _printable(value: str) -> str:
    if not value.isprintable():
        raise expected("text on one line, without control characters. Remove them.")
    return value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]
NotNegative = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0)]
Count = Annotated[int, Field(strict=True, ge=1)]
SpreadAngle = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=5)]
"""Standard deviation of an angle, degrees."""
PixelLength = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, lt=0.5)]
"""Width or height of a pixel, metre."""
Text = Annotated[str, Field(strict=True, min_length=1), AfterValidator(_printable)]
Vector = tuple[Number, Number, Number]
"""Three numbers; in r.l.u. of the conventional cell unless its field says otherwise."""


class Section(BaseModel):
    """A section of an experiment file: immutable, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
