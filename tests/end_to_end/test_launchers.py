"""The launchers of conf/hydra/launcher, really used: Ray on this machine's CPU, SLURM on a cluster that is a script."""

import importlib.util
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
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
    ray = "hydra.launcher.ray.init"
    words = ("hydra/launcher=gpus", f"{ray}.num_cpus=2", f"{ray}.address=local", "dataset.seed=7", "seed=0,1")
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


# Two machines in one: another host name, another folder for each raylet, and the grid is started in a third.
OTHER_MACHINE = ("unshare", "--map-root-user", "--uts", "sh", "-c", 'hostname node2; exec "$@"', "sh")
LONGER = (*TINY, "dataset.train_images=256", "dataset.image_size=64", "trainer.max_epochs=12")


def raylet(folder: Path, *words: str, machine: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """One that runs. It waits 15 s for agents whose ports it is not told, in vain where the machine is busy."""
    agents = ("metrics-export", "runtime-env-agent", "dashboard-agent-grpc", "dashboard-agent-listen")
    ports = [f"--{name}-port={port}" for name, port in zip(agents, free_ports(4), strict=True)]
    own = (*ports, "--block", "--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats")
    line = [*machine, sys.executable, "-m", "ray.scripts.scripts", "start", *own, *words]
    folder.mkdir()
    log = folder.with_suffix(".log")
    for _ in range(3):
        with log.open("w") as out:
            process = subprocess.Popen(line, cwd=folder, stdout=out, stderr=out, start_new_session=True)
        wait_until(lambda: process.poll() is not None or "Ray runtime started" in log.read_text(), 300)  # noqa: B023
        if process.poll() is None:
            return process
        kill(process)
    raise AssertionError(log.read_text())


def below(pid: int) -> list[int]:
    """All processes of a session, and what they started in others."""
    facts = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            facts[int(path.parent.name)] = [int(n) for n in path.read_text().rpartition(")")[2].split()[1:4]]
    found = [process for process, (_, _, session) in facts.items() if session == pid]
    for one in found:
        found += [process for process, (parent, _, _) in facts.items() if parent == one and process not in found]
    return found


def kill(process: subprocess.Popen[bytes]) -> None:
    """And all that it started."""
    for pid in below(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def two_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, str, subprocess.Popen[bytes]]]:
    """A folder for the grid, the cluster's address, and the raylet of the second machine."""
    import ray

    if subprocess.run([*OTHER_MACHINE, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare and the right to give a process another host name")
    port, client = free_ports(2)
    secret = tmp_path / "ray-token"  # as docs/grids.md has it
    secret.write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(secret))
    address = f"{ray.util.get_node_ip_address()}:{port}"
    with tempfile.TemporaryDirectory(prefix="gaze-ray-", ignore_cleanup_errors=True) as name, ExitStack() as at_end:
        root = Path(name)  # a socket's path has 107 characters at most: not tmp_path
        words = (f"--port={port}", f"--ray-client-server-port={client}", f"--temp-dir={root}/ray")
        head = raylet(root / "a", "--head", "--include-dashboard=false", *words)
        at_end.callback(kill, head)
        other = raylet(root / "b", f"--address={address}", machine=OTHER_MACHINE)
        at_end.callback(kill, other)
        (root / "c").mkdir()
        yield root / "c", address, other


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.2)


