"""Train one run, or with ``-m`` a grid: ``python train.py -m model=level1,level2 lambda=0,50``.

Settings are in ``conf/``; any of them can be given on the command line as ``name=value``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gaze.config.naming import register


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
    register()  # again where Ray or SLURM started this process
    from gaze.config.train import check_config, check_trainer
    from gaze.errors import GazeError  # after Hydra: --help answers at once
    from gaze.runs.folder import finished_run
    from gaze.runs.status import Interrupted, is_first_process

    try:
        try:
            config = check_config(cfg, trainer=False)
        except GazeError:
            config = check_config(cfg)  # names what is wrong with the Trainer's arguments too
        folder = Path(HydraConfig.get().runtime.output_dir)
        done = finished_run(folder, config)
        if done is not None:
            print(f"{folder}: finished already, kappa {done['val/kappa']:.4f}. rerun=true trains it anew.")
            return done["val/kappa"]
        check_trainer(config)
        from gaze.training.train import run_training

        return run_training(config, folder, lambda: save_settings(cfg, folder / ".hydra")).get("val/kappa")
    except GazeError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # the grid goes on and has it in its table
        sys.exit(1)
    except Interrupted as error:
        # As a shell would have it. The other processes of a data-parallel run end quietly: Lightning kills the first
        # one where another ends with an error.
        sys.exit(128 + error.signum if is_first_process() else 0)


if __name__ == "__main__":
    main()
