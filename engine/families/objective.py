"""Settings of the objective that have no meaning for a way of adding noise. No torch: they are refused before a run."""

from __future__ import annotations


def not_for_flow(sampling: str, min_snr_gamma: float, offset_noise: float) -> list[tuple[str, str, str]]:
    """Title of each setting that a base trained by flow matching cannot use, why, and what to set instead."""
    wrong = (
        (min_snr_gamma > 0, "Min-SNR gamma", "the way its timesteps are drawn already weights the loss", "0"),
        (offset_noise > 0, "Noise offset", "it can already learn dark and bright images", "0"),
        (sampling == "cubic", "Timestep sampling", "cubic is made for noise schedules of 1,000 steps", "logit_normal"),
    )
    return [(title, why, instead) for found, title, why, instead in wrong if found]
