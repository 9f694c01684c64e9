"""Files of a plan: pictures, one self-contained page, JSON."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from simulations.errors import InputError
from simulations.saved_file import write_whole
from steering.planning.plan_pictures import plan_figure
from steering.planning.plan_tables import answer_of, content_of, tables_of
from steering.planning.scan_plan import ScanPlan
from steering.report import svg

ENDINGS = (".html", ".png", ".svg", ".pdf", ".json")


def write_plan(plan: ScanPlan, path: Path | str) -> Path:
    """Write a plan by the ending of the name: a picture, a page that needs nothing else, or JSON.

    Raises
    ------
    InputError
        If the ending is none of ``ENDINGS``.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise InputError(
            f"--output is {path}; expected a name that ends in one of {', '.join(ENDINGS)}."
        )
    if ending == ".html":
        content = page_of(plan).encode()
    elif ending == ".json":
        content = (json.dumps(content_of(plan), indent=2, allow_nan=False) + "\n").encode()
    elif ending == ".svg":
        content = svg(plan_figure(plan))
    else:
        buffer = io.BytesIO()
        dated = {"CreationDate": None} if ending == ".pdf" else {}
        plan_figure(plan).savefig(buffer, format=ending[1:], dpi=130, metadata=dated)
        content = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    return path


def page_of(plan: ScanPlan) -> str:
    """HTML without a request or a script."""
    environment = Environment(
        loader=PackageLoader("steering.planning", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("plan.html").render(
        plan=plan,
        answer=answer_of(plan),
        tables=tables_of(plan),
        picture=base64.b64encode(svg(plan_figure(plan))).decode(),
    )
