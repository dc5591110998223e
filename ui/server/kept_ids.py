"""Parts of a page keep their number when gradio builds them anew; else each page's memory grows without end.

gradio keeps what each open page shows in a SessionState, by number. For every update of a part, ``gr.skip()`` among
them, Blocks.postprocess_data (6.31: gradio/blocks.py) builds the part anew and files it under the old number, but the
new part has a number of its own. When it is next given a plain value, it is looked up under the old number, found to be
missing under its own, and filed there too, with its value. Nothing ever removes it. With an open Train tab that was a
megabyte for every ten times that the charts were drawn. Here whatever is filed under a number gets that number.
"""

from __future__ import annotations

from typing import Any


def install() -> None:
    """Call before pages are served; a second time has no effect."""
    from gradio.blocks import Block
    from gradio.state_holder import SessionState

    file = SessionState.__setitem__
    if getattr(file, "keeps_ids", False):
        return

    def file_with_its_id(self: SessionState, key: int, value: Any) -> None:
        if isinstance(value, Block):
            value._id = key
        file(self, key, value)

    file_with_its_id.keeps_ids = True  # type: ignore[attr-defined]
    SessionState.__setitem__ = file_with_its_id  # type: ignore[method-assign]
