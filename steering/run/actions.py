"""What people ask of a run: actions, and the orders that all of them together are.

An action is one thing that somebody asked for, with who, when and why. `Orders` are a function of
the actions in their order and of nothing else, so a worker that starts again has the same ones. An
answer of a run is a function of its chunks and of its orders:

- a chunk that is withdrawn is left out as if it had never come;
- targets and budget stand in the place of those of the experiment file;
- a vetoed orientation is never advised; a pinned one comes first until it was measured; a decision
  about an advice holds until the next chunk;
- a closed run takes nothing more, is advised nothing, and takes no action but to be opened again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from simulations.errors import InputError

LONGEST_NAME, LONGEST_WHY = 80, 500
SAME_DEG = 0.05  # orientations that differ by less are one
Applier = Literal["consume", "model-server"]
ActionWay = Literal["page", "api", "cli"]
Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)


class ConflictError(InputError):
    """An action does not fit what the run is now; who asks should look again."""


def _one_line(text: str) -> str:
    text = text.strip()
    if not text or not text.isprintable():
        raise ValueError("expected one line of text, without control characters")
    return text


ReasonLine = Annotated[str, Field(min_length=1, max_length=LONGEST_WHY), AfterValidator(_one_line)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_one_line)]
PersonName = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_one_line)]
Psi = Annotated[float, Field(ge=-720, le=720, allow_inf_nan=False)]
Wanted = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Minutes = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# --- what may be asked for ---------------------------------------------------------------------


class Withdraw(_Value):
    """Leave a chunk out of fold and estimate."""

    what: Literal["withdraw"]
    chunk: Name


class Restore(_Value):
    """Take a withdrawn chunk in again."""

    what: Literal["restore"]
    chunk: Name


class SetTargets(_Value):
    """Want other standard deviations; what is null is as the experiment file says."""

    what: Literal["targets"]
    relative_sigma: Wanted | None = Field(default=None, description="of every parameter")
    per_parameter: dict[Name, Wanted] | None = Field(
        default=None, description="of single ones, by name; in the place of all single ones before"
    )


class SetBudget(_Value):
    """Plan other beam minutes; null: as the experiment file says."""

    what: Literal["budget"]
    minutes: Minutes | None


class Pin(_Value):
    """Advise an orientation first, until it was measured."""

    what: Literal["pin"]
    psi_deg: Psi


class Unpin(_Value):
    """Undo a pin."""

    what: Literal["unpin"]
    psi_deg: Psi


class Veto(_Value):
    """Never advise an orientation, nor those near it."""

    what: Literal["veto"]
    psi_deg: Psi
    within_deg: Annotated[float, Field(ge=0, le=180, allow_inf_nan=False)] = Field(
        default=0.5, description="how far orientations are vetoed with it"
    )


class Unveto(_Value):
    """Undo a veto."""

    what: Literal["unveto"]
    psi_deg: Psi


class Approve(_Value):
    """Say yes to an advice: it comes first until the next chunk."""

    what: Literal["approve"]
    psi_deg: Psi


class Reject(_Value):
    """Say no to an advice: it is not given until the next chunk."""

    what: Literal["reject"]
    psi_deg: Psi


class Close(_Value):
    """End the run: it takes nothing more and is advised nothing."""

    what: Literal["close"]


class Reopen(_Value):
    """Let a closed run go on."""

    what: Literal["reopen"]


Asked = Annotated[
    Withdraw
    | Restore
    | SetTargets
    | SetBudget
    | Pin
    | Unpin
    | Veto
    | Unveto
    | Approve
    | Reject
    | Close
    | Reopen,
    Field(discriminator="what"),
]
ACTION_VERBS = tuple(
    "withdraw restore targets budget pin unpin veto unveto approve reject close reopen".split()
)


def action_words(asked: BaseModel) -> str:
    """An action in a few words."""
    if isinstance(asked, Withdraw | Restore):
        return f"{asked.what} chunk {asked.chunk}"
    if isinstance(asked, SetTargets):
        single = (asked.per_parameter or {}).items()
        every = [] if asked.relative_sigma is None else [f"{asked.relative_sigma:g}"]
        told = ", ".join([*every, *(f"{name} {value:g}" for name, value in single)])
        return f"targets {told or 'of the experiment file'}"
    if isinstance(asked, SetBudget):
        told = "of the experiment file" if asked.minutes is None else f"{asked.minutes:g} min"
        return f"budget {told}"
    if isinstance(asked, Pin | Unpin | Veto | Unveto | Approve | Reject):
        around = f" ± {asked.within_deg:g}" if isinstance(asked, Veto) else ""
        return f"{asked.what} psi {asked.psi_deg:g}{around}"
    return f"{getattr(asked, 'what', '')} the run"


ADMIN_VERBS = ("close", "reopen")


class Moment(_Value):
    """What there was of the run when an action was asked for; it says when a wish is spent."""

    chunks: int = Field(default=0, description="chunks of any kind")
    newest_start_ns: int = Field(default=0, description="start of the newest one, wire time")


class Action(_Value):
    """One thing that somebody asked for: a line of the log."""

    number: int = Field(ge=1, description="1, 2, 3, ... in the order in which they apply")
    at_ns: int = Field(description="when it was asked for, since the Unix epoch")
    by: PersonName = Field(description="who")
    role: Role
    way: ActionWay = Field(description="how")
    asked: Asked
    why: ReasonLine
    moment: Moment = Moment()
    before: Any = Field(default=None, description="what it changed, as it was")
    after: Any = Field(default=None, description="and as it is asked to be")


# --- what all of them ask for ------------------------------------------------------------------


class Pinned(_Value):
    """An orientation that is to be measured next."""

    psi_deg: float
    by: str
    since: Moment


class Vetoed(_Value):
    """Orientations that are not to be advised."""

    psi_deg: float
    within_deg: float
    by: str
    why: str

    def holds(self, psi_deg: float) -> bool:
        """Whether an orientation is one of them."""
        return abs(psi_deg - self.psi_deg) <= self.within_deg + SAME_DEG


class Decision(_Value):
    """Yes or no to an advice."""

    psi_deg: float
    approved: bool
    by: str
    since: Moment


class First(_Value):
    """An orientation that is advised before all others."""

    psi_deg: float
    why: Literal["approved", "pinned"]


class Wishes(_Value):
    """What people want of an answer, as far as it still holds; null: as the experiment says."""

    relative_sigma: float | None = None
    per_parameter: dict[str, float] | None = None
    budget_minutes: float | None = None
    first: tuple[First, ...] = Field(default=(), description="these orientations come first")
    vetoed: tuple[tuple[float, float], ...] = Field(
        default=(), description="psi and how far around it nothing is advised, degrees"
    )
    rejected: tuple[float, ...] = Field(default=(), description="psi, degrees, until a new chunk")
    closed: str | None = Field(default=None, description="why the run is closed; null: it is open")

    def document(self) -> dict[str, Any]:
        """Plain values; what nobody wants is not in it."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def relative(self, name: str, otherwise: float) -> float:
        """Wanted sigma over size of a parameter.

        Parameters
        ----------
        name : str
        otherwise : float
            What the experiment file says.
        """
        single = (self.per_parameter or {}).get(name)
        if single is not None:
            return single
        return otherwise if self.relative_sigma is None else self.relative_sigma

    def allows(self, psi_deg: float) -> bool:
        """Whether an orientation may be advised now."""
        vetoed = any(abs(psi_deg - psi) <= within + SAME_DEG for psi, within in self.vetoed)
        return not vetoed and not _near(self.rejected, psi_deg)


