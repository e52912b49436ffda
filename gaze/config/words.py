"""The words of a command line, before Hydra reads them.

A path or a name that Hydra's grammar would change is put in quotes; a setting that no YAML lists goes on to the check
of settings, which knows what it belongs to; and what is no setting is answered with the command that was meant.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal import utils as hydra_utils
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from gaze.choices import either, shown, unknown, unknown_network
from gaze.errors import ConfigError

KEPT = ("", "null", "true", "false")  # are no text
UNREAD = (HydraException, ValueError, RecursionError)  # of the grammar: signs, 4,301 digits, a thousand brackets
KEY = re.compile(r"[A-Za-z][\w.]*")


class Command(NamedTuple):
    """One of the two commands.

    Attributes:
        name: that of its YAML in ``conf``.
        texts: settings whose value is text, as it stands.
        conf: the folder of the YAML.
        grids: whether ``-m`` trains several values.
        of_a_run: groups whose own value is that of their setting ``run``.
    """

    name: str
    texts: tuple[str, ...]
    conf: Path
    grids: bool
    of_a_run: tuple[str, ...] = ()

    def prepared(self, words: Sequence[str]) -> list[str]:
        """Hydra's flags, then the settings as Hydra is to read them. Preparing them again changes nothing.

        Args:
            words: of the command line, behind the command itself.

        Raises:
            ConfigError: says for each word that is no setting what was meant.
        """
        args, strange = hydra_utils.get_args_parser().parse_known_args(words)
        loose = [*args.overrides, *strange]  # argparse leaves settings behind a flag to us
        flags = [word for word in words if word not in loose]
        settings = _written_out([word for word in words if word in loose], flags)
        settings = [re.sub(rf"^({'|'.join(self.of_a_run)})=", r"\1.run=", word) for word in settings]
        settings = [self._quoted(word, args.multirun) for word in settings]
        overrides = [_parsed(word) for word in settings]
        shows = args.cfg or args.info or args.help or args.hydra_help or args.shell_completion
        if not (args.multirun or shows or any(o.key_or_group == "hydra.mode" for o in overrides)):
            self._check_single(overrides, [*flags, *settings])
        if args.config_path is None:  # else it is not our YAML
            self._check_choices(overrides, args.config_dir)
            settings = [self._freed(o) for o in overrides]
        return [*flags, *settings]

    def _quoted(self, word: str, sweep: bool) -> str:
        key, _, value = word.partition("=")
        if key.lstrip("+") not in self.texts or value in KEPT or value[0] in "'\"":
            return word
        if sweep and re.fullmatch(r"(choice|glob|shuffle|sort)\(.*\)", value):
            return word
        if self.grids and "," in value and not (sweep or Path(value).exists()) and _is_sweep(word):
            return word
        return f"{key}={','.join(quoted(part) for part in (value.split(',') if sweep else [value]))}"

    def _check_single(self, overrides: Sequence[Override], words: Sequence[str]) -> None:
        several = [override for override in overrides if override.is_sweep_override()]
        if several:
            grid = f"are a grid: {_command(['-m', *words])}" if self.grids else "are one too many here: give one"
            key, _, value = str(several[0].input_line).partition("=")
            listed = f". A list is written {key}=[{value}]." if several[0].is_choice_sweep() else ""
            raise ConfigError(f"{' '.join(str(o.input_line) for o in several)}: several values {grid}{listed}")

    def _choices(self, group: str, more: str | None) -> list[str]:
        folders = [self.conf, *([Path(more)] if more else [])]
        return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})

    def _check_choices(self, overrides: Sequence[Override], more: str | None) -> None:
        problems = []
        for override in overrides:
            group, choices = override.key_or_group, self._choices(override.key_or_group, more)
            if group.startswith("hydra/") and not all(isinstance(value, str) for value in _chosen(override)):
                problems.append(f"{override.input_line}: {group} is chosen by a word. --help shows which there are.")
            if not choices or override.is_hydra_override():
                continue
            if not self.grids:  # of the other command
                problems.append(f"{override.input_line}: there is no such setting here. --help shows what there is.")
            elif override.is_delete():
                problems.append(f"{override.input_line}: a run needs one: {group}={either(choices)}.")
            else:
                wrong = [value for value in _chosen(override) if value not in choices]
                problems += [_no_choice(group, value, choices) for value in wrong]
        if problems:
            raise ConfigError("\n".join(problems))

    def _freed(self, override: Override) -> str:
        """Hydra itself takes only what a YAML lists, and its hint for anything else is to put a plus before it."""
        word, key = str(override.input_line), override.key_or_group
        if override.is_delete() or override.package is not None or override.is_hydra_override():
            return word
        own = _loaded(self.conf / f"{self.name}.yaml")
        listed = self._choices(key, None) or OmegaConf.select(own, key, default=own) is not own
        return f"{'' if listed else '++'}{word.lstrip('+')}"


@cache
def _loaded(path: Path) -> DictConfig | ListConfig:
    return OmegaConf.load(path)


def quoted(value: str) -> str:
    """A path or a name so that Hydra reads just that text: "=", "," and "(" are grammar of its own, 1.10 a number."""
    value = os.path.expanduser(value)  # noqa: PTH111 - Path raises where there is no home; the shell expands no a.b=~/c
    try:
        if OverridesParser.create().parse_override(f"key={value}").value() == value:
            return value
    except UNREAD:
        pass
    end = "\\" * (len(value) - len(value.rstrip("\\")))  # doubled, or it would take the closing quote's meaning
    return f"'{value.replace(chr(39), chr(92) + chr(39))}{end}'"


def _written_out(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """``--lambda 50`` and ``lambda 50`` end in an error that has ``lambda=50``."""
    meant, odd, left = [], [], list(words)
    while left:
        word = left.pop(0)
        if word.startswith("~") or ("=" in word and not word.startswith("-")):
            meant.append(word)
            continue
        key, equals, value = word.lstrip("-").partition("=")
        odd.append(word)
        if not equals and left and "=" not in left[0] and not left[0].startswith("--"):
            value = left.pop(0)
            odd.append(value)
        meant.append(f"{key}={value}" if KEY.fullmatch(key) and value else "")
    if odd:
        command = f": {_command([*flags, *meant])}" if all(meant) else ", without spaces around =. --help shows them."
        raise ConfigError(f"{' '.join(odd)}: a setting is written NAME=VALUE{command}")
    return meant


def _is_sweep(word: str) -> bool:
    try:
        return OverridesParser.create().parse_override(word).is_sweep_override()
    except UNREAD:
        return False


def _parsed(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except UNREAD as error:
        key, _, value = word.partition("=")
        raise ConfigError(
            f"{shown(word)} cannot be read ({shown(str(error).partition(' expecting')[0])}). A value with such signs "
            f"is put in quotes, and the whole word in others: \"{key}='{shown(value)}'\""
        ) from error


def _chosen(override: Override) -> Iterator[Any]:
    """Values that a choice in a group takes."""
    value: Any = override.value()
    if isinstance(value, Glob):  # takes what there is
        return
    if isinstance(value, ChoiceSweep | list):
        yield from value if isinstance(value, list) else value.list
    else:
        yield value if not isinstance(value, RangeSweep) else str(override.get_value_element_as_str())


def _no_choice(group: str, value: Any, choices: Sequence[str]) -> str:
    word = shown(value)
    if group == "dataset" and ("/" in word or "\\" in word):
        name = Path(word).name or "mine"
        meant = ["dataset=folder", f"dataset.root={word}", f"dataset.name={name}"]
        return f"dataset={word} is a path. Images in a folder: {_command(meant)}"
    if group == "model" and isinstance(value, str):
        return unknown_network(word, choices)
    return unknown(group, word, choices)


def _command(words: Sequence[str]) -> str:
    return f"{hydra_utils._get_exec_command()} {shlex.join(words)}"


def again(word: str) -> str | None:
    """The command that runs, with one word more; None in Python that is no such command."""
    if Path(sys.argv[0]).stem not in ("analyze", "gaze-analyze"):
        return None
    return _command([*(re.sub("^([^=]*)='(.*)'$", r"\1=\2", own) for own in sys.argv[1:]), word])


def unreadable(error: Exception, words: Sequence[str]) -> str:
    """What Hydra or OmegaConf could not compose, in one line, with the words of the command line that it may be about.

    Args:
        error: theirs, whose message takes several lines, of which the first says it.
        words: of the command line.
    """
    said = [str(each).strip().partition("\n")[0].rstrip(".") for each in (error, error.__cause__) if each is not None]
    words = [word.lstrip("+") for word in words if "=" in word or word.startswith("~")]
    about = [word for word in words if "$" in word or "???" in word]
    about = about or [word for word in words if word.lstrip("~").partition("=")[0] in str(error)]
    hint = " ${NAME} stands for another setting, such as ${seed}." if any("$" in word for word in about) else ""
    return f"{shown(' '.join(about)) or 'settings'}: {shown(': '.join(dict.fromkeys(said)), 200)}.{hint}"
