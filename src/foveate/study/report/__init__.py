"""The report of a comparison."""

from __future__ import annotations

from foveate.study.report.page import write_report

__all__ = ["write_report"]