def start(*words: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """A grid in the default folders below ``folder``."""
    line = [sys.executable, str(REPO / "train.py"), "-m", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "RAY_USAGE_STATS_ENABLED": "0", **environment}
    return subprocess.Popen(line, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_grid_on_two_machines_writes_where_it_was_started_and_outlives_one_of_them(two_machines, tmp_path):
    folder, address, other = two_machines
    # the images are kept in a relative folder, which is the grid's as well
    ray = ("hydra/launcher=gpus", f"hydra.launcher.ray.init.address={address}")
    going = start(*LONGER, *ray, "seed=0,1", "dataset.cache=kept", folder=folder)

    def third_epoch_on_node2() -> bool:
        assert going.poll() is None, going.communicate()[0]
        begun = [path for path in folder.rglob("metrics.csv") if len(path.read_text().splitlines()) > 3]
        return any(json.loads(path.with_name("status.json").read_text())["host"] == "node2" for path in begun)

    wait_until(third_epoch_on_node2, 600)
    kill(other)
    said, _ = going.communicate(timeout=600)
    assert going.returncode == 0, said
    assert "2 done, 0 running, 0 failed, 0 left" in said
    found = statuses(folder).values()
    assert [status["state"] for status in found] == ["complete"] * 2
    resumed = sorted(status["resumed_from_epoch"] for status in found)
    assert resumed[0] == 0 and resumed[1] >= 2  # the table of the third epoch is there before its checkpoint
    assert {path.name for path in folder.iterdir()} == {"kept", "outputs"}
    for called in ("a", "b"):  # where `ray start` was called there is nothing
        assert not list((folder.parent / called).iterdir())

    alone = start(*LONGER, "seed=0,1", folder=tmp_path)
    said, _ = alone.communicate(timeout=600)
    assert alone.returncode == 0, said
    tables = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("metrics.csv")}
    assert tables == {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("metrics.csv")}


SBATCH = """#!{python}
# A cluster in a script: sbatch runs each job of the array at once, in the background.
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
open(os.environ["CLUSTER"] + "/script.sh", "w").write(script)
jobs = re.search(r"--array=0-(\\d+)", script)
for i in range(int(jobs.group(1)) + 1 if jobs else 1):
    array = {{"SLURM_ARRAY_JOB_ID": "4242", "SLURM_ARRAY_TASK_ID": str(i), "SLURM_ARRAY_TASK_COUNT": "2"}}
    env = {{**os.environ, **(array if jobs else {{}}), "SLURM_JOB_ID": str(4242 + i),
           "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "1",
           "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1"}}
    out = open(os.environ["CLUSTER"] + f"/job{{i}}.out", "w")
    subprocess.Popen(["bash", sys.argv[-1]], env=env, stdout=out, stderr=out, start_new_session=True)
print("Submitted batch job 4242")
"""
SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do [[ "$1" == *=* || "$1" == --unbuffered ]] && shift || shift 2; done
exec "$@"
"""
SACCT = '#!/bin/bash\necho "JobID|State|NodeList"\nfor i in 0 1; do echo "4242_$i|RUNNING|localhost"; done\n'


SCONTROL = """#!/bin/bash
# scontrol requeue: SIGTERM for all processes of the job, this child among them; then the job starts again.
job=$PPID
setsid bash -c "while kill -0 $job; do sleep 0.2; done; exec bash $CLUSTER/script.sh" >>$CLUSTER/job0.out 2>&1 &
kill -TERM $job $$
"""


@pytest.fixture
def cluster(tmp_path) -> Path:
    folder = tmp_path / "cluster"
    folder.mkdir()
    scripts = {"sbatch": SBATCH.format(python=sys.executable), "srun": SRUN, "sacct": SACCT, "scontrol": SCONTROL}
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod((folder / name).stat().st_mode | stat.S_IEXEC)
    return folder


@pytest.mark.slow
def test_a_run_beside_an_srun_on_the_path_says_nothing_of_it(cluster, tmp_path):
    line = [sys.executable, str(REPO / "train.py"), *TINY]
    env = {**os.environ, "PATH": f"{cluster}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and "srun" not in done.stdout + done.stderr, done.stderr


@needs_slurm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_slurm_job_that_runs_out_of_time_is_queued_again_and_never_counts_as_failed(cluster, tmp_path):
    path = f"{cluster}{os.pathsep}{os.environ['PATH']}"
    going = start(*LONGER, "seed=0", "hydra/launcher=slurm", folder=tmp_path, PATH=path, CLUSTER=str(cluster))
    wait_until(lambda: any(tmp_path.rglob("last.ckpt")) or going.poll() is not None, 600)
    (before,) = statuses(tmp_path).values()
    os.kill(before["pid"], signal.SIGUSR2)
    said, _ = going.communicate(timeout=600)
    assert going.returncode == 0, said + (cluster / "job0.out").read_text()
    (after,) = statuses(tmp_path).values()
    assert after["state"] == "complete" and after["pid"] != before["pid"] and after["resumed_from_epoch"] >= 1
    lines = [line for line in said.splitlines() if line.startswith("grid:")]
    assert all("0 failed" in line for line in lines) and lines[-1].startswith("grid: 1 done"), said


@needs_slurm
@pytest.mark.slow
def test_an_sbatch_that_refuses_is_asked_once(cluster, tmp_path):
    (cluster / "sbatch").write_text(
        "#!/bin/bash\necho asked >>$CLUSTER/asked\necho 'sbatch: error: Invalid account' >&2\nexit 1\n"
    )
    path = f"{cluster}{os.pathsep}{os.environ['PATH']}"
    done = grid("hydra/launcher=slurm", "seed=0,1", folder=tmp_path / "grid", PATH=path, CLUSTER=str(cluster))
    assert done.returncode == 1 and (cluster / "asked").read_text() == "asked\n"
    assert "sbatch: error: Invalid account" in done.stdout and "2 of 2 runs are not complete" in done.stdout


@needs_slurm
@pytest.mark.slow
def test_slurm_gets_one_script_with_the_resources_and_its_jobs_complete_the_grid(cluster, tmp_path):
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
