"""The user's own presets: files in the workspace that hold only what differs from the app's preset they are based on.

A value that the user has not changed follows the app's preset when a later version changes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.config import RunConfig
from engine.config.presets import Preset, flatten, load_preset, resolve
from engine.config.toml import lines_of
from engine.disk.durable import atomic_write_text
from engine.disk.in_use import remove_file
from engine.errors import UserError, choose_from
from engine.workspace.paths import safe_name

RUN_ONLY = ("name", "data.dataset")
"""Settings of a single run, which presets do not keep."""


class UserPresets:
    """The app's presets and the user's in one list. ``problems`` names the files that cannot be used."""

    def __init__(self, folder: Path, shipped: Iterable[Preset]) -> None:
        self.folder = folder
        self._shipped = {preset.name: preset for preset in shipped}
        self.all: dict[str, Preset] = {}
        self.problems: list[UserError] = []
        self.read()

    def read(self) -> None:
        """Read the folder again. Broken files are left out, and listed in ``problems``."""
        found, problems = dict(self._shipped), []
        for path in sorted(self.folder.glob("*.toml")):
            try:
                self._require_free(path.stem)
                found[path.stem] = load_preset(path, self._shipped)
            except UserError as error:
                problems.append(error)
        self.all, self.problems = found, problems

    def get(self, name: str) -> Preset:
        """Return the preset with that name.

        Raises:
            UserError: there is none, or its file cannot be used.
        """
        if name not in self.all:
            problems = " ".join(f"{problem.what} {problem.why}" for problem in self.problems)
            raise UserError(
                f"There is no preset called {name}.",
                problems or f"{self.folder} has no such file.",
                choose_from(self.all, name),
            )
        return self.all[name]

    def is_own(self, name: str) -> bool:
        """Whether a preset is the user's own."""
        return name in self.all and name not in self._shipped

    def save(self, title: str, over: str, family: str, config: RunConfig) -> str:
        """Write a preset, in place of one with the same title. Returns its name.

        Args:
            over: the preset that ``config`` was made from. If that is the user's own, the new one is based on the
                app's preset below it, and holds the differences of both.
            family: family of the base of ``config``; presets may have settings for a family.

        Raises:
            UserError: no title, one that is taken, or nothing differs.
        """
        title = " ".join(title.split())
        if not title:
            raise UserError("The preset was not saved.", "It has no name.", "Enter a name.")
        name = self._require_free(safe_name(title))
        for other, preset in self.all.items():
            if other.casefold() != name.casefold():  # Windows does not tell them apart
                continue
            if preset.title.casefold() != title.casefold():
                raise UserError(
                    "The preset was not saved.",
                    f"It would replace the file of the preset {preset.title}.",
                    "Choose another name.",
                )
            name = other
        below = self.all[over].based_on or self.all[over]
        usual = flatten(resolve(*below.layers(family, config.tuning.what))[0].model_dump())
        values = flatten(config.model_dump())
        changes = {dotted: value for dotted, value in values.items() if value != usual[dotted]}
        changes = {dotted: value for dotted, value in changes.items() if dotted not in RUN_ONLY}
        if not changes:
            raise UserError(
                "The preset was not saved.",
                f"These settings are the same as in the preset {below.title}.",
                "Use that preset, or change a setting first.",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {"preset.title": title, "preset.based_on": below.name}
        text = "# What differs from the preset that it is based on; everything else follows that one.\n"
        atomic_write_text(self.folder / f"{name}.toml", text + "\n".join(lines_of({**about, **changes})) + "\n")
        self.read()
        return name

    def delete(self, name: str) -> None:
        """Delete a preset of the user's."""
        if self.is_own(name):
            remove_file(self.folder / f"{name}.toml")
            self.read()

    def _require_free(self, name: str) -> str:
        if name.casefold() in self._shipped:
            raise UserError(
                f"The preset {self.folder / name}.toml is not used.",
                f"The app comes with a preset of the same name, {name}.",
                "Choose another name.",
            )
        return name
