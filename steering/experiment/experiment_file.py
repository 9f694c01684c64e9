"""The only reader and writer of ``experiment.yaml``, the single input of every command."""

from __future__ import annotations

import difflib
import re
import stat
from collections.abc import Collection, Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML

from consumers.transport import SourceSection
from simulations.crystal import SampleSection
from simulations.dynamics import ParametersSection
from simulations.errors import InputError
from simulations.fold import BackgroundSection
from simulations.instrument import InstrumentSection
from simulations.likelihood import MissettingSection, QSpreadSection
from simulations.reciprocal import PathSection
from simulations.saved_file import write_whole
from simulations.section import Section, Text, expected
from simulations.virtual import VirtualSection
from steering.experiment.alarms import AlarmsSection
from steering.experiment.draft import Draft
from steering.experiment.motion import MotionSection
from steering.experiment.targets import TargetsSection
from steering.experiment.todo import WORD, Todo, covers, filled, todos_in

MAX_BYTES = 1_000_000
LARGEST_VALUES = 100_000


class ExperimentError(InputError):
    """An experiment file that cannot be used; one line per fault, each with file and field."""


class TodoError(ExperimentError):
    """An experiment file that leaves open what is needed; one line per value, with its line."""

    def __init__(self, message: str, todos: tuple[Todo, ...]) -> None:
        super().__init__(message)
        self.todos = todos


class Experiment(Section):
    """Everything that a command needs to know about one experiment."""

    title: Text = Field(description="a line that names the experiment")
    sample: SampleSection
    instrument: InstrumentSection
    path: PathSection
    parameters: ParametersSection
    motion: MotionSection = MotionSection()
    targets: TargetsSection = TargetsSection()
    model: Text | None = Field(
        default=None, description="name of a model bundle, its folder or https address, or null"
    )
    source: SourceSection = SourceSection()
    background: BackgroundSection = BackgroundSection()
    missetting: MissettingSection = MissettingSection()
    q_spread: QSpreadSection = QSpreadSection()
    virtual: VirtualSection = VirtualSection()
    alarms: AlarmsSection = AlarmsSection()

    @field_validator("path")
    @classmethod
    def _reachable(cls, value: PathSection, info: ValidationInfo) -> PathSection:
        instrument = info.data.get("instrument")
        if instrument is not None and value.energy.min_meV >= instrument.ei_meV:
            raise expected(
                f"an energy axis that starts below instrument.ei_meV = {instrument.ei_meV:g}. "
                "Lower path.energy.min_meV."
            )
        return value


def load_experiment(path: Path | str, *, spared: Collection[str] = ()) -> Experiment:
    """Read and check one experiment file.

    Parameters
    ----------
    path : Path or str
        YAML text; ``1e3`` is a number, a key may come once.
    spared : collection of str
        Sections or fields that the caller can do without: where they read ``TODO``, something
        stands in.

    Raises
    ------
    TodoError
        If another value reads ``TODO``: file, line, field, what was expected, what to do.
    ExperimentError
        With one line per fault: file, field, value, what was expected, what to do.
    """
    path = Path(path)
    return parse_experiment(_text_of(path), name=path.name, spared=spared)


def load_for_folding(path: Path | str, *, powder: bool = False) -> Experiment:
    """Read an experiment file of which only the fold is asked, so the rest may be left open.

    Parameters
    ----------
    path : Path or str
    powder : bool
        Whether onto the length of Q, where neither mount nor temperature plays a part.

    Raises
    ------
    ExperimentError
        As :func:`load_experiment`.
    """
    spared = ("motion", "targets", "parameters", "instrument.resolution")
    mount = ("sample.u", "sample.v", "sample.psi_offset_deg", "sample.temperature_K")
    return load_experiment(path, spared=(*spared, *(mount if powder else ())))


def todos_of(path: Path | str) -> tuple[Todo, ...]:
    """Values of an experiment file that read ``TODO``, in the order of their lines.

    Raises
    ------
    ExperimentError
        If the file cannot be read or is no YAML.
    """
    path = Path(path)
    return _todos(_text_of(path), path.name)


