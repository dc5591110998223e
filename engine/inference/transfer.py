"""Does a ControlNet transfer to other bases? The same image drawn on each of several bases of its family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from engine.errors import UserError
from engine.inference.request import TryRequest, steps_drawn
from engine.inference.session import TrySession
from engine.jobs.control import CancelToken, OnProgress


@dataclass(frozen=True)
class Transferred:
    """The image from one base, or the reason why there is none."""

    base: str
    image: Image.Image | None
    problem: str = ""

    @property
    def name(self) -> str:
        return Path(self.base).stem if Path(self.base).is_file() else Path(self.base).name


def transfer(
    session: TrySession,
    request: TryRequest,
    bases: Sequence[str],
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    categorical: bool = False,
) -> list[Transferred]:
    """Draw the request on each base. One that does not fit or does not load gets a ``problem`` instead of an image.

    Args:
        progress: called as progress(denoising steps done, in all, label).

    Raises:
        Cancelled: the token is cancelled.
    """
    results, each = [], steps_drawn(request)
    for number, base in enumerate(bases):

        def on_step(done: int, _total: int, label: str, before: int = number * each) -> None:
            if progress:
                progress(before + done, len(bases) * each, label)

        try:
            image = session.generate([replace(request, base=base)], token, on_step, categorical)[0]
            results.append(Transferred(base, image))
        except UserError as error:
            results.append(Transferred(base, None, f"{error.what} {error.why}"))
    return results
