"""Export and import of nets: formats, precision, and the checks of every exported file."""

from __future__ import annotations

from engine.export.formats import AS_TRAINED, DEFAULT_RANK, FORMATS, PRECISIONS, ExportFormat, ExportResult
from engine.export.out import export

__all__ = ["AS_TRAINED", "DEFAULT_RANK", "FORMATS", "PRECISIONS", "ExportFormat", "ExportResult", "export"]