NO_WISHES = Wishes()


class Orders(_Value):
    """What the actions of a run ask for, all together; the same actions give the same orders."""

    number: int = Field(default=0, description="of the last action in them")
    withdrawn: dict[str, str] = Field(default={}, description="chunk: why, and who said so")
    relative_sigma: float | None = Field(default=None, description="null: the experiment file's")
    per_parameter: dict[str, float] | None = None
    budget_minutes: float | None = Field(default=None, description="null: the experiment file's")
    pinned: tuple[Pinned, ...] = ()
    vetoed: tuple[Vetoed, ...] = ()
    decisions: tuple[Decision, ...] = ()
    closed: str | None = Field(default=None, description="why, and who said so; null: it is open")

    def wishes(self, measured: Sequence[tuple[float, int]], chunks: int) -> Wishes:
        """What of them an answer hangs on, beside the chunks that it is made of.

        Parameters
        ----------
        measured : sequence of (psi in degrees, start in ns)
            Of the folded chunks.
        chunks : int
            Of any kind that the run knows of.
        """
        standing = self._standing(chunks)
        first = [First(psi_deg=d.psi_deg, why="approved") for d in standing if d.approved]
        for pin in self.pinned:
            spent = any(
                start_ns > pin.since.newest_start_ns and abs(psi - pin.psi_deg) <= SAME_DEG
                for psi, start_ns in measured
            )
            if not spent and not _near([one.psi_deg for one in first], pin.psi_deg):
                first.append(First(psi_deg=pin.psi_deg, why="pinned"))
        return Wishes(
            relative_sigma=self.relative_sigma,
            per_parameter=self.per_parameter,
            budget_minutes=self.budget_minutes,
            first=tuple(one for one in first if not self.vetoes(one.psi_deg)),
            vetoed=tuple((veto.psi_deg, veto.within_deg) for veto in self.vetoed),
            rejected=tuple(one.psi_deg for one in standing if not one.approved),
            closed=self.closed,
        )

    def vetoes(self, psi_deg: float) -> bool:
        """Whether an orientation is never to be advised."""
        return any(veto.holds(psi_deg) for veto in self.vetoed)

    def _standing(self, chunks: int) -> list[Decision]:
        return [one for one in self.decisions if one.since.chunks >= chunks]

    def with_action(self, action: Action) -> Orders:
        """Orders after one more action."""
        asked = action.asked
        reason = f"{action.why} ({action.by})"
        changed: dict[str, Any] = {"number": action.number}
        if isinstance(asked, Withdraw):
            changed["withdrawn"] = self.withdrawn | {asked.chunk: reason}
        elif isinstance(asked, Restore):
            changed["withdrawn"] = {k: v for k, v in self.withdrawn.items() if k != asked.chunk}
        elif isinstance(asked, SetTargets):
            changed["relative_sigma"] = asked.relative_sigma
            changed["per_parameter"] = asked.per_parameter
        elif isinstance(asked, SetBudget):
            changed["budget_minutes"] = asked.minutes
        elif isinstance(asked, Pin):
            pin = Pinned(psi_deg=asked.psi_deg, by=action.by, since=action.moment)
            changed["pinned"] = (*_away(self.pinned, asked.psi_deg), pin)
        elif isinstance(asked, Unpin):
            changed["pinned"] = _away(self.pinned, asked.psi_deg)
        elif isinstance(asked, Veto):
            veto = Vetoed(
                psi_deg=asked.psi_deg, within_deg=asked.within_deg, by=action.by, why=action.why
            )
            changed["vetoed"] = (*_away(self.vetoed, asked.psi_deg), veto)
        elif isinstance(asked, Unveto):
            changed["vetoed"] = _away(self.vetoed, asked.psi_deg)
        elif isinstance(asked, Approve | Reject):
            decision = Decision(
                psi_deg=asked.psi_deg,
                approved=isinstance(asked, Approve),
                by=action.by,
                since=action.moment,
            )
            # Those before the last chunk are spent; the log keeps them.
            standing = tuple(self._standing(action.moment.chunks))
            changed["decisions"] = (*_away(standing, asked.psi_deg), decision)
        else:
            changed["closed"] = f"closed: {reason}" if isinstance(asked, Close) else None
        return self.model_copy(update=changed)

    def touched(self, asked: BaseModel) -> Any:
        """What an action changes, as plain values: for ``before`` and ``after`` of the log."""
        if isinstance(asked, Withdraw | Restore):
            return "withdrawn" if asked.chunk in self.withdrawn else "folded"
        if isinstance(asked, SetTargets):
            return {"relative_sigma": self.relative_sigma, "per_parameter": self.per_parameter}
        if isinstance(asked, SetBudget):
            return self.budget_minutes
        if isinstance(asked, Pin | Unpin):
            return [one.psi_deg for one in self.pinned]
        if isinstance(asked, Veto | Unveto):
            return [[one.psi_deg, one.within_deg] for one in self.vetoed]
        if isinstance(asked, Approve | Reject):
            return [[one.psi_deg, "yes" if one.approved else "no"] for one in self.decisions]
        return "open" if self.closed is None else "closed"