def _text_of(path: Path) -> str:
    name = path.name
    try:
        told = path.stat()
        if not stat.S_ISREG(told.st_mode) and not stat.S_ISDIR(told.st_mode):
            raise ExperimentError(  # a pipe that nobody feeds would be waited for
                f"{path}: is no plain file; expected an experiment file. Correct the path."
            )
        size = told.st_size
        if size > MAX_BYTES:
            raise ExperimentError(
                f"{name}: holds {size} bytes; expected an experiment file of at most {MAX_BYTES}. "
                "Give the YAML file, not the data."
            )
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ExperimentError(
            f"{name}: byte {error.start} is not UTF-8 text; expected YAML. "
            "Give the experiment file, not the data."
        ) from error
    except OSError as error:
        raise ExperimentError(
            f"{path}: cannot be read ({error.strerror}); expected an experiment file. "
            "Write one with `beamsteer init FILE`."
        ) from error


def parse_experiment(
    text: str, *, name: str = "experiment.yaml", spared: Collection[str] = ()
) -> Experiment:
    """Check the text of an experiment file; ``name`` goes into the error lines."""
    try:
        raw = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader with two additions)
        todos = _todos(text, name)
    except yaml.YAMLError as error:
        raise ExperimentError(f"{name}: {_yaml_fault(error)}") from error
    except RecursionError as error:
        raise ExperimentError(f"{name}: nested too deeply; expected an experiment.") from error
    if _holds_more_than(LARGEST_VALUES, raw):
        raise ExperimentError(
            f"{name}: holds more than {LARGEST_VALUES} values once its aliases are written out; "
            "expected an experiment. Write values in place of aliases."
        )
    if not isinstance(raw, dict):
        raise ExperimentError(
            f"{name}: is {_shown(raw)}; expected fields such as title, sample and instrument. "
            "Start from one of the examples."
        )
    needed = tuple(todo for todo in todos if not covers(spared, todo))
    if needed:
        raise TodoError("\n".join(_todo_line(todo, name) for todo in needed), needed)
    return checked_experiment(filled(raw, todos), name=name)


def _holds_more_than(count: int, value: Any) -> bool:
    """Whether a value of lists and mappings holds more than so many, shared ones each time."""
    rest, seen = [value], 0
    while rest and seen <= count:
        one = rest.pop()
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        seen += len(inner)
        rest.extend(inner)
    return seen > count


def checked_experiment(raw: Mapping[str, Any], *, name: str) -> Experiment:
    """Experiment of plain values by section and field; ``name`` goes into the error lines.

    Raises
    ------
    ExperimentError
        With one line per fault.
    """
    try:
        return Experiment.model_validate(raw)
    except ValidationError as error:
        lines = [_line(detail, raw) for detail in error.errors(include_url=False)]
        raise ExperimentError("\n".join(f"{name}: {line}" for line in lines)) from error


def _todos(text: str, name: str) -> tuple[Todo, ...]:
    if WORD not in text:
        return ()
    try:
        return todos_in(yaml.compose(text, Loader=_Loader))
    except yaml.YAMLError as error:
        raise ExperimentError(f"{name}: {_yaml_fault(error)}") from error


def _todo_line(todo: Todo, name: str) -> str:
    """One open value as ``line: field is TODO; expected this. Do that.``."""
    loc = tuple(todo.field.split("."))
    model: type[BaseModel] | None = Experiment
    for part in loc[:-1]:
        model = _section_of(model, part)
    wanted = _description(model, loc[-1:]) or "a value"
    return f"{name}: line {todo.line}: {todo.field} is TODO; expected {wanted}. {_remedy(todo)}"


def _remedy(todo: Todo) -> str:
    if todo.alignment:
        return "Fill it in, or let `beamsteer align --correct` find it."
    if todo.field == "parameters.prior":
        return "Make one with `beamsteer prior STRUCTURE -o prior.yaml` and name that file."
    return "Fill it in."


def dump_experiment(experiment: Experiment, path: Path | str | None = None) -> str:
    """Return the experiment as YAML that loads to an equal value, and write it to ``path``."""
    text = yaml.dump(
        experiment.model_dump(mode="json"),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )
    if path is not None:
        write_whole(path, text)
    return text


