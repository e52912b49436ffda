"""gaze.measures: the table is whole and in order, and a row that is added is read everywhere."""

import pytest
from conftest import REPO

from gaze.choices import DISTANCES
from gaze.measures import MEASURES, Measure, as_page, epoch_columns, measures
from gaze.runs.load import load_runs
from gaze.statistics.seeds import lambda_table
from gaze.studies.consistency import tables
from gaze.training.module import GazeModule
from gaze.training.train import run_training

EVERY_RUN = """epoch step lr train/lambda train/loss train/loss_cls train/loss_gaze val/loss val/accuracy val/kappa
    val/balanced_accuracy val/f1_macro
    val/gaze_consistency val/gaze_consistency_l2 val/gaze_consistency_grid val/gaze_consistency_balanced
    val/gaze_consistency_all val/gaze_eta_squared val/gaze_epsilon_squared val/gaze_empty_fraction val/gaze_entropy
    val/gaze_mask_energy val/gaze_mask_lift val/gaze_pointing val/n_correct"""


def test_metrics_csv_has_these_columns():
    assert epoch_columns() == EVERY_RUN.split()


def test_what_a_module_logs_is_in_the_table_by_its_name_and_with_its_good_side():
    logged, table = {"loss"}, measures()
    for distance in DISTANCES:
        module = GazeModule("level1", 2, 1, 32, gaze={"distance": distance, "mask_weight": 1.0})
        metrics = dict(module.val_metrics.items()) | dict(module.mask_metrics.items())
        metrics |= dict(module.human_metrics.items())
        metrics |= {"gaze_marker_energy": module.marker_energy, "worst_group_accuracy": module.group_accuracy}
        logged |= set(metrics)
        for name in metrics.keys() & table.keys():
            if table[name].better:
                assert metrics[name].higher_is_better == (table[name].better == "higher"), name
    logged |= {f"train_{name}" for name in module.train_means} | {"lr", "lambda_t"}
    assert logged - {"class_gaze", "class_counts", "human_by_class"} == {name for name, m in table.items() if m.column}


def test_the_page_is_the_table():
    assert (REPO / "docs" / "measures.md").read_text() == as_page()  # else: python -m gaze.measures > docs/measures.md


def test_a_measure_that_is_added_is_read_everywhere(tiny, tmp_path, registries, monkeypatch, capsys):
    MEASURES.add(Measure("sureness", "mean sureness", "share", better="higher", digits=2))
    monkeypatch.setattr(GazeModule, "on_validation_epoch_end", _measured(GazeModule.on_validation_epoch_end))
    for seed in (0, 1):
        run_training(tiny(f"seed={seed}", f"lambda={50 * seed}"), tmp_path / str(seed))
    final = capsys.readouterr().out
    assert any("mean sureness" in line and "0.75" in line for line in final.splitlines())
    runs = load_runs(tmp_path)
    assert set(runs["sureness"]) == {0.75}
    table = lambda_table(runs)
    assert set(table.loc[table["metric"] == "sureness", "mean"]) == {0.75}
    assert list(tables.gaze_item(table, "gaze", "here").shown["mean sureness"]) == ["0.75", "0.75"]
    assert "| `sureness` | mean sureness (share) | `val/sureness` | 0 .. 1 | higher | nothing |" in as_page()
    with pytest.raises(ValueError, match="measure=sureness is there already"):
        MEASURES.add(MEASURES["sureness"])


def _measured(end):
    def on_validation_epoch_end(self):
        end(self)
        self.log("val/sureness", 0.75)

    return on_validation_epoch_end
