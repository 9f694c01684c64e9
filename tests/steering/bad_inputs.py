"""A corpus of bad inputs of the command line and of the API, each with what its answer must name.

A command is bad by a path that is none of the kind wanted (every place of a path with every kind of
bad path), by a value, or by options that do not go together; a request by its path, parameters or
body. Structures, wire messages and recorded files of bad *content* have corpora of their own:
``tests/steering/test_cli.py``, ``tests/consumers/hostile_messages.py`` and ``hostile_files.py``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "ge-arcs.yaml"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BadCommand:
    """A command that must end with 2 or 75, in words."""

    name: str
    arguments: tuple[str, ...]  # with {folder} for the folder of :func:`lay_out`
    says: tuple[str, ...]  # all of which the answer holds


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRequest:
    """A request that must be answered with a status of 4xx, in words."""

    name: str
    method: str
    path: str
    says: tuple[str, ...]
    status: tuple[int, ...] = (422,)
    body: object = None
    raw: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()


PATHS = {
    "nothing": "missing.x",
    "a folder": "folder.x",
    "0 bytes": "empty.x",
    "a pipe that nobody feeds": "pipe.x",
    "a link to itself": "loop.x",
    "bytes that are no text": "latin.x",
    "a device": "/dev/null",
    "a name with a line end": "odd\nname.x",
    "a name that is too long": "n" * 300,
    "below a file": "empty.x/inner.x",
}
"""Kinds of bad path; each is no experiment, recording, structure, state, store, result or tape."""

PLACES = {
    "simulate": ("simulate", "{bad}", "-o", "{folder}/out"),
    "replay -e": ("replay", "{folder}/empty.x", "-e", "{bad}", "-o", "{folder}/out"),
    "replay": ("replay", "{bad}", "-e", str(EXAMPLE), "-o", "{folder}/out"),
    "fold": ("fold", "{bad}", "-e", str(EXAMPLE), "-o", "{folder}/out"),
    "fold -e": ("fold", "{folder}/empty.x", "-e", "{bad}", "-o", "{folder}/out"),
    "inspect": ("inspect", "{bad}"),
    "init": ("init", "{bad}", "-o", "{folder}/new.yaml"),
    "align": ("align", "{bad}", "-s", "germanium"),
    "align -e": ("align", "{folder}/empty.x", "-e", "{bad}"),
    "estimate": ("estimate", "{bad}", "-e", str(EXAMPLE)),
    "estimate -e": ("estimate", "{folder}/empty.x", "-e", "{bad}"),
    "phonons": ("phonons", "{bad}"),
    "spectrum": ("spectrum", "vision", "{bad}"),
    "prior": ("prior", "{bad}"),
    "predict": ("predict", "{bad}"),
    "plan": ("plan", "{bad}", "--instrument", "ARCS", "--ei", "40"),
    "plan -e": ("plan", "-e", "{bad}"),
    "invert-powder": ("invert-powder", "{bad}"),
    "database build": ("database", "build", "{bad}", "-o", "{folder}/store"),
    "database search": ("database", "search", "{bad}"),
    "database show": ("database", "show", "{bad}", "mp-149"),
    "phonons --database": ("phonons", "mp-149", "--database", "{bad}"),
    "report": ("report", "{bad}"),
    "serve --people": ("serve", "{folder}/folder.x", "--port", "0", "--check", "--people", "{bad}"),
    "alarms": ("alarms", "{bad}"),
    "act": ("act", "{bad}"),
    "status": ("status", "{bad}"),
    "consume": ("consume", "{bad}", "-o", "{folder}/out", "--health-port", "0"),
    "consume --tape": ("consume", str(EXAMPLE), "--tape", "{bad}", "-o", "{folder}/out"),
    "record -e": ("record", "-e", "{bad}", "-o", "{folder}/tape", "--messages", "1"),
    "model-server": ("model-server", "{bad}", "--once"),
    "model-server -e": ("model-server", "{folder}/folder.x", "-e", "{bad}", "--once"),
    "train": ("train", "{bad}", "-o", "{folder}/out"),
    "doctor -e": ("doctor", "-e", "{bad}"),
    "backup": ("backup", "{bad}", "-o", "{folder}/b.tar"),
    "restore": ("restore", "{bad}", "{folder}/restored"),
}
"""Where a path is wanted."""


def lay_out(folder: Path) -> None:
    """Make the bad paths in an empty folder."""
    (folder / "folder.x").mkdir()
    (folder / "empty.x").touch()
    (folder / "odd\nname.x").write_text("neither\nhere nor there\n")
    (folder / "latin.x").write_bytes(b"title: \xe9\xff\xfe\n")
    (folder / "loop.x").symlink_to(folder / "loop.x")
    os.mkfifo(folder / "pipe.x")
    for name, (text, _) in bad_experiments().items():
        (folder / name).write_text(text)


NOT_BAD = {
    ("serve --people", "0 bytes"),  # nobody is named yet
    ("serve --people", "a device"),  # refused, or empty: as the system has it
}
"""Places where such a path is no bad input."""


def bad_paths() -> list[BadCommand]:
    """Every place of a path with every kind of bad path."""
    found = []
    for place, arguments in PLACES.items():
        for kind, path in PATHS.items():
            if (place, kind) in NOT_BAD:
                continue
            bad = path if path.startswith("/") else "{folder}/" + path
            said = "name.x" if "\n" in path else Path(path).name[:20]
            found.append(
                BadCommand(
                    name=f"{place}: {kind}",
                    arguments=tuple(word.replace("{bad}", bad) for word in arguments),
                    says=(said,),
                )
            )
    return found


FIELDS = {
    "limits_deg: [0, 120]": {
        "limits_deg: [120, 0]": "Swap the two",
        "limits_deg: [0, .nan]": "limits_deg",
        "limits_deg: [-.inf, .inf]": "limits_deg",
        "limits_deg: 120": "a list",
        "limits_deg: [0, 60, 120]": "limits_deg",
        "limits_deg: [zero, one]": "a number",
    },
    "ei_meV: 40": {
        "ei_meV: -40": "instrument.ei_meV",
        "ei_meV: 0": "instrument.ei_meV",
        "ei_meV: .nan": "instrument.ei_meV",
        "ei_meV: 1e999": "instrument.ei_meV",
        "ei_meV: 40 eV": "a number",
        "ei_meV: true": "instrument.ei_meV",
        "ei_meV: [40]": "instrument.ei_meV",
        "ei_meV: TODO": "TODO",
        "ei_eV: 0.04": "ei_eV",
        "ei_meV: 40\n  ei_meV: 50": "line 11",
        "ei_meV: 40, 50": "instrument.50",
    },
    "temperature_K: 5": {
        "temperature_K: -5": "temperature_K",
        "temperature_K: .inf": "temperature_K",
        "temperature_K: cold": "temperature_K",
        "temperature_C: -268": "temperature_C",
    },
    "half_width_rlu: 0.05": {
        "half_width_rlu: 0": "half_width_rlu",
        "half_width_rlu: -1": "half_width_rlu",
        "half_width_rlu: 1e9": "half_width_rlu",
    },
}
"""What stands in the example, what takes its place, and what the answer says."""


def bad_experiments() -> dict[str, tuple[str, str]]:
    """Experiment files by name, each with what the answer says."""
    text = EXAMPLE.read_text(encoding="utf-8")
    found: dict[str, tuple[str, str]] = {}
    for i, (there, others) in enumerate(FIELDS.items()):
        assert text.count(there) == 1, there
        for j, (other, says) in enumerate(others.items()):
            found[f"field-{i}-{j}.yaml"] = text.replace(there, other), says
    found["bomb.yaml"] = BOMB, "bomb.yaml"
    found["tag.yaml"] = "title: !!python/object/apply:os.system ['true']\n", "tag.yaml"
    found["deep.yaml"] = "a: " + "[" * 3000 + "\n", "deep.yaml"
    found["list.yaml"] = "- 1\n- 2\n", "list.yaml"
    found["number.yaml"] = "42\n", "number.yaml"
    found["tab.yaml"] = "title:\n\t- x\n", "tab.yaml"
    found["nul.yaml"] = "title: a\0b\n", "nul.yaml"
    found["two.yaml"] = f"{text}\n---\n{text}", "two.yaml"
    found["anchor.yaml"] = "title: *nobody\n", "anchor.yaml"
    found["self.yaml"] = "title: &a [*a]\n", "self.yaml"
    found["huge.yaml"] = "# " + "x" * 3_000_000, "huge.yaml"
    found["key.yaml"] = text + "\nspeed_of_light: 3e8\n", "speed_of_light"
    found["json.yaml"] = '{"title": "x"', "json.yaml"
    return found


VALUES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    # ports, seeds, counts, times
    (("serve", "{folder}/folder.x", "--port", "-1"), ("--port", "equal to 0")),
    (("serve", "{folder}/folder.x", "--port", "65536"), ("--port", "equal to 65535")),
    (("serve", "{folder}/folder.x", "--port", "http"), ("--port", "integer")),
    (("serve", "{folder}/folder.x", "--port", "1e3"), ("--port", "integer")),
    (("serve", "{folder}/folder.x", "--port", "9" * 400), ("--port",)),
    (("serve", "{folder}/folder.x", "--host", "0.0.0.0", "--check"), ("BEAMSTEER_TOKEN",)),  # noqa: S104
    (("serve", "{folder}/folder.x", "--token", "short", "--check"), ("16",)),
    (("serve", "{folder}/folder.x", "--host", "no.such.host.invalid", "--check"), ("host",)),
    (("demo", "--seed", "-1"), ("--seed", "equal to 0")),
    (("demo", "--port", "99999"), ("--port",)),
    (("demo", "-o", "{folder}/empty.x/inner"), ("empty.x",)),
    (("doctor", "--port", "0"), ("--port", "equal to 1")),
    (
        ("train", str(EXAMPLE), "-o", "{folder}/out", "--spectra", "3"),
        ("--spectra", "equal to 100"),
    ),
    (("train", str(EXAMPLE), "-o", "{folder}/out", "--epochs", "0"), ("--epochs", "equal to 1")),
    (("simulate", str(EXAMPLE), "-o", "{folder}/out", "--minutes", "-1"), ("--minutes",)),
    (("simulate", str(EXAMPLE), "-o", "{folder}/out", "--minutes", "nan"), ("--minutes",)),
    (("simulate", str(EXAMPLE), "-o", "{folder}/out", "--minutes", "inf"), ("minutes",)),
    (("simulate", str(EXAMPLE), "-o", "{folder}/out", "--psi", "1,nan"), ("psi",)),
    (("simulate", str(EXAMPLE), "-o", "{folder}/out", "--psi", "0:1e9:1e-9"), ("psi",)),
    (("simulate", str(EXAMPLE), "-o", "{folder}/out", "--format", "hdf4"), ("hdf4", "nxspe")),
    (("simulate", str(EXAMPLE), "-o", "{folder}/empty.x", "--psi", "0"), ("empty.x",)),
    (("simulate", str(EXAMPLE)), ("--output",)),
    # streams
    (("consume", str(EXAMPLE), "-o", "{folder}/out"), ("--kafka", "--zmq")),
    (("consume", str(EXAMPLE), "-o", "{folder}/out", "--kafka", "broker"), ("host:port",)),
    (("consume", str(EXAMPLE), "-o", "{folder}/out", "--kafka", "b:99999"), ("host:port",)),
    (("consume", str(EXAMPLE), "-o", "{folder}/out", "--zmq", "http://x"), ("tcp://",)),
    (("consume", str(EXAMPLE), "-o", "{folder}/out", "--adara", "x"), ("loopback",)),
    (("consume", str(EXAMPLE), "-o", "{folder}/out", "--kafka", "b:1", "--zmq", "x"), ("one",)),
    (("consume", str(EXAMPLE), "-o", "{folder}/out", "--until-idle", "0"), ("--until-idle",)),
    (("consume", str(EXAMPLE), "-o", "{folder}/out", "--create-topics", "0"), ("--create-topics",)),
    (("consume", str(EXAMPLE), "-o", "{folder}/out", "--health-port", "x"), ("--health-port",)),
    (("consume", str(EXAMPLE), "-o", "{folder}/out", "--log", "xml"), ("--log", "json")),
    (("consume", str(EXAMPLE), "-o", "{folder}/empty.x", "--tape", "{folder}"), ("empty.x",)),
    (("record", "-o", "{folder}/tape"), ("--kafka",)),
    (("record", "-o", "{folder}/tape", "--kafka", ":", "--prefix", "p"), ("host:port",)),
    (("record", "-o", "{folder}/tape", "--zmq", "tcp://127.0.0.1:x"), ("127.0.0.1:x",)),
    (("record", "-o", "{folder}/tape", "--messages", "0", "--kafka", "b:1"), ("--messages",)),
    (("record", "-o", "{folder}/tape", "--seconds", "-3", "--kafka", "b:1"), ("--seconds",)),
    (("replay", "{folder}/empty.x", "--to", "pigeon"), ("--to", "kafka")),
    (
        ("replay", "{folder}/empty.x", "--to", "kafka", "--address", "x", "--prefix", "p"),
        ("host:port",),
    ),
    (("replay", "{folder}/empty.x", "--speed", "0"), ("--speed",)),
    (("replay", "{folder}/empty.x", "-o", "{folder}/out"), ("experiment",)),
    (("replay",), ("files",)),
    (("model-server",), ("state folder",)),
    (("model-server", "{folder}/folder.x", "--every", "100"), ("--every", "equal to 5")),
    (("model-server", "{folder}/folder.x", "--no-publish", "--kafka", "b:1"), ("--no-publish",)),
    # crystals and spectra
    (("phonons", "unobtainium"), ("unobtainium", "expected")),
    (("phonons", "germanium", "--points", "1"), ("--points", "equal to 2")),
    (("phonons", "germanium", "--points", "1000000"), ("--points",)),
    (("phonons", "germanium", "--path", "Gamma Nowhere"), ("Nowhere",)),
    (("phonons", "germanium", "--supercell", "0,0,0"), ("supercell",)),
    (("phonons", "germanium", "--supercell", "2,2"), ("supercell",)),
    (("phonons", "germanium", "--isotopes", "Ge=Xx"), ("Xx",)),
    (("phonons", "germanium", "--isotopes", "Ge"), ("isotopes",)),
    (("phonons", "germanium", "--route", "crystal-ball"), ("crystal-ball",)),
    (("phonons", "germanium", "--dipole-sum", "none"), ("--dipole-sum", "ewald")),
    (("phonons", "germanium", "-o", "{folder}/empty.x/a.png"), ("empty.x",)),
    (("spectrum", "powder", "germanium", "--ei-meV", "-1"), ("ei_meV",)),
    (("spectrum", "powder", "germanium", "--ei-meV", "nan"), ("ei_meV",)),
    (("spectrum", "powder", "germanium", "--ei-meV", "40 eV"), ("--ei-meV",)),
    (("spectrum", "powder", "germanium", "--temperature", "-1"), ("temperature",)),
    (("spectrum", "powder", "germanium", "--temperature", "1e99"), ("temperature",)),
    (("spectrum", "powder", "germanium", "--energy-meV", "10:0:1"), ("energy",)),
    (("spectrum", "powder", "germanium", "--energy-meV", "0:10:0"), ("energy",)),
    (("spectrum", "powder", "germanium", "--energy-meV", "0:1e9:1e-6"), ("energy",)),
    (("spectrum", "powder", "germanium", "--q-inverse-A", "-1:2:0.1"), ("q_inverse_A",)),
    (("spectrum", "powder", "germanium", "--error", "0"), ("error",)),
    (("spectrum", "powder", "germanium", "--error", "nan"), ("error",)),
    (("spectrum", "powder", "germanium", "--instrument", "HUBBLE"), ("HUBBLE", "ARCS")),
    (("spectrum", "powder", "germanium", "--chopper", "FC9"), ("FC9",)),
    (("spectrum", "powder", "germanium", "--fwhm-meV", "-2"), ("fwhm",)),
    (("spectrum", "sphere", "germanium"), ("sphere",)),
    (("predict", "germanium", "--instrument", "HUBBLE"), ("HUBBLE",)),
    (("predict", "germanium", "--ei", "0"), ("ei",)),
    (("predict", "germanium", "--ei", "inf"), ("ei",)),
    (("predict", "germanium", "--temperature", "-300"), ("temperature",)),
    (("predict", "germanium", "--quantity", "everything"), ("everything",)),
    (("predict", "germanium", "--can", "gold"), ("gold",)),
    (("prior", "germanium", "--samples", "0"), ("--samples",)),
    (("prior", "germanium", "--cutoff-A", "-1"), ("cutoff",)),
    (("prior", "germanium", "--displacement-A", "nan"), ("displacement",)),
    (("prior", "germanium", "--force-field", "astrology"), ("astrology",)),
    (("prior", "germanium", "--supercell", "a,b,c"), ("supercell",)),
    (("plan", "germanium"), ("instrument",)),
    (("plan", "germanium", "--instrument", "HUBBLE", "--ei", "40"), ("HUBBLE",)),
    (("plan", "germanium", "--instrument", "ARCS", "--ei", "40,x"), ("x",)),
    (("plan", "germanium", "--instrument", "ARCS", "--ei", "-40"), ("-40",)),
    (("plan", "germanium", "--instrument", "ARCS", "--ei", "nan"), ("nan",)),
    (("plan", "germanium", "--instrument", "ARCS", "--ei", "40", "--psi", "90:-90"), ("psi",)),
    (("plan", "germanium", "--instrument", "ARCS", "--ei", "40", "--u", "0,0,0"), ("u",)),
    (
        ("plan", "germanium", "--instrument", "ARCS", "--ei", "40", "--u=1,1,0", "--v=2,2,0"),
        ("parallel",),
    ),
    (("plan", "germanium", "--instrument", "ARCS", "--ei", "40", "--free", "61"), ("--free",)),
    (("plan", "germanium", "--instrument", "ARCS", "--ei", "40", "--target", "0"), ("target",)),
    (("plan", "germanium", "--instrument", "ARCS", "--ei", "40", "--draws", "-1"), ("--draws",)),
    (("plan", "germanium", "--instrument", "ARCS", "--ei", "40", "--speed", "0"), ("speed",)),
    (
        ("plan", "germanium", "--instrument", "ARCS", "--ei", "40", "--counts-per-minute", "-1"),
        ("counts",),
    ),
    (("plan", "germanium", "--instrument", "ARCS", "--ei", "40", "-o", "a.exe"), ("a.exe",)),
    # drafts, folds, alignments
    (("init", "{folder}/empty.x", "--temperature", "-1"), ("--temperature",)),
    (("init", "{folder}/empty.x", "--ei", "0"), ("--ei",)),
    (("init", "{folder}/empty.x", "--speed", "0"), ("--speed",)),
    (("init", "{folder}/empty.x", "--limits", "90:-90"), ("limits",)),
    (("init", "{folder}/empty.x", "--u", "1,1"), ("1,1",)),
    (("init", "{folder}/empty.x", "--u", "a,b,c"), ("a,b,c",)),
    (("fold", "{folder}/empty.x", "-e", str(EXAMPLE)), ("--output",)),
    (("fold", "{folder}/empty.x", "-o", "{folder}/out"), ("--experiment",)),
    (("align", "{folder}/empty.x"), ("structure",)),
    (("align", "{folder}/empty.x", "-s", "germanium", "--propagation", "1,2"), ("propagation",)),
    (("align", "{folder}/empty.x", "-s", "unobtainium"), ("unobtainium",)),
    # people and actions
    (("token", "Ada"), ("--people", "BEAMSTEER_PEOPLE")),
    (("token", "Ada", "--role", "god", "--people", "{folder}/p"), ("--role", "viewer")),
    (("token", "Ada", "--days", "-1", "--people", "{folder}/p"), ("--days",)),
    (("token", "", "--people", "{folder}/p"), ("name",)),
    (("token", "a\nb", "--people", "{folder}/p"), ("name",)),
    (("token", "x" * 5000, "--people", "{folder}/p"), ("name",)),
    (("token", "Ada", "--people", "{folder}/bomb.yaml"), ("bomb.yaml",)),
    (("token", "Ada", "--people", "{folder}/latin.x"), ("latin.x",)),
    (("token", "Ada", "--people", "{folder}/empty.x/p"), ("empty.x",)),
    (("serve", "{folder}/folder.x", "--people", "{folder}/bomb.yaml", "--check"), ("bomb.yaml",)),
    (("act", "{folder}/folder.x", "explode"), ("explode", "withdraw")),
    (("act", "{folder}/folder.x", "pin", "12", "--why", "x"), ("folder.x",)),
    (("act", "{folder}/folder.x", "veto", "12", "--within", "far"), ("--within",)),
    (("alarms", "{folder}/folder.x", "--acknowledge", "1"), ("folder.x",)),
    (("alarms", "{folder}/folder.x", "--log", "xml"), ("--log",)),
    (("status", "{folder}/folder.x", "--run", "nobody"), ("nobody",)),
    (("report", "{folder}/folder.x", "--zone", "Mars/Olympus"), ("--zone", "Europe/Berlin")),
    # databases
    (("database", "build", "-o", "{folder}/store"), ("sources",)),
    (("database", "search", "{folder}/folder.x", "--formula", "??"), ("folder.x",)),
    (("database", "burn", "{folder}/folder.x"), ("burn",)),
    (
        ("database", "spectra", "{folder}/folder.x", "-o", "{folder}/out", "--energy-meV", "x"),
        ("min:max:step",),
    ),
    (
        (
            "database",
            "spectra",
            "{folder}/folder.x",
            "-o",
            "{folder}/out",
            "--energy-meV=0:1:1",
            "--workers=0",
        ),
        ("--workers",),
    ),
    (("invert-powder", "aluminium", "--temperature", "hot"), ("--temperature",)),
    # backups
    (
        ("backup", "{folder}/folder.x", "-o", "{folder}/b.tar", "--keep", "0"),
        ("--keep", "equal to 1"),
    ),
    (("backup", "{folder}/folder.x", "-o", "{folder}/b.tar", "--keep", "3"), ("--keep", "folder")),
    (("backup", "{folder}/folder.x"), ("--output",)),
    (("restore", "{folder}/empty.x"), ("--check",)),
    (("restore", "{folder}/empty.x", "{folder}/out", "--check"), ("--check",)),
    (("restore", "{folder}/empty.x", "{folder}/folder.x/a/b"), ("empty.x",)),
    # words
    (("serv",), ("serv",)),
    (("serve", "--prot", "80"), ("--prot",)),
    (("--version=3",), ("--version",)),
    (("phonons",), ("structure",)),
    (("phonons", "a", "b"), ("b",)),
    (("serve", "{folder}/folder.x", "--port"), ("--port",)),
    (("doctor", "\udce9"), ("is no state folder",)),
)
"""Values and options that make no sense, and what the answer holds."""


def bad_values() -> list[BadCommand]:
    """Commands with bad values, and verbs that meet a bad experiment file."""
    found = [
        BadCommand(name=" ".join(arguments)[:80], arguments=arguments, says=says)
        for arguments, says in VALUES
    ]
    for name, (_, says) in bad_experiments().items():
        arguments = ("simulate", "{folder}/" + name, "-o", "{folder}/out", "--psi", "0")
        found.append(BadCommand(name=f"experiment {name}", arguments=arguments, says=(says,)))
    return found


RUN = "ge-demo"
"""The run that is there when requests are sent."""
DEEP = b'{"structure": ' + b"[" * 5000 + b"]" * 5000 + b"}"
WORD = ("expected", "should", "Field required", "not", "Not", "No ", "no ")
"""Of which one is in every answer: what was wanted, or that it is not there."""


def _request(
    method: str, path: str, *says: str, status: tuple[int, ...] = (422,), **more: object
) -> BadRequest:
    return BadRequest(
        name=f"{method} {path} {str(more.get('body', more.get('raw', '')))[:40]}".strip(),
        method=method,
        path=path,
        says=says,
        status=status,
        **more,  # type: ignore[arg-type]
    )


def bad_requests() -> list[BadRequest]:
    """Requests that must be answered with 4xx, each with what the answer names."""
    gone = (404,)
    found = [
        _request("GET", f"/runs/nobody{end}", "nobody", status=gone)
        for end in (
            "", "/estimate", "/history", "/advice", "/spectrum", "/verdict", "/actions", "/events",
        )
    ]  # fmt: skip
    found += [
        _request("GET", f"/runs/{name}", status=gone)
        for name in ("%00", "..%2f..%2fetc%2fpasswd", "%ff", "x" * 3000, "%0a", "*", "ge-demo%20")
    ]
    found += [
        _request("GET", f"{path}?last={last}", "last")
        for path in ("/alarms/log", f"/runs/{RUN}/actions")
        for last in ("0", "-1", "1001", "x", "1e3", "nan", "9" * 400, "")
    ]
    found += [
        _request("GET", f"/runs/{RUN}/spectrum?format={one}", "format")
        for one in ("exe", "", "JSON", "png%00", "../x")
    ]
    found += [
        _request(method, path, status=(405,))
        for method, path in (
            ("DELETE", "/runs"), ("PUT", f"/runs/{RUN}"), ("POST", "/health"),
            ("GET", "/v1/predict"), ("PATCH", "/predict"), ("DELETE", f"/runs/{RUN}/actions"),
        )
    ]  # fmt: skip
    found += [_request("GET", path, status=gone) for path in ("/nothing", "/runs/a/b/c", "/.env")]
    actions = f"/runs/{RUN}/actions"
    why = "beam off"
    found += [
        _request("POST", actions, raw=b""),
        _request("POST", actions, raw=b"{"),
        _request("POST", actions, raw=b"\xff\xfe"),
        _request("POST", actions, body=[]),
        _request("POST", actions, "version", body={}),
        _request("POST", actions, "version", body={"version": -1, "why": why}),
        _request("POST", actions, "version", body={"version": "0", "why": why}),
        _request("POST", actions, "version", body={"version": 1e300, "why": why}),
        _request(
            "POST", actions, "asked", body={"version": 0, "why": why, "asked": {"what": "explode"}}
        ),
        _request(
            "POST",
            actions,
            "psi_deg",
            body={"version": 0, "why": why, "asked": {"what": "pin", "psi_deg": "far"}},
        ),
        _request(
            "POST",
            actions,
            "why",
            body={"version": 0, "why": "x" * 100_000, "asked": {"what": "close"}},
        ),
        _request(
            "POST",
            actions,
            "extra",
            body={"version": 0, "why": why, "asked": {"what": "close"}, "extra": 1},
        ),
        _request(
            "POST",
            "/runs/nobody/actions",
            "nobody",
            status=gone,
            body={"version": 0, "why": why, "asked": {"what": "close"}},
        ),
        _request("POST", "/alarms/nobody/acknowledge", "nobody", status=gone, body={"by": "Ada"}),
        _request("POST", "/alarms/nobody/acknowledge", raw=b""),
        _request("POST", "/alarms/nobody/acknowledge", "by", body={"by": 7}),
        _request("POST", "/alarms/nobody/acknowledge", "by", body={"by": ""}),
    ]
    cell = "Al\n1\n0 2 2\n2 0 2\n2 2 0\nAl\n1\nDirect\n0 0 0\n"
    found += [
        _request("POST", "/predict", raw=b""),
        _request("POST", "/predict", raw=b"not json"),
        _request("POST", "/predict", raw=b"\x00\x01"),
        _request("POST", "/predict", raw=DEEP),
        _request("POST", "/predict", raw=b'{"structure": "germanium", "ei_meV": NaN}'),
        _request("POST", "/predict", raw=b'{"structure": "germanium", "ei_meV": 1e999}'),
        _request("POST", "/predict", body=[1, 2]),
        _request("POST", "/predict", body="germanium"),
        _request("POST", "/predict", "structure", body={}),
        _request("POST", "/predict", "structure", body={"structure": 7}),
        _request("POST", "/predict", "structure", body={"structure": ""}),
        _request("POST", "/predict", "structure", body={"structure": None}),
        _request("POST", "/predict", "colour", body={"structure": cell, "colour": "blue"}),
        _request("POST", "/predict", "ei_meV", body={"structure": cell, "ei_meV": -1}),
        _request("POST", "/predict", "ei_meV", body={"structure": cell, "ei_meV": "40 eV"}),
        _request("POST", "/predict", "ei_meV", body={"structure": cell, "ei_meV": [40]}),
        _request(
            "POST", "/predict", "temperature_K", body={"structure": cell, "temperature_K": -5}
        ),
        _request("POST", "/predict", "quantity", body={"structure": cell, "quantity": "soul"}),
        _request("POST", "/predict", "can", body={"structure": cell, "can": "gold"}),
        _request("POST", "/predict", "instrument", body={"structure": cell, "instrument": 7}),
        _request("POST", "/predict", status=(413, 422), body={"structure": "x" * 3_000_000}),
    ]
    return found
