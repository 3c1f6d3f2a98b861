"""The morning report: one page and one JSON file, folded from the journal and the run's data."""

from controller.record.report.build import ReportResult, build_report

__all__ = ["ReportResult", "build_report"]
