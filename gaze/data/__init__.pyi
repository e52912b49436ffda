from .datamodule import GazeDataModule

__all__ = ["GazeDataModule"]