NO_ORDERS = Orders()


def orders_of(actions: Iterable[Action]) -> Orders:
    """Orders that actions, in their order, ask for."""
    orders = NO_ORDERS
    for action in actions:
        orders = orders.with_action(action)
    return orders


class Scene(_Value):
    """What of a run an action is judged by."""

    folded: tuple[str, ...] = Field(default=(), description="chunks that have a fold")
    limits_deg: tuple[float, float] = (-math.inf, math.inf)
    advised_deg: tuple[float, ...] = ()
    targeted: tuple[str, ...] | None = Field(default=None, description="parameters; null: unknown")
    moment: Moment = Moment()


def refuse_unfit(asked: BaseModel, orders: Orders, scene: Scene) -> None:
    """Refuse an action that does not fit what a run is now.

    Raises
    ------
    ConflictError
        If somebody did it already, or what it undoes is not there, or the run is closed.
    InputError
        If it names a chunk, a parameter or an orientation that the run does not have.
    """
    if orders.closed is not None and not isinstance(asked, Reopen):
        if isinstance(asked, Close):
            raise ConflictError(f"the run is {orders.closed} already; expected an open one.")
        raise ConflictError(
            f"the run is {orders.closed}; it takes no action but to be opened again. Reopen it."
        )
    if isinstance(asked, Withdraw | Restore):
        _refuse_chunk(asked, orders, scene)
    elif isinstance(asked, SetTargets):
        unknown = sorted(set(asked.per_parameter or {}) - set(scene.targeted or ()))
        if unknown and scene.targeted is not None:
            raise InputError(
                f"parameter is {unknown[0]!r}; expected one that has a target: "
                f"{', '.join(scene.targeted) or 'none yet'}."
            )
    elif isinstance(asked, Pin | Unpin | Veto | Unveto | Approve | Reject):
        _refuse_orientation(asked, orders, scene)
    elif isinstance(asked, Reopen) and orders.closed is None:
        raise ConflictError("the run is open; expected a closed one. There is nothing to do.")