def write_draft(draft: Draft, path: Path | str) -> None:
    """Write a drafted experiment with its comments.

    Raises
    ------
    ExperimentError
        If the draft, but for what it leaves open, is no experiment.
    """
    path = Path(path)
    parse_experiment(draft.text, name=path.name, spared=tuple(Experiment.model_fields))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, draft.text)


def write_amended(
    path: Path | str, output: Path | str, changes: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write an experiment file with other values, its comments and open ``TODO`` as they were.

    Parameters
    ----------
    path : Path or str
        The file to start from.
    output : Path or str
        May be the same.
    changes : mapping of str to mapping
        Values by section and field.
    """
    rounds = YAML()
    rounds.preserve_quotes = True
    rounds.width = 4096
    rounds.indent(mapping=2, sequence=4, offset=2)
    document = rounds.load(_text_of(Path(path)))
    for section, values in changes.items():
        if document.get(section) is None:
            document[section] = {}
        for name, value in values.items():
            many = isinstance(value, list | tuple)
            document[section][name] = _in_one_line(rounds, value) if many else value
        if document[section].get("UB") is not None and "u" in values:
            del document[section]["UB"]
    text = StringIO()
    rounds.dump(document, text)
    write_whole(output, text.getvalue())


def _in_one_line(rounds: YAML, value: Iterable[Any]) -> Any:
    shown = ", ".join(repr(float(x)) if isinstance(x, float) else str(x) for x in value)
    return rounds.load(f"[{shown}]")


# What may name a file beside the experiment's, by section.
_FILES = (
    ("sample", "structure"),
    ("sample", "force_constants"),
    ("instrument", "name"),
    ("instrument", "mask"),
    ("instrument", "vanadium"),
    ("parameters", "prior"),
    ("background", "can"),
    ("alarms", "urls_file"),
)


def with_absolute_files(experiment: Experiment, folder: Path) -> Experiment:
    """Return the experiment with the files it names made absolute, to be kept elsewhere.

    Parameters
    ----------
    experiment : Experiment
    folder : Path
        Where its relative paths start from.
    """
    for section, field in _FILES:
        values = getattr(experiment, section)
        name = getattr(values, field)
        if not isinstance(name, str) or Path(name).is_absolute():
            continue
        path = (folder / name).resolve()
        there = any(folder.glob(name)) if any(c in name for c in "*?[") else path.is_file()
        if there:
            changed = values.model_copy(update={field: str(path)})
            experiment = experiment.model_copy(update={section: changed})
    return experiment


def files_made_absolute(path: Path) -> dict[str, dict[str, str]]:
    """Absolute paths of the files that an experiment file names, by section and field.

    Parameters
    ----------
    path : Path
        The experiment file; what it leaves open is passed over.
    """
    before = load_experiment(path, spared=tuple(Experiment.model_fields))
    after = with_absolute_files(before, path.parent)
    found: dict[str, dict[str, str]] = {}
    for section, field in _FILES:
        name = getattr(getattr(after, section), field)
        if name != getattr(getattr(before, section), field):
            found.setdefault(section, {})[field] = name
    return found


def files_named(experiment: Experiment, folder: Path) -> dict[tuple[str, str], list[Path]]:
    """Files that the experiment names and that are there, by section and field, sorted.

    Parameters
    ----------
    experiment : Experiment
    folder : Path
        Where its relative paths start from.
    """
    found: dict[tuple[str, str], list[Path]] = {}
    for section, field in _FILES:
        name = getattr(getattr(experiment, section), field)
        if not isinstance(name, str):
            continue
        path = folder / name
        if any(c in name for c in "*?["):
            paths = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
        else:
            paths = [path] if path.is_file() else []
        if paths:
            found[section, field] = paths
    return found


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e3 as a number and 22:00 as text, and refuses a key that comes twice."""


class _Dumper(yaml.SafeDumper):
    """YAML with short lists on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"{key.value} comes twice; expected once. Remove one", key.start_mark
            )
        seen.add(str(key.value))
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float | str:
    if ":" in node.value:
        return str(node.value)  # 22:00, which older YAML takes for 1320
    read = loader.construct_yaml_int if node.tag.endswith(":int") else loader.construct_yaml_float
    value: int | float = read(node)
    return value


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _number)
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


def _sequence(dumper: yaml.SafeDumper, data: Iterable[Any]) -> yaml.Node:
    items = list(data)
    flat = all(not isinstance(item, dict | list) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flat)


_Dumper.add_representer(list, _sequence)


def _yaml_fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    step = "" if "expected" in problem else " Mend the YAML there."
    return f"{where}{problem}.{step}"


def _line(detail: ErrorDetails, raw: Any) -> str:
    """One fault as ``field is value; expected this. Do that.``."""
    field, value, model = _located(detail["loc"], raw)
    if field.startswith("alarms"):
        value = _without_secrets(value, known=detail["type"] != "extra_forbidden")
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "expectation":
        return f"{field} is {_shown(value)}; expected {context['expectation']}"
    if kind == "extra_forbidden":
        key = str(detail["loc"][-1])
        known = sorted(model.model_fields) if model else []
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
        if not near:
            stems = {name.split("_")[0]: name for name in known}
            near = [stems[key.split("_")[0]]] if key.split("_")[0] in stems else []
        advice = f"Did you mean {near[0]}?" if near else f"Known fields here: {', '.join(known)}."
        return f"{field} is {_shown(value)}; expected no such field. {advice}"
    description = _description(model, detail["loc"])
    if kind == "missing":
        return f"{field} is missing; expected {description or 'a value'}. Add it."
    wanted = _wanted(kind, context, detail["msg"])
    if description:
        wanted += f" ({description})"
    return f"{field} is {_shown(value)}; expected {wanted}."


def _located(loc: tuple[int | str, ...], raw: Any) -> tuple[str, Any, type[BaseModel] | None]:
    """Field path, its value, and the section that holds it; parts of ``loc`` that are tags fall."""
    field, value, model = "", raw, Experiment
    holder: type[BaseModel] | None = Experiment
    for depth, part in enumerate(loc):
        last = depth == len(loc) - 1
        if isinstance(part, int) and isinstance(value, list | tuple):
            if part >= len(value):
                return f"{field}[{part}]", None, holder
            field, value = f"{field}[{part}]", value[part]
        elif isinstance(value, dict) and (part in value or last):
            holder = model
            field = f"{field}.{part}" if field else str(part)
            value = value.get(part)
            model = _section_of(holder, str(part))
            if last:
                return field, value, holder
    return field, value, holder


def _section_of(holder: type[BaseModel] | None, name: str) -> type[BaseModel] | None:
    if holder is None or name not in holder.model_fields:
        return None
    return _model_in(holder.model_fields[name].annotation)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _model_in(inner)
        if found is not None:
            return found
    return None


def _description(model: type[BaseModel] | None, loc: tuple[int | str, ...]) -> str:
    """Description of the innermost field that ``loc`` names."""
    for part in reversed(loc):
        if model is not None and part in model.model_fields:
            info = model.model_fields[str(part)]
            section = _model_in(info.annotation)
            if info.description:
                return info.description
            return f"a section with {', '.join(section.model_fields)}" if section else ""
    return ""


_WANTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "string_type": "text",
    "string_too_short": "some text",
    "bool_type": "true or false",
    "dict_type": "fields with values",
    "model_type": "a section with fields",
    "model_attributes_type": "a section with fields",
    "tuple_type": "a list",
    "list_type": "a list",
    "finite_number": "a finite number",
}


def _wanted(kind: str, context: dict[str, Any], message: str) -> str:
    if kind in _WANTED:
        return _WANTED[kind]
    if kind == "literal_error":
        return str(context["expected"])
    for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
        if name in context:
            return f"a number {sign} {context[name]:g}"
    if kind == "missing":
        return "a value"
    return message[:1].lower() + message[1:]


def _without_secrets(value: Any, *, known: bool) -> Any:
    """What errors may show of a value that may hold the URL of a receiver, or its password."""
    if isinstance(value, str):
        return re.sub(r"://.*", "://...", value) if known else "..."
    return "..." if isinstance(value, list | tuple | dict) else value


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    text = repr(list(value)) if isinstance(value, tuple) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
