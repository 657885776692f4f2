"""A real SLURM of one node, started and stopped by the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=10000,batch_sched_delay=0,bf_interval=1
ReturnToService=2
SlurmctldPort={controller_port}
SlurmdPort={daemon_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass
class Slurm:
    """The running scheduler."""

    folder: Path
    env: dict[str, str]

    def run(self, *command: object) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait(self, job: str, seconds: float = 240) -> None:
        """Until no task of the job is left."""
        end = time.monotonic() + seconds
        while self.tasks(job):
            assert time.monotonic() < end, self.run("scontrol", "show", "job", job)
            time.sleep(0.2)

    def tasks(self, job: str) -> list[str]:
        """The tasks that wait or run."""
        done = subprocess.run(
            ["squeue", "-h", "-r", "-j", job, "-o", "%K %T"],
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        # Of a job that is gone for long, squeue says that it does not exist.
        return done.stdout.splitlines() if done.returncode == 0 else []


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    programs = ("slurmctld", "slurmd", "sbatch", "squeue")
    search = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [name for name in programs if shutil.which(name, path=search) is None]
    if missing:
        pytest.skip(f"no SLURM here: {', '.join(missing)} missing (apt-get install slurm-wlm)")
    if os.geteuid() != 0:
        pytest.skip("only root can start a SLURM of its own")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "log"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(
        _CONF.format(
            host=host,
            folder=folder,
            controller_port=_free_port(),
            daemon_port=_free_port(),
            cpus=os.cpu_count(),
        )
    )
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "CMON_"))
    }
    env = {**inherited, "PATH": search, "SLURM_CONF": str(conf), "OMP_NUM_THREADS": "1"}
    slurm = Slurm(folder, env)
    try:
        for command in (["slurmctld", "-f", str(conf)], ["slurmd", "-f", str(conf), "-N", host]):
            started = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            if started.returncode:
                pytest.skip(f"{command[0]} does not start: {started.stderr.strip()[-200:]}")
        end = time.monotonic() + 30
        while True:
            asked = subprocess.run(
                ["sinfo", "-h", "-o", "%T"], env=env, capture_output=True, text=True, check=False
            )
            if asked.stdout.strip() == "idle":
                break
            if time.monotonic() > end:
                pytest.skip(f"SLURM does not become idle: {asked.stdout}{asked.stderr}")
            time.sleep(0.1)
        yield slurm
    finally:
        # Of a test that failed: what still runs would outlive the daemons.
        subprocess.run(["scancel", "--user", "root"], env=env, capture_output=True, check=False, timeout=30)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            asked = subprocess.run(
                ["squeue", "-h"], env=env, capture_output=True, text=True, check=False, timeout=30
            )
            if not asked.stdout.strip():
                break
            time.sleep(0.2)
        for name in ("slurmd", "slurmctld"):
            pid = folder / f"{name}.pid"
            if pid.is_file():
                os.kill(int(pid.read_text()), 15)
