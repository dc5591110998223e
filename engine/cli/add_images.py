"""The command "import" (also "scan"): make a dataset of images."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.disk.typed_path import typed_path
from engine.jobs.control import Control
from engine.machine.units import counted
from engine.workspace.paths import Workspace

if TYPE_CHECKING:
    from engine.data.import_config import ImportConfig

PROBLEMS_SHOWN = 100


def add_parser(commands: Any) -> None:
    """Add "import" to the command line's parsers."""
    bring = commands.add_parser("import", aliases=["scan"], help="make a dataset from images")
    bring.add_argument(
        "source",
        help="a folder, a list of URLs (parquet, CSV), .tar archives, parquet files, another trainer's dataset config "
        "(kohya, OneTrainer, SimpleTuner, musubi-tuner, ai-toolkit), or a Hugging Face id",
    )
    bring.add_argument("--name", help="name of the new dataset; default: the name of the source")
    bring.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_settings(bring)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting of engine/data/import_config.py."""
    from engine.data.import_config import ImportConfig

    shorter = {"max_pictures": "--max"}
    for name, field in ImportConfig.model_fields.items():
        option = shorter.get(name, "--" + name.replace("_", "-"))
        about = f"{field.description} Default: {field.default!r}.".replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(option, dest=name, action=argparse.BooleanOptionalAction, default=None, help=about)
        else:
            kind: Any = field.annotation
            parser.add_argument(option, dest=name, type=kind, metavar="VALUE", help=about)


def place_of(options: argparse.Namespace) -> str:
    """The source; a path as an absolute one."""
    path = Path(typed_path(options.source))
    return str(path.resolve()) if path.exists() else str(options.source)


def import_settings(options: argparse.Namespace) -> ImportConfig:
    """The settings of the import. Raises UserError that lists all that are wrong."""
    from engine.data.import_config import ImportConfig, parse_import

    given = {name: value for name in ImportConfig.model_fields if (value := getattr(options, name)) is not None}
    return parse_import(given)


def run(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """Import, and print what was found. Raises UserError or Cancelled."""
    from engine.cli.output import EventPrinter
    from engine.data.importing import import_source

    console = EventPrinter(sys.stderr if options.json else sys.stdout)
    result = import_source(
        workspace, place_of(options), options.name or "", import_settings(options), console.progress, control.token
    )
    if options.json:
        print(json.dumps(result.as_dict(), ensure_ascii=False, indent=2))
        return 0
    say_result(result, console)
    return 0


def say_result(result: Any, console: Any) -> None:
    """Print what an import (``ImportResult``) has found, guessed and left out."""
    from engine.data.dataset import Dataset
    from engine.data.import_config import text_of_roles

    console.say(
        f"{result.name}: {counted(result.pictures, 'image')} ({result.found}), {counted(result.captioned, 'caption')}"
    )
    for sentence in [*result.file_usage, *result.notes]:
        console.say(f"  {sentence}")
    if result.doubts:
        for sentence in result.doubts:
            console.say(f"  Guessed: {sentence}")
        roles = text_of_roles({part.name: part.role for part in result.parts})
        if roles:
            console.say(f'  To change the roles, edit this and import again: --roles "{roles}"')
    for problem in Dataset.open(result.folder).problems(0, PROBLEMS_SHOWN):
        console.say(f"  {problem.what} {problem.why} {problem.try_this}")
    if result.problems > PROBLEMS_SHOWN:
        console.say(f"  And {result.problems - PROBLEMS_SHOWN:,} more.")
