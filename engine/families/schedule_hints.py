"""The noise schedule of a base, as its file name or a .yaml of AUTOMATIC1111 beside it states it. No torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from engine.errors import UserError

VELOCITY = frozenset({"768", "vpred", "vprediction"})
"""Words in the name of a Stable Diffusion 2 file that predicts velocity; the first is its resolution."""
NOISE = frozenset({"512", "base", "eps", "epsilon"})
ZERO_SNR = frozenset({"ztsnr", "zsnr"})
LARGEST_YAML = 2**20


def words_of(name: str) -> tuple[str, ...]:
    """The words of a file name, in lower case: "Noob-XL_768vPred.ckpt" is noob, xl, 768, v, pred, ckpt.

    Words end where letters become digits, where a capital follows a small letter, and at everything else. So "base" is
    no word of "database".
    """
    return tuple(word.lower() for word in re.findall(r"\d+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name))


def schedule_of_name(name: str) -> dict[str, Any]:
    """Entries of a scheduler's config that a file name states: v-prediction, zero terminal SNR."""
    words = words_of(Path(name).stem)
    pairs = {a + b for a, b in zip(words, words[1:], strict=False)}
    found: dict[str, Any] = {}
    if pairs & {"vpred", "vprediction"} or set(words) & {"vpred", "vprediction"}:
        found["prediction_type"] = "v_prediction"
    if ZERO_SNR & set(words):
        found["rescale_betas_zero_snr"] = True
    return found


def names_noise(name: str) -> bool:
    """Whether the name of a Stable Diffusion 2 file says that it predicts noise and was made for 512 px."""
    words = set(words_of(Path(name).stem))
    return bool(words & NOISE) and not words & VELOCITY and not schedule_of_name(name)


def schedule_beside(path: Path) -> dict[str, Any]:
    """Entries of a scheduler's config from the .yaml with a file's name beside it; empty if there is none.

    Stable Diffusion 1 and 2 write ``parameterization: "v"`` or "eps" there, XL the class of its denoiser's scaling.

    Raises:
        UserError: it cannot be read, or states something that cannot be trained.
    """
    beside = path.with_suffix(".yaml")
    if not beside.is_file():
        return {}
    params = _params(beside)
    told = str(params.get("parameterization", "")).lower()
    scaling = str(_below(params, "denoiser_config", "params", "scaling_config", "target")).rpartition(".")[2].lower()
    found: dict[str, Any] = {}
    if "edm" in scaling or told in ("x0", "mu"):
        raise UserError(
            f"{path.name} cannot be used as a base model.",
            f"{beside.name} next to it says that it predicts something other than noise or velocity "
            f"({scaling or told}).",
            "Choose another base.",
        )
    if told == "v" or scaling.startswith("vscaling"):
        found["prediction_type"] = "v_prediction"
    elif told == "eps" or scaling.startswith("epsscaling"):
        found["prediction_type"] = "epsilon"
    zero = [params[name] for name in ("zero_terminal_snr", "rescale_betas_zero_snr", "zsnr") if name in params]
    if zero:
        found["rescale_betas_zero_snr"] = bool(zero[0])
    return found


def _params(beside: Path) -> dict[str, Any]:
    """``model.params`` of a .yaml."""
    import yaml

    try:
        if beside.stat().st_size > LARGEST_YAML:
            raise ValueError("it is larger than 1 MB")
        values = yaml.safe_load(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            f"{beside.name} cannot be read.",
            f"It is next to the base model of that name and should say what the base predicts ({str(error)[:200]}).",
            "Correct the file, or move it to another folder.",
        ) from error
    params = _below(values, "model", "params")
    return params if isinstance(params, dict) else {}


def _below(values: Any, *names: str) -> Any:
    """The entry at a path of keys; "" where there is none."""
    for name in names:
        values = values.get(name, "") if isinstance(values, dict) else ""
    return values
