"""Environment variables that CUDA, torch and HTTP clients read when they start. Set before these are imported."""

from __future__ import annotations

import getpass
import io
import os
import platform
import sys
from importlib import metadata

from engine.machine.capabilities import is_cpu_build
from engine.machine.cards import count_like_nvidia_smi, uses_nvidia
from engine.machine.proxies import prepare_proxies

CUBLAS, CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""Without it cuBLAS may sum in another order each time, even where ``train.deterministic`` asks for one order (cuBLAS'
manual, "Results Reproducibility"). Read once, when CUDA starts. It takes 24 MB more of graphics memory for each thread
that computes; a training run has two."""
ALLOCATOR, FORMER_ALLOCATOR = "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"
MPS_FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"
"""What Apple's graphics part has no kernel for is computed by the processor, instead of failing."""
EXPANDABLE = "expandable_segments:True"
"""Blocks of memory that grow: batches of several shapes (buckets) leave fewer gaps. Windows has no such blocks."""


def use_utf8() -> None:
    """Begin this program again in Python's UTF-8 mode if its locale is plain ASCII, which cannot write all names.

    Call it before anything else is done. PYTHONUTF8=0 with LC_ALL=C is such a case; others begin in that mode anyway.
    """
    if sys.platform != "win32" and sys.getfilesystemencoding().lower() in ("ascii", "us-ascii", "ansi_x3.4-1968"):
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def prepare() -> None:
    """Set what is not set already, for this process and its children. The order of the cards is always set."""
    for stream in (sys.stdout, sys.stderr):  # a console, or a file that it is sent to, may not have all letters
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if not has_user_name():
        os.environ.setdefault("USER", "user")  # torch's compiler names its cache after it
    for sentence in prepare_proxies():
        print(sentence, file=sys.stderr)
    count_like_nvidia_smi()
    os.environ.setdefault(CUBLAS, CUBLAS_WORKSPACE)
    if sys.platform == "darwin":
        os.environ.setdefault(MPS_FALLBACK, "1")
    if ALLOCATOR not in os.environ and FORMER_ALLOCATOR not in os.environ and has_expandable_segments():
        os.environ[ALLOCATOR] = EXPANDABLE


def has_user_name() -> bool:
    """Whether the system has a name for this user: a container may be started with a number alone."""
    try:
        return bool(getpass.getuser())
    except (KeyError, OSError, ImportError):  # ImportError: Windows without any of the variables
        return False


def has_expandable_segments() -> bool:
    """Whether torch's allocator can grow its blocks here: a CUDA build on Linux. Under WSL it was not tried."""
    build = metadata.version("torch")
    if sys.platform != "linux" or is_cpu_build(build, "Linux") or not uses_nvidia(build):
        return False
    return "microsoft" not in platform.release().lower()
