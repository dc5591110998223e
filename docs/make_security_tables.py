"""Writes the tables of docs/security.md from the app itself: addresses, and fields that take words or files.

python -m docs.make_security_tables
"""

from __future__ import annotations

import re
from pathlib import Path

from ui.server import inputs, routes

PAGE = Path(__file__).with_name("security.md")


def between(text: str, mark: str, table: str) -> str:
    """``text`` with what stands between the two marks replaced."""
    start, end = f"<!-- {mark} -->\n", f"\n<!-- end of {mark} -->"
    return re.sub(f"{re.escape(start)}.*?{re.escape(end)}", lambda _: start + table + end, text, flags=re.DOTALL)


def main() -> None:
    text = between(PAGE.read_text(encoding="utf-8"), "addresses", routes.table())
    text = between(text, "fields", inputs.table())
    temporary = PAGE.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(PAGE)


if __name__ == "__main__":
    main()
