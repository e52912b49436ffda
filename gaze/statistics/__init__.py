"""Statistics over seeds and runs: intervals, tests, permutations, bootstrap, and the tables made of them."""

from gaze.statistics.seeds import pearson_table

__all__ = ["pearson_table"]
