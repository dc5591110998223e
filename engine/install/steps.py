"""The steps of an installation. Each step can tell whether it is done, describe what it would do, and do it.

A step may be killed at any moment. The next start sees from the files on disk what is done and continues from there.
"""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path

from engine.install import preflight
from engine.install.browser import ensure_browser, find_browser
from engine.install.console import InstallError
from engine.install.failures import killed, known_failure
from engine.install.hardware import free_disk_gb
from engine.install.job import Job, Step
from engine.install.layout import (
    Layout,
    delete,
    installed_torch,
    note,
    read_record,
    stamp,
    until_free,
    write_atomically,
)
from engine.install.other_cards import GROUPS
from engine.install.packages import NVIDIA_ONLY, OPTIONAL
from engine.install.probe import NEWEST, OLDEST
from engine.install.torch_choice import TORCH, Choice, fits

NO_DISK = 0.05  # GB; less is left where a file did not fit

# --- this computer ---------------------------------------------------------------------------------------------------


def _check_computer(job: Job) -> str:
    fresh = not torch_suits(job.layout, job.choice, job.system)
    for warning in preflight.check(job.layout.root, job.choice.build, fresh):
        job.console.warn(warning)
    for warning in job.choice.warnings:
        job.console.warn(warning)
    return preflight.summary(job.layout.root, job.choice)


# --- the virtual environment -----------------------------------------------------------------------------------------


def _venv_done(job: Job) -> str | None:
    layout = job.layout
    version = layout.python_version()
    supported = version and OLDEST <= tuple(map(int, version.split(".")[:2])) <= NEWEST
    if not supported or not layout.python.exists() or layout.is_orphaned() or job.pip.version() == (0, 0):
        return None
    return f"Python {version}" if job.pip.run("--version").code == 0 else None


def _make_venv(job: Job) -> str:
    remove_venv(job.layout)
    environment = job.pip.environment
    outcome = job.console.run([job.base_python, "-m", "venv", job.layout.venv], environment, job.layout.root)
    if outcome.code or not job.layout.python.exists():
        # venv does not print why pip could not be put into it: look at the disk.
        full = free_disk_gb(job.layout.root) < NO_DISK
        known = known_failure("No space left on device" if full else outcome.output)
        raise InstallError(
            f"The Python environment could not be created. {known[0]}"
            if known
            else f"The Python environment could not be created with {job.base_python}.",
            known[1] if known else "Start this again with --private-python, which fetches a Python that is complete.",
        )
    note(job.layout, cpu=job.choice.forced, maker=job.choice.maker)
    # A newer pip resumes broken downloads. The old one works as well, so a failure is only logged.
    job.pip.run("install", "--upgrade", "--retries", "1", "pip")
    return f"Python {job.layout.python_version()}"


def remove_venv(layout: Layout) -> None:
    """Delete the virtual environment, completely or not at all.

    Raises:
        InstallError: a program still uses it.
    """
    if Path(sys.prefix).resolve() == layout.venv.resolve():
        raise InstallError(
            "The installer is running in the environment that it is about to replace.",
            "Start it with install.sh or install.bat.",
        )
    # Renamed first: deleting takes minutes on a slow disk, and a kill in between must not leave half of it in place.
    trash = layout.log.parent
    trash.mkdir(exist_ok=True)
    try:
        if os.path.lexists(layout.venv):
            unused = trash / f"old-{uuid.uuid4().hex[:8]}"
            until_free(lambda: layout.venv.rename(unused))
        for old in trash.glob("old-*"):
            delete(old)
    except OSError as error:
        raise InstallError(
            f"The old Python environment could not be removed: {error}",
            "Close every window of the app and start this again.",
        ) from error


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def _torch_done(job: Job) -> str | None:
    return f"{TORCH} for {installed_torch(job.layout)[1]}" if torch_suits(job.layout, job.choice, job.system) else None


