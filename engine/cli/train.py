"""The commands "train", "resume" and "trial"."""

from __future__ import annotations

import argparse
from typing import Any

from engine.cli import processes
from engine.cli.options import add_changes, add_processes, add_settings, parse_settings
from engine.config import SECTIONS, RunConfig
from engine.config.presets import CONTROLNET, flatten, unflatten
from engine.config.toml import join_words
from engine.disk.typed_path import path_of
from engine.distributed import group
from engine.errors import UserError
from engine.jobs.control import CancelToken, Control
from engine.runs.run import Run
from engine.workspace.paths import Workspace

EXIT_INTERRUPTED = 130
SAID = {"red": "Serious:  ", "yellow": "Caution: ", "note": ""}
"""In front of a caution, by its level."""


def add_commands(commands: Any) -> None:
    """Add the commands to the command line's parsers."""
    train = commands.add_parser("train", help="train a ControlNet")
    _add_source(train)
    train.add_argument(
        "--write", type=path_of, metavar="FILE", help="write all settings to a TOML file, and do not train"
    )
    train.add_argument(
        "--dry-run",
        action="store_true",
        help="show the time and memory the run would need, cautions, and what to expect; do not train",
    )
    trial = commands.add_parser("trial", help="take three steps, and measure their time and memory on this machine")
    _add_source(trial)
    resume = commands.add_parser("resume", help="resume a run")
    resume.add_argument("run", help="the run's folder name")
    add_changes(resume)
    resume.add_argument(
        "--from-step",
        type=int,
        metavar="STEP",
        help="go back to the checkpoint of this step (0: from scratch); later ones are set aside, not deleted",
    )
    for parser in (train, resume):
        add_processes(parser)


