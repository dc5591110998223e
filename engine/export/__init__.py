"""Taking a net away: formats, precision, and the check before it leaves."""

from __future__ import annotations

from engine.export.formats import FORMATS, PRECISIONS, ExportFormat, ExportResult, export

__all__ = ["FORMATS", "PRECISIONS", "ExportFormat", "ExportResult", "export"]
