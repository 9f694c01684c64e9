"""Plans of scans before any data: incident energies, orientations, hours, and their pictures."""

from steering.planning.first_experiment import planned_experiment
from steering.planning.plan_file import ENDINGS, write_plan
from steering.planning.plan_tables import answer_of, content_of, tables_of
from steering.planning.scan_plan import Assumed, ScanPlan, plan_scan

__all__ = [
    "Assumed",
    "ENDINGS",
    "ScanPlan",
    "answer_of",
    "content_of",
    "plan_scan",
    "planned_experiment",
    "tables_of",
    "write_plan",
]