def _add_source(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``settings_of`` reads."""
    parser.add_argument("file", type=path_of, nargs="?", help="settings as a TOML file, like the presets")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--preset", help="one of the app's presets or of yours; default: the one for this machine")
    begin.add_argument(
        "--from-run",
        metavar="RUN",
        help="start a new run with the current settings of this one; change some with --set",
    )
    parser.add_argument(
        "--on",
        metavar="RUN",
        help="train a ControlNet on what this run has taught its base (a LoRA, a subject, a word, a whole base); its "
        "best checkpoint is exported first, unless that is done",
    )
    parser.add_argument("--dataset", help="the dataset's name")
    parser.add_argument("--base", help="the base model, as in the settings")
    add_settings(parser)


def train(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """Create a run and train it. Returns the exit status."""
    name = group.current().broadcast(lambda: _create_run(options, workspace, control.token))
    return _train_run(name, workspace, control) if name else 0


def resume(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """Resume a run, with other settings if the options give any. Returns the exit status."""
    from engine.training.job import change_run
    from engine.training.new_run import require_all

    changes = flatten(parse_settings(options.set))

    def prepare() -> str:
        run = Run(workspace.run_folder(options.run))
        require_all(workspace, run)
        if changes or options.from_step is not None or run.completed:  # the last one says how to ask for more steps
            change_run(run, changes, options.from_step)
        return run.name

    group.current().broadcast(prepare)
    return _train_run(options.run, workspace, control)


def trial(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """Measure three steps with the settings of the options. Returns the exit status 0."""
    from engine.queue.net_jobs import Trial

    console = processes.console()
    job = Trial(config=settings_of(options, workspace, control.token)[0].model_dump(mode="json"))
    console.say(job.do(workspace, "", control.token, console.event).words)
    return 0


def _create_run(options: argparse.Namespace, workspace: Workspace, token: CancelToken) -> str:
    """Create a run with the settings of the options, and return its name. --write, --dry-run: "", none is created."""
    from engine.config.toml import write_run_file
    from engine.training.new_run import create_run, require_startable

    config, origins = settings_of(options, workspace, token)
    say = processes.console().say
    if options.write:
        write_run_file(options.write, config)
        say(f"Written to {options.write}. Train with: engine.cli train {options.write}")
    if options.dry_run:
        _foretell(config, workspace)
    if options.write or options.dry_run:
        return ""
    require_startable(workspace, config)
    run = create_run(workspace, config, origins)
    _warn_and_advise(config, workspace, say_unknown=False)
    return run.name


def _foretell(config: RunConfig, workspace: Workspace) -> None:
    """Print what a run would take, the warnings about it, and what to expect.

    Raises:
        UserError: something is missing, so that it could not start.
    """
    from engine.estimate.estimate import estimate
    from engine.machine.hardware import detect
    from engine.training.new_run import require_startable

    require_startable(workspace, config)
    processes.console().say(f"{estimate(config, workspace, detect())}.")
    _warn_and_advise(config, workspace)


def _warn_and_advise(config: RunConfig, workspace: Workspace, say_unknown: bool = True) -> None:
    """Print the warnings about a run, and what to expect of it. ``say_unknown``: also that nothing is known."""
    from engine.machine.hardware import detect
    from engine.training.advisor import advice_for
    from engine.training.cautions import cautions
    from engine.training.start_facts import start_facts

    say = processes.console().say
    facts = start_facts(workspace, config, detect())
    for caution in cautions(config, facts):
        say(f"{SAID[caution.level]}{caution.words}")
    advice = advice_for(config, facts)
    if advice is not None and (say_unknown or advice.follows is not None):
        for line in advice.lines:
            say(line.words)


def settings_of(
    options: argparse.Namespace, workspace: Workspace, token: CancelToken | None = None
) -> tuple[RunConfig, dict[str, str]]:
    """The settings of "train" by its options, and where each value comes from. With --on, an export is made if need be.

    Raises:
        UserError: a value is out of bounds, or there is no such preset, run or file.
    """
    from engine.config.presets import all_presets, resolve
    from engine.config.user_presets import UserPresets
    from engine.demo.sets import demo_preset
    from engine.families.distilled import usual_settings
    from engine.families.files import family_of

    if options.on:
        return _settings_on(options, workspace, token)
    preset = None
    if not options.from_run:
        preset = UserPresets(workspace.presets, [demo_preset(), *all_presets()]).get(preset_of(options))

    def below(family: str = "", what: str = CONTROLNET) -> list[tuple[str, dict[str, Any]]]:
        """The settings below those of the file and the options."""
        return preset.layers(family, what) if preset is not None else [_settings_now(options.from_run, workspace)]

    layers = _own_layers(options)
    asked = resolve(*below(), *layers)[0]
    base, what = asked.model.base, asked.tuning.what
    return resolve(*usual_settings(workspace, base), *below(family_of(workspace, base), what), *layers)


def preset_of(options: argparse.Namespace) -> str:
    """The name of the preset that "train" starts from: the one asked for, or the one for this machine."""
    from engine.config.presets import suggest
    from engine.machine import cards
    from engine.machine.hardware import detect

    if options.preset:
        return str(options.preset)
    smallest = min((card.memory_gib for card in cards.visible()), default=None)  # each process gets one of them
    return suggest(detect().vram_gib if group.current().alone else smallest).name


def own_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of the file and the options of "train --on", by section.

    Raises:
        UserError: the file cannot be read, or the options contradict --on.
    """
    if options.from_run or options.base:
        raise UserError(
            "--on cannot be used with --from-run or --base.",
            "With --on, the base is the one that the run has taught.",
            "Leave the other option out.",
        )
    return unflatten({name: value for _, layer in _own_layers(options) for name, value in flatten(layer).items()})


def _own_layers(options: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """The settings of the file and the options, as layers for ``resolve``."""
    from engine.config.presets import read_toml

    layers = [(options.file.name, read_toml(options.file))] if options.file else []
    from_options = {"data": {"dataset": options.dataset}, "model": {"base": options.base}}
    given = {section: {k: v for k, v in values.items() if v} for section, values in from_options.items()}
    return [*layers, ("you", given), ("you", parse_settings(options.set))]


def _settings_on(
    options: argparse.Namespace, workspace: Workspace, token: CancelToken | None
) -> tuple[RunConfig, dict[str, str]]:
    """The settings of "train --on": the run's best checkpoint is exported, unless that is done."""
    from engine.training.follow_up import controlnet_config, exported_for_controlnet

    own, run, console = own_settings(options), Run(workspace.run_folder(options.on)), processes.console()
    path = exported_for_controlnet(workspace, run, token, console.progress)
    console.say(f"On {path}")
    return controlnet_config(workspace, run, path, preset_of(options), own)


def _settings_now(name: str, workspace: Workspace) -> tuple[str, dict[str, Any]]:
    """The settings that a run has now, as a layer for ``resolve``."""
    config = Run(workspace.run_folder(name)).config
    return f"run {name}", config.model_dump(mode="json", include={"name", *SECTIONS})


def _train_run(name: str, workspace: Workspace, control: Control) -> int:
    from engine.jobs.keep_awake import keep_awake
    from engine.machine.hardware import detect
    from engine.training.job import training_job

    run, console = Run(workspace.run_folder(name)), processes.console()
    console.say(f"Run {run.folder}")
    if detect().cards > 1 and group.current().alone:
        console.say(f"On {detect().sentence}")
    with keep_awake(console.say):
        outcome = training_job(workspace, run)(control.token, console.event)
    if outcome in ("completed", "stopped"):
        _tell_next(workspace, name)
    return 0 if outcome == "completed" else EXIT_INTERRUPTED


def _tell_next(workspace: Workspace, name: str) -> None:
    """Print what to try after a run that has ended, with its command."""
    from engine.machine.hardware import detect
    from engine.training.next_run import after

    run = Run(workspace.run_folder(name))
    found = after(workspace, run, run.history(), detect())
    if found is not None:
        say = processes.console().say
        say(f"Next: {found.title}. {found.why}")
        say(f"    python -m engine.cli {join_words(found.arguments(name))}")


COMMANDS = {"train": train, "resume": resume, "trial": trial}
