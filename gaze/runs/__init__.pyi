from .load import Runs, load_runs, read_runs

__all__ = ["Runs", "load_runs", "read_runs"]