def _refuse_chunk(asked: Withdraw | Restore, orders: Orders, scene: Scene) -> None:
    if asked.chunk not in scene.folded:
        raise InputError(f"chunk is {asked.chunk!r}; expected a folded one: {_some(scene.folded)}.")
    told = orders.withdrawn.get(asked.chunk)
    if isinstance(asked, Withdraw) and told is not None:
        raise ConflictError(f"chunk {asked.chunk!r} is withdrawn already: {told}. Look again.")
    if isinstance(asked, Restore) and told is None:
        raise ConflictError(f"chunk {asked.chunk!r} is not withdrawn; expected one that is.")


def _refuse_orientation(
    asked: Pin | Unpin | Veto | Unveto | Approve | Reject, orders: Orders, scene: Scene
) -> None:
    psi = asked.psi_deg
    lower, upper = scene.limits_deg
    if isinstance(asked, Pin | Veto) and not lower <= psi <= upper:
        raise InputError(
            f"psi_deg is {psi:g}; expected {lower:g} to {upper:g} degrees, the limits of motion."
        )
    if isinstance(asked, Approve | Reject) and not _near(scene.advised_deg, psi):
        raise ConflictError(
            f"psi_deg is {psi:g}; expected an orientation that is advised now: "
            f"{_some([f'{one:g}' for one in scene.advised_deg])}. Look again, or pin it."
        )
    if isinstance(asked, Pin | Approve) and orders.vetoes(psi):
        raise ConflictError(f"psi {psi:g} is vetoed; expected one that is not. Undo it first.")
    pinned = [one.psi_deg for one in orders.pinned]
    if isinstance(asked, Pin) and _near(pinned, psi):
        raise ConflictError(f"psi {psi:g} is pinned already; expected another one.")
    if isinstance(asked, Unpin) and not _near(pinned, psi):
        raise ConflictError(f"psi {psi:g} is not pinned; expected one of {_some(pinned)}.")
    vetoed = [one.psi_deg for one in orders.vetoed]
    if isinstance(asked, Veto):
        new = Vetoed(psi_deg=psi, within_deg=asked.within_deg, by="-", why="-")
        held = [one for one in pinned if new.holds(one)]
        if held:
            raise ConflictError(f"psi {held[0]:g} is pinned; expected no pin there. Undo it first.")
    if isinstance(asked, Unveto) and not _near(vetoed, psi):
        raise ConflictError(f"no veto is of psi {psi:g}; expected one of {_some(vetoed)}.")


_Placed = TypeVar("_Placed", Pinned, Vetoed, Decision)


def _away(those: tuple[_Placed, ...], psi_deg: float) -> tuple[_Placed, ...]:
    return tuple(one for one in those if abs(one.psi_deg - psi_deg) > SAME_DEG)


def _near(those: Iterable[float], psi_deg: float) -> bool:
    return any(abs(one - psi_deg) <= SAME_DEG for one in those)


def _some(names: Sequence[object]) -> str:
    shown = ", ".join(str(name) for name in names[:20])
    return (shown or "none") + (", ..." if len(names) > 20 else "")
