"""Plans of scans before any data: incident energies, orientations, hours, and their pictures."""

from steering.planning.first_experiment import first_experiment, prior_of
from steering.planning.plan_file import ENDINGS, write_plan
from steering.planning.plan_tables import answer_of, content_of, tables_of
from steering.planning.scan_plan import Assumed, plan_scan

__all__ = [
    "Assumed",
    "ENDINGS",
    "answer_of",
    "content_of",
    "first_experiment",
    "plan_scan",
    "prior_of",
    "tables_of",
    "write_plan",
]
