"""Settings of the group ``augmentation``: a strength for each entry of ``gaze.choices.AUGMENTATIONS``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, model_validator

from gaze.choices import AUGMENTATIONS
from gaze.config.settings import FolderName, Settings, no_such
from gaze.errors import ConfigError


class AugmentationConfig(Settings):
    """What happens to a training image. What is not named is off: ``AugmentationConfig(name="flip", hflip=0.5)``."""

    model_config = ConfigDict(extra="allow")
    name: FolderName = "none"

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, values: Any) -> Any:
        """Every entry of the registry, in its order, checked."""
        if not isinstance(values, dict):
            return values
        known = ["name", *AUGMENTATIONS]
        problems = [no_such(f"augmentation.{key}", values[key], known) for key in values if key not in known]
        whole = {"name": values.get("name", "none")}
        for name, entry in AUGMENTATIONS.items():
            try:
                whole[name] = entry.strength(values.get(name, entry.off))
            except ConfigError as error:
                problems.append(str(error))
        mixing = [name for name, entry in AUGMENTATIONS.items() if entry.scope == "label" and whole.get(name)]
        if len(mixing) > 1:
            problems.append(
                f"augmentation.{' and augmentation.'.join(mixing)} cannot be on together. Set all but one to 0."
            )
        if problems:
            raise ValueError("\n".join(problems))
        return whole

    def on(self, scope: str) -> dict[str, Any]:
        """Strengths of those that are on, by name, in the order in which they are applied.

        Args:
            scope: "frame", "image" or "label", see :class:`gaze.choices.Augmentation`.
        """
        values = self.model_dump()
        entries = {name: entry for name, entry in AUGMENTATIONS.items() if entry.scope == scope}
        return {name: values[name] for name, entry in entries.items() if values.get(name, entry.off) != entry.off}
