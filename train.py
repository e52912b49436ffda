"""Train one run, or with ``-m`` a grid: ``python train.py -m model=level1,level2 lambda=0,50``.

Settings are in ``conf/``; any of them can be given on the command line as ``name=value``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf


def number(value: Any) -> str:
    """One name for one value in a folder's name: lambda=50 and lambda=50.0 are the same run.

    What is not a number stays as it is: Hydra needs the folder before ``check_config`` can object.
    """
    return f"{value:.15g}" if isinstance(value, int | float) else str(value)


OmegaConf.register_new_resolver("number", number, replace=True)


def save_settings(cfg: DictConfig, folder: Path) -> None:
    """Hydra's own three files. Hydra itself would write them before the settings are checked, over those of a
    finished run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hydra_cfg = HydraConfig.get()
    OmegaConf.save(cfg, folder / "config.yaml")
    OmegaConf.save(OmegaConf.create({"hydra": hydra_cfg}), folder / "hydra.yaml")
    OmegaConf.save(hydra_cfg.overrides.task, folder / "overrides.yaml")


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    from gaze.config import GazeError, check_config  # after Hydra: --help and a typing error answer at once

    try:
        config = check_config(cfg)
        from gaze.training import run_training

        folder = Path(HydraConfig.get().runtime.output_dir)
        return run_training(config, folder, lambda: save_settings(cfg, folder / ".hydra")).get("val/kappa")
    except GazeError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