def torch_suits(layout: Layout, choice: Choice, system: str) -> bool:
    """Whether the right version is installed, in a build that suits the choice or was the only one available for it."""
    version, build = installed_torch(layout)
    taken = read_record(layout).get("torch") == [version, choice.build]
    return version.split("+")[0] == TORCH and (taken or fits(build, choice, system))


def _plan_torch(job: Job) -> str:
    if _is_on_default_index(job):
        return f"install torch {TORCH} from pip's default index ({job.choice.reason})"
    return f"install torch {job.choice.wanted} from {job.choice.index}, or as pip is configured ({job.choice.reason})"


def _is_on_default_index(job: Job) -> bool:
    """Whether pip's default index has the wanted build: its torch is the CPU build on all systems but Linux."""
    return job.choice.build == "cpu" and not job.system.startswith("linux")


def _install_torch(job: Job) -> str:
    pip, choice = job.pip, job.choice
    quick = ("--retries", "1", "--timeout", "15")
    index = ("--index-url", choice.index)
    if _is_on_default_index(job):
        pip.install("PyTorch", [f"torch=={TORCH}"])
    elif pip.offers("torch", choice.wanted, *quick):
        # pip's own settings (a mirror, a folder of wheels) already offer the right build.
        pip.install("PyTorch", [f"torch=={choice.wanted}"])
    elif pip.offers("torch", choice.wanted, *index, *quick):
        pip.install("PyTorch", [f"torch=={choice.wanted}", *index])
    elif job.system.startswith("linux") and choice.build in ("cpu", "cu130"):
        # On Linux the default index has the CUDA 13.0 build, which runs without a card as well.
        job.console.warn(f"{choice.index} could not be reached: installing the larger build from pip's default index.")
        pip.install("PyTorch", [f"torch=={TORCH}"])
    else:
        raise InstallError(
            f"PyTorch {choice.wanted} is not available: {choice.index} could not be reached, or has none for this "
            "computer.",
            "Check the internet connection and the proxy (`pip config list`), or continue without the card: --cpu",
        )
    version, build = installed_torch(job.layout)
    if not fits(build, choice, job.system) and not (choice.build == "cpu" and version):
        raise InstallError(
            f"PyTorch for {choice.build} was requested, but pip installed {version or 'nothing'}.",
            "Check `pip config list` for a private package index that offers another build, then use --repair.",
        )
    note(job.layout, torch=[version, choice.build])
    return f"{TORCH} for {build}"


# --- the other packages ----------------------------------------------------------------------------------------------


def _packages_done(job: Job, file: str) -> str | None:
    return "up to date" if read_record(job.layout).get(file) == stamp(job.layout, file) else None


def _install_packages(job: Job, file: str) -> str:
    before = installed_torch(job.layout)[0]
    write_atomically(job.layout.constraints, f"torch=={before}\n")
    job.pip.install("The packages", ["-r", str(job.layout.root / file), "-c", str(job.layout.constraints)])
    require_unchanged_torch(job.layout, before)
    note(job.layout, **{file: stamp(job.layout, file)})
    return "installed"


def require_unchanged_torch(layout: Layout, before: str) -> None:
    """Raise InstallError if another package replaced torch; usually it puts a CPU build over a CUDA build."""
    after = installed_torch(layout)[0]
    if after != before:
        raise InstallError(
            f"Another package replaced PyTorch {before} by {after or 'nothing'}.",
            "Start again with --repair; if it happens again, please report it with the log.",
        )


# --- optional packages -----------------------------------------------------------------------------------------------


def _optional_done(job: Job) -> str | None:
    if job.choice.build == "cpu":
        return "not needed without a card"
    return "up to date" if read_record(job.layout).get("optional") == stamp(job.layout) else None


