from .module import GazeModule
from .train import run_training

__all__ = ["GazeModule", "run_training"]
