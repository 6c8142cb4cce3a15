"""The same runs as an array of jobs through submitit, on SLURM or (to try it) as processes of this machine."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import submitit
import yaml
from submitit.helpers import DelayedSubmission

from video_gn.ablate.local import POLL, Process
from video_gn.ablate.run import Run
from video_gn.data.loader import MOST_WORKERS
from video_gn.errors import InputError


class Job:
    """One run as a job: called on the cluster in each of the run's processes; pre-empted, it saves and goes back.

    Args:
        run: What to train and test.
        timeout: Seconds for saving when the job has to stop.
    """

    def __init__(self, run: Run, timeout: float = 80.0) -> None:
        self.run, self.timeout = run, timeout
        self._process: Any = None

    def __call__(self) -> dict[str, Any] | None:
        """Trains and tests, or continues it; gives how it ended."""
        # SLURM starts one task for each process of the run, and Lightning finds in its variables which one this is.
        task = int(os.environ.get("SLURM_PROCID", 0))
        self._process = Process(self.run, task=task)
        while self._process.poll() is None:  # no blocking wait: `checkpoint` comes by a signal, and waits, too
            time.sleep(POLL)
        if task:
            return None
        note = self._process.note()
        if note["status"] != "finished":
            raise RuntimeError(f"{self.run.name}: {note.get('error', note['status'])}")
        return note

    def checkpoint(self) -> Any:
        """Called by submitit before time is up or the job is pre-empted: the same job is put back into the queue."""
        if self._process is not None:
            self._process.stop()
            with suppress(TimeoutExpired):
                self._process.wait(self.timeout)
        return DelayedSubmission(Job(self.run, self.timeout))


def submit(runs: Sequence[Run], out: Path, cluster: str, options: Mapping[str, Any]) -> list[Any]:
    """Submits what is not finished as one array.

    Args:
        runs: Runs of a grid.
        out: The ablation's folder; the jobs' own files go into `jobs` in it.
        cluster: "slurm" or "local".
        options: submitit's parameters: slurm_partition, timeout_min, slurm_array_parallelism and so on.

    Returns:
        submitit's jobs, for the runs that are not finished.

    Raises:
        InputError: submitit refuses an option, or there is no such cluster here.
    """
    waiting = [run for run in runs if not run.results()]
    needed = [_resources(run, cluster) for run in runs]
    if different := [run.cell.name for run, own in zip(runs, needed, strict=True) if own != needed[0]]:
        raise InputError(
            f"{different[0]} needs other resources than {runs[0].cell.name} (devices, nodes, loader workers), and one "
            "array has the same for all; make them grids of their own"
        )
    try:
        executor = submitit.AutoExecutor(out / "jobs", cluster=cluster)
        executor.update_parameters(**needed[0] | dict(options))
        with executor.batch():
            return [executor.submit(Job(run)) for run in waiting]
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
        raise InputError(f"--cluster {cluster}: {' '.join(str(error).split())}") from None


def _resources(run: Run, cluster: str) -> dict[str, Any]:
    """What one run needs, by its settings: on SLURM a task for each process, as Lightning expects."""
    if cluster == "local":
        return {"timeout_min": 60 * 24 * 7}
    gpu = run.config["trainer.accelerator"] != "cpu"
    return {
        "name": run.folder.parent.parent.name,
        "nodes": int(run.config["trainer.num_nodes"]),
        "tasks_per_node": run.devices,
        "cpus_per_task": _cores(run.config["data.loading.num_workers"]),
        **({"gpus_per_node": run.devices} if gpu else {}),
    }


def _cores(workers: int | None) -> int:
    """Of a process with so many loader workers; None are as many as it has cores for."""
    return MOST_WORKERS if workers is None else workers + 1


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Options `name=value` as a dictionary.

    Raises:
        InputError: An option without a value.
    """
    options = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"--cluster_options has {word}; an option is name=value, as timeout_min=2880")
        options[name] = yaml.safe_load(value)
    return options
