"""A report: an explanation and how good it is, as one page that a browser opens."""

from fwdgrad.report.page import MARK, Number, report

__all__ = ["MARK", "Number", "report"]