def _install_optional(job: Job) -> str:
    before = installed_torch(job.layout)[0]
    write_atomically(job.layout.constraints, f"torch=={before}\n")
    working = []
    left_out = () if job.choice.build.startswith("cu") else NVIDIA_ONLY
    for name, oldest in OPTIONAL.items():
        if name in left_out:
            continue
        try:
            # Wheels only: building xformers from source takes an hour and a compiler.
            held = ["-c", str(job.layout.constraints)]
            job.pip.install(name, ["--only-binary", ":all:", *held, f"{name}>={oldest}"])
            outcome = job.console.run(
                [str(job.layout.python), "-c", f"import {name}"], job.pip.environment, job.layout.root
            )
            if outcome.code:
                job.pip.run("uninstall", "--yes", name)
                raise InstallError(f"{name} was installed but cannot be imported", "")
            working.append(name)
        except InstallError as error:
            job.console.warn(f"Continuing without {name}: {error.cause}")
    require_unchanged_torch(job.layout, before)
    note(job.layout, optional=stamp(job.layout))
    return ", ".join(working) or "none"


# --- self-check ------------------------------------------------------------------------------------------------------


def _self_check_done(job: Job) -> str | None:
    return "passed before" if read_record(job.layout).get("checked") == stamp(job.layout) else None


def _self_check(job: Job) -> str:
    device = "card" if job.choice.build != "cpu" else "cpu"
    command = [str(job.layout.python), "-m", "engine.install.selfcheck", device]
    outcome = job.console.run(command, job.pip.environment, job.layout.root)
    lines = outcome.output.strip().splitlines()
    last = lines[-1] if lines else "it ended without output"
    if outcome.code:
        if device == "card":
            fix = f"{driver_advice(job.choice)}, or continue without the card: --cpu"
        else:
            fix = "Start again with --repair; if it happens again, please report it with the log."
        cause, fix = known_failure(outcome.output) or killed(outcome.code) or (last[:300], fix)
        raise InstallError(f"The self-check failed: {cause}", fix)
    note(job.layout, checked=stamp(job.layout))
    return last


def driver_advice(choice: Choice) -> str:
    """What to do where PyTorch does not find the card that its build is for."""
    if choice.build.startswith("rocm"):
        return f"Install AMD's newest driver for Linux, let this user use the card ({GROUPS})"
    if choice.build == "xpu":
        return f"Install Intel's newest graphics driver and restart; on Linux, let this user use the card ({GROUPS})"
    return "Install the newest driver from nvidia.com/drivers and restart"


def is_ready(layout: Layout, choice: Choice | None, system: str = sys.platform) -> bool:
    """Whether the app can start right away. Reads three small files; ``choice=None`` trusts the installed torch."""
    if not layout.python.exists() or layout.is_orphaned() or not installed_torch(layout)[0]:
        return False
    record = read_record(layout)
    current = stamp(layout)
    if record.get("requirements.txt") != current or record.get("checked") != current:
        return False
    return choice is None or torch_suits(layout, choice, system)


APP_STEPS = (
    Step("This computer", lambda job: None, lambda job: "check memory, disk and path", _check_computer),
    Step("Python environment", _venv_done, lambda job: f"create .venv with {job.base_python}", _make_venv),
    Step("PyTorch", _torch_done, _plan_torch, _install_torch),
    Step(
        "Packages",
        lambda job: _packages_done(job, "requirements.txt"),
        lambda job: "install requirements.txt and keep torch as it is",
        lambda job: _install_packages(job, "requirements.txt"),
    ),
    Step("Extras for the card", _optional_done, lambda job: f"try {' and '.join(OPTIONAL)}", _install_optional),
    Step("Self-check", _self_check_done, lambda job: "import all packages and compute a convolution", _self_check),
)

TEST_STEPS = (
    *APP_STEPS,
    Step(
        "Test tools",
        lambda job: _packages_done(job, "requirements-dev.txt"),
        lambda job: "install requirements-dev.txt",
        lambda job: _install_packages(job, "requirements-dev.txt"),
    ),
    Step(
        "A browser for the tests",
        lambda job: find_browser(read_record(job.layout)),
        lambda job: "look for Chromium, Chrome or Edge, otherwise install Chromium",
        lambda job: ensure_browser(job.layout, job.console, job.pip.environment, job.continuous_integration),
    ),
)
