"""What people look at: plots, pictures, tables, inspections, alignment, reports."""

from steering.report.alignment_first import AlignmentVerdict, alignment_first
from steering.report.alignment_report import AlignmentReport, align_files, corrections_of
from steering.report.folded_files import fold, refuse_missing
from steering.report.inspection import inspect, scan_of
from steering.report.latent_pictures import latent_pictures
from steering.report.map_export import folded_map_csv, folded_map_picture
from steering.report.plots_file import (
    GREEK,
    UNKNOWN,
    folded_map_png,
    pretty,
    spectrum_npz,
    spectrum_of_npz,
    write_powder_fold,
    write_replayed,
)
from steering.report.powder_fit_file import write_powder_fits
from steering.report.prediction_file import (
    prediction_csv,
    prediction_npz,
    prediction_png,
    write_prediction,
)
from steering.report.run_pictures import COLOURS, STYLES, svg
from steering.report.run_report import Decision
from steering.report.run_report_file import chosen_run, runs_found, write_run_report
from steering.report.tables_file import named_files, write_files, write_json, write_pictures

__all__ = [
    "AlignmentReport",
    "AlignmentVerdict",
    "COLOURS",
    "Decision",
    "GREEK",
    "STYLES",
    "UNKNOWN",
    "align_files",
    "alignment_first",
    "chosen_run",
    "corrections_of",
    "fold",
    "folded_map_csv",
    "folded_map_picture",
    "folded_map_png",
    "inspect",
    "latent_pictures",
    "named_files",
    "prediction_csv",
    "prediction_npz",
    "prediction_png",
    "pretty",
    "refuse_missing",
    "runs_found",
    "scan_of",
    "spectrum_npz",
    "spectrum_of_npz",
    "svg",
    "write_files",
    "write_json",
    "write_pictures",
    "write_powder_fits",
    "write_powder_fold",
    "write_prediction",
    "write_replayed",
    "write_run_report",
]
