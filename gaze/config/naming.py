"""Where a run goes: the folder's name as a function of the settings, for the interpolations of ``conf/train.yaml``.

Importing this module makes them known to OmegaConf. A process that Ray or SLURM starts imports it too, because
``train.py`` refers to :func:`register`.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gaze.files import file_digest
from gaze.names import LONGEST, visible

# Have a folder of their own.
IN_PATH = ("study", "dataset", "dataset.name", "model", "model.name", "model.source", "lambda", "seed")
BY_CONTENT = ("model.checkpoint", "model.path", "dataset.guide_dir")
# What changes no figure of a run, or stands for settings that say for themselves what they are.
NOT_IN_NAME = ("experiment", "resume", "rerun", "logger", "dataset.cache", "dataset.root", "trainer.accelerator")


def number(value: Any) -> str:
    """One name for one value: lambda=50 and lambda=50.0 are the same run.

    What is not a number stays as it is: Hydra needs the folder before ``check_config`` can object.
    """
    return f"{value:.15g}" if isinstance(value, int | float) and abs(value) < 1e300 else str(value)


def other_overrides(overrides: Sequence[str]) -> str:
    """Name of all overrides that have no folder of their own: ``",gaze.distance=l2"``, or nothing.

    Args:
        overrides: as on the command line, ``["model=level3", "gaze.distance=l2"]``. Their order does not matter.

    Returns:
        Letters, digits and ``._-+=,`` only, and at most :data:`gaze.names.LONGEST` characters; what had to be cut or
        replaced is told apart by eight hex digits.
    """
    values = {}
    for override in overrides:
        key, _, value = override.partition("=")
        values[key.lstrip("+")] = value  # the last one counts, as in Hydra
    without = (*IN_PATH, *NOT_IN_NAME)
    kept = {k: value for k, value in values.items() if k not in without and not k.startswith("logger.")}
    if not kept:
        return ""
    name = ",".join(f"{key}={_value(kept[key])}" for key in sorted(kept))
    short = re.sub(r"[^A-Za-z0-9._+=,-]+", "-", re.sub(r"[\[\]{}()'\" ]", "", name))
    if short != re.sub(r"[\[\]{}()'\" ]", "", name) or len(short) > LONGEST:
        short = f"{short[: LONGEST - 9]}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
    return f",{short}"


def _value(text: str) -> str:
    try:
        return number(float(text))
    except ValueError:
        return text


def _folder(*, _root_: Any) -> str:
    """``phantom/level2/lambda=0/seed=0``, and what :func:`other_overrides` adds."""
    from gaze.config.model import model_label  # --help answers before pydantic is loaded

    home = Path(_root_.hydra.runtime.cwd)
    others = other_overrides([_by_content(word, home) for word in _root_.hydra.overrides.task])
    last = f"lambda={number(_root_['lambda'])}/seed={_root_.seed}{others}"
    return f"{_root_.dataset.name}/{model_label(_root_.model)}/{last}"


def _by_content(override: str, home: Path) -> str:
    """``model.checkpoint=a/resnet.pt`` as ``model.checkpoint=resnet-`` and its digest, and masks of
    ``dataset.guide_dir`` likewise: the same files, the same run."""
    key, _, value = override.partition("=")
    if key.lstrip("+") not in BY_CONTENT or value in ("", "null"):
        return override
    with suppress(OSError, RuntimeError):  # what is wrong with it is said by check_config
        path = home / Path(value.strip("'\"")).expanduser()
        files = [f"{file.relative_to(path)} {file_digest(file)}" for file in sorted(path.rglob("*.png"))]
        digest = hashlib.sha256("\n".join(files).encode()).hexdigest()[:12] if files else file_digest(path)
        return f"{key}={path.stem}-{digest}"
    return override


def gpu_share(share: float) -> float:
    """``share`` where this machine has an NVIDIA GPU, else 0: what a run asks Ray for."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return float(share) if Path("/dev/nvidiactl").exists() and not hidden else 0.0


def register() -> None:
    """Make this module's names known to OmegaConf: ``${folder:}``, ``${gpu_share:...}``, ``${analysis_folder:...}``."""
    OmegaConf.register_new_resolver("folder", _folder, replace=True)
    OmegaConf.register_new_resolver("gpu_share", gpu_share, replace=True)
    OmegaConf.register_new_resolver("analysis_folder", analysis_folder, replace=True)


def analysis_folder(
    study: Any, check: Any, explain: Any, images: Any, checkpoint: Any, share: Any, review: Any = None,
    annotations: Any = None,
) -> str:  # fmt: skip
    """Where an analysis writes, below ``outputs``."""
    if annotations is not None:
        return "analysis/annotations"
    own = analysis_name(study, check, explain if review is None else review, images, checkpoint)
    own = own if review is None else own.replace("explain", "review", 1)
    return f"analysis/{own}" if share is None else "share"


def analysis_name(study: Any, check: Any, explain: Any, images: Any = None, checkpoint: Any = None) -> str:
    """Folder of an analysis below ``outputs/analysis``: the study's name, "all", or "check-" or "explain-" with the
    run's last five folders and, where given, the images' name and the checkpoint. Eight hex digits of the whole paths
    tell apart images, runs elsewhere than five folders below ``outputs``, and names that had to be cut."""
    run = check if check is not None else explain
    if run is None:
        return "all" if study is None else str(study)
    path = os.path.abspath(str(run))  # noqa: PTH100 - the name is the link's, not that of what it points at
    parts = [part for part in Path(path).parts[-5:] if part.strip("/\\")]
    name = "-".join(parts) + ("" if checkpoint in (None, "last") else f",{checkpoint}")
    if images is not None:
        seen = os.path.abspath(os.path.expanduser(str(images)))  # noqa: PTH100, PTH111 - as above
        path, name = f"{path}\n{seen}", f"{name},{Path(seen).name}"
    name = re.sub(r"[^A-Za-z0-9._+=,-]+", "-", name)
    if images is not None or len(name) > LONGEST or Path("outputs", *parts).absolute() != Path(path):
        name = f"{name[: LONGEST - 9]}-{hashlib.sha256(path.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
    return f"{'check' if check is not None else 'explain'}-{name}"


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written into ``folder``, which is made where it is missing; None where all is well.

    Of what is made here, folders that are still empty when the process ends are removed: a command that is refused
    leaves none behind.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    atexit.register(_remove_empty, made)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{folder}: this folder cannot be made ({error.strerror})."
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder}: this folder cannot be written to."


def _remove_empty(folders: Sequence[Path]) -> None:
    """From the inmost one outwards."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


class WritableFolder(Callback):
    """A callback of Hydra: an output folder that cannot be made is one clear error before anything else."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            folder = Path(str(config.hydra.run.dir)).absolute()
        except OmegaConfBaseException:  # Hydra stumbles over it next
            return
        problem = unwritable(folder)
        if problem is not None:
            print(visible(f"\nerror: {problem} Give another hydra.run.dir=PATH."), file=sys.stderr)
            sys.exit(1)


register()
