"""Taking a net away, and back in: formats, precision, and the checks before it leaves."""

from __future__ import annotations

from engine.export.formats import AS_TRAINED, DEFAULT_RANK, FORMATS, PRECISIONS, ExportFormat, ExportResult
from engine.export.out import export

__all__ = ["AS_TRAINED", "DEFAULT_RANK", "FORMATS", "PRECISIONS", "ExportFormat", "ExportResult", "export"]
