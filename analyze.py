"""Runs to tables, figures and a report: ``python analyze.py``, or ``python analyze.py source=epochs.csv study=pilot``.

``python analyze.py check=RUN`` asks whether one run's gaze is faithful, ``python analyze.py explain=RUN images=PATH``
shows where it looks in images of one's own. Reads what train.py left below ``outputs/``. Settings are in
``conf/analyze.yaml``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gaze.config.naming import quoted  # makes ${analysis_name:...} known as well

PATHS = ("source", "check", "explain", "images")


@hydra.main(version_base="1.3", config_path="conf", config_name="analyze")
def main(cfg: DictConfig) -> None:
    from rich.console import Console

    from gaze.config.train import check_analysis
    from gaze.errors import GazeError  # after Hydra: --help answers at once

    try:
        config = check_analysis(cfg)
        from gaze.studies.run import run_analysis

        run_analysis(config, Path(HydraConfig.get().runtime.output_dir), Console())
    except GazeError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], PATHS)
    main()
