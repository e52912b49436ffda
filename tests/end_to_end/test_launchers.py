"""The launchers of conf/hydra/launcher, really used: Ray on this machine's CPU, SLURM on a cluster that is a script."""

import importlib.util
import json
import os
import stat
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from conftest import REPO, TINY

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='needs pip install -e ".[ray]"')
needs_slurm = pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason='needs pip install -e ".[slurm]"')


def grid(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "train.py", "-m", *TINY, *words, f"hydra.sweep.dir={folder}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "RAY_USAGE_STATS_ENABLED": "0", **environment}
    return subprocess.run(line, cwd=REPO, env=env, capture_output=True, text=True, timeout=240)


def statuses(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.rglob("status.json"))}


@needs_ray
@pytest.mark.slow
def test_ray_runs_two_at_once_each_in_a_process_of_its_own_with_one_cache(tmp_path):
    cache, folder = tmp_path / "cache", tmp_path / "grid"
    words = ("hydra/launcher=gpus", "hydra.launcher.ray.init.num_cpus=2", "dataset.seed=7", "seed=0,1")
    done = grid(*words, folder=folder, GAZE_CACHE=str(cache))
    assert done.returncode == 0, done.stdout + done.stderr
    found = list(statuses(folder).values())
    assert [status["state"] for status in found] == ["complete"] * 2
    assert len({status["pid"] for status in found}) == 2
    times = sorted((datetime.fromisoformat(s["started"]), datetime.fromisoformat(s["finished"])) for s in found)
    assert times[1][0] <= times[0][1]  # the second began before the first ended
    assert len([path for path in cache.iterdir() if path.suffix != ".lock"]) == 1
    assert "grid: 2 done, 0 running, 0 failed, 0 left" in done.stdout

    again = grid(*words, folder=folder, GAZE_CACHE=str(cache))
    assert again.returncode == 0
    assert "2 of 2 runs are finished already." in again.stdout and "Ray" not in again.stdout


SBATCH = """#!{python}
# A cluster in a script: sbatch runs each job of the array at once, in the background.
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
open(os.environ["CLUSTER"] + "/script.sh", "w").write(script)
jobs = re.search(r"--array=0-(\\d+)", script)
for i in range(int(jobs.group(1)) + 1 if jobs else 1):
    env = {{**os.environ, "SLURM_JOB_ID": str(4242 + i), "SLURM_ARRAY_JOB_ID": "4242", "SLURM_ARRAY_TASK_ID": str(i),
           "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
           "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1"}}
    out = open(os.environ["CLUSTER"] + f"/job{{i}}.out", "w")
    subprocess.Popen(["bash", sys.argv[-1]], env=env, stdout=out, stderr=out, start_new_session=True)
print("Submitted batch job 4242")
"""
SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do [[ "$1" == *=* || "$1" == --unbuffered ]] && shift || shift 2; done
exec "$@"
"""
SACCT = '#!/bin/bash\necho "JobID|State|NodeList"\nfor i in 0 1; do echo "4242_$i|RUNNING|localhost"; done\n'


@needs_slurm
@pytest.mark.slow
def test_slurm_gets_one_script_with_the_resources_and_its_jobs_complete_the_grid(tmp_path):
    cluster = tmp_path / "cluster"
    cluster.mkdir()
    for name, text in {"sbatch": SBATCH.format(python=sys.executable), "srun": SRUN, "sacct": SACCT}.items():
        (cluster / name).write_text(text)
        (cluster / name).chmod((cluster / name).stat().st_mode | stat.S_IEXEC)
    words = ("hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=30", "seed=0,1")
    path = f"{cluster}{os.pathsep}{os.environ['PATH']}"
    done = grid(*words, folder=tmp_path / "grid", PATH=path, CLUSTER=str(cluster))
    outputs = "".join(file.read_text() for file in cluster.glob("job*.out"))
    assert done.returncode == 0, done.stdout + done.stderr + outputs
    script = (cluster / "script.sh").read_text()
    for setting in (
        "--partition=gpu", "--time=30", "--gpus-per-node=1", "--cpus-per-task=4", "--mem=32GB", "--array=0-1%2",
        "--ntasks-per-node=1", "--signal=USR2@120",
    ):  # fmt: skip
        assert f"#SBATCH {setting}" in script, script
    found = statuses(tmp_path / "grid")
    assert [status["state"] for status in found.values()] == ["complete"] * 2
    assert len({status["pid"] for status in found.values()}) == 2
    assert "grid: 2 done" in done.stdout


@pytest.mark.slow
def test_one_run_over_two_processes_by_the_command(tmp_path):
    folder = tmp_path / "run"
    words = ("trainer.devices=2", "+trainer.strategy=ddp", "trainer.max_epochs=1", f"hydra.run.dir={folder}")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "train.py", *TINY, *words]
    done = subprocess.run(line, cwd=REPO, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (status,) = statuses(tmp_path).values()
    assert status["state"] == "complete" and status["metrics"]["step"] == 1  # 16 images, 8 in each process
    assert done.stdout.count("epoch 1/1") == 1  # one of them speaks
