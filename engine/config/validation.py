"""Pictures, scores and checks while training."""

from __future__ import annotations

from engine.config.setting import Section, setting


class ValidationConfig(Section):
    """Pictures and scores while training."""

    every: int = setting(500, "Pictures every", "How often pictures are made and scored; 0: never.", unit="steps", ge=0)
    pictures: int = setting(4, "Pictures", "How many held-out pairs are drawn each time.", unit="pictures", ge=1, le=64)
    sampling_steps: int = setting(20, "Sampling steps", "Denoising steps for each picture.", unit="steps", ge=1, le=200)
    guidance_scale: float = setting(
        7.5, "Guidance scale", "How strictly pictures follow the prompt.", ge=1, le=30, advanced=True
    )
    strength: float = setting(
        1.0, "Control strength", "How strictly pictures follow the control picture.", ge=0, le=2, advanced=True
    )
    check_every: int = setting(
        50,
        "Check every",
        "How often is measured, without drawing anything, whether the net listens to its map and does as well on "
        "held-out pairs. Done more seldom where it would take over 3 % of the time; 0: never, and no verdict.",
        unit="steps",
        ge=0,
        advanced=True,
    )
    check_pairs: int = setting(
        8,
        "Pairs checked",
        "How many held-out pairs, and as many training pairs, each check measures.",
        unit="pairs",
        ge=2,
        le=64,
        advanced=True,
    )
    listens_by: int = setting(
        40_000,
        "Patience",
        "A net begins to listen suddenly. After this many pictures without that, something is taken to be wrong.",
        unit="pictures",
        ge=100,
        advanced=True,
    )
    stop_when_flat: bool = setting(
        False,
        "Stop when it no longer improves",
        "Ends the run by itself (saved, to be resumed if you like) when neither the held-out loss nor the control gain "
        "has moved for a long while.",
        advanced=True,
    )
