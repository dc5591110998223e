"""Checks that the installation works. Runs in the virtual environment: ``python -m engine.install.selfcheck cpu|card``.

The last line that it prints is the verdict, which the installer shows.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from engine.install.packages import PACKAGES


def check_torch(device: str) -> str:
    """Compute a convolution and a matrix product, in fp16 on a card, and return the device's name.

    Raises:
        RuntimeError: torch sees no card, or the result is wrong.
    """
    from engine.machine.cards import use_one

    if device == "card":
        use_one()  # the one that the app will use: the first may be a graphics part of the processor
    import torch

    from engine.machine.device import PROCESSOR, card_name, is_card, torch_device

    place = torch_device() if device == "card" else PROCESSOR
    if device == "card" and not is_card(place):
        raise RuntimeError(f"PyTorch {torch.__version__} sees no card (driver too old, or the card is in use)")
    kind = torch.float16 if is_card(place) else torch.float32
    image = torch.ones(1, 4, 32, 32, device=place, dtype=kind)
    weight = torch.full((8, 4, 3, 3), 0.5, device=place, dtype=kind)
    inner = torch.nn.functional.conv2d(image, weight)
    if not torch.allclose(inner.float(), torch.full_like(inner, 18.0).float()):  # 4 channels * 9 taps * 0.5
        raise RuntimeError(f"a convolution on {place.type} gave a wrong result")
    square = torch.ones(64, 64, device=place, dtype=kind)  # another library: cuBLAS, rocBLAS, oneMKL
    if not torch.allclose((square @ square).float(), torch.full_like(square, 64.0).float()):
        raise RuntimeError(f"a matrix product on {place.type} gave a wrong result")
    return card_name(place) if is_card(place) else "the processor"


def check_imports(root: Path) -> None:
    """Import every package, then the app."""
    for name in PACKAGES:
        importlib.import_module(name)
    if (root / "app.py").is_file():
        importlib.import_module("app")


def main(arguments: list[str]) -> int:
    """Return 0 if everything works, else 1. The last line on stdout is the verdict."""
    device = arguments[0] if arguments else "cpu"
    try:
        name = check_torch(device)
        check_imports(Path.cwd())
    except Exception as error:  # any failure is the verdict; its traceback goes to the log
        import traceback

        traceback.print_exc(file=sys.stdout)
        print(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}")
        return 1
    print(f"PyTorch computes on {name}, the app can be imported")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
