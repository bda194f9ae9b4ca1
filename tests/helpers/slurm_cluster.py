"""A real Slurm on this machine: two nodes with one GPU each that exist for the scheduler only. Needs no root."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
MISSING = [program for program in PROGRAMS if shutil.which(program, path=SEARCHED) is None]
needs_slurm = pytest.mark.skipif(
    bool(MISSING),
    reason=f"no {', '.join(MISSING)}: apt-get install slurmctld slurmd slurm-client",
)

GRES = """\
NodeName=node1 Name=gpu Type=a100 File={folder}/dev/nvidia0
NodeName=node2 Name=gpu Type=a40 File={folder}/dev/nvidia0
"""

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,sched_interval=1,bf_interval=1,batch_sched_delay=0
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MinJobAge=7200
KillWait=2
PrologFlags=Alloc
AccountingStorageType=accounting_storage/none
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=256000 Gres=gpu:a100:1
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=256000 Gres=gpu:a40:1
PartitionName=a100 Nodes=node1 MaxTime=24:00:00 DefMemPerCPU=1000 State=UP
PartitionName=a40 Nodes=node2 MaxTime=24:00:00 DefMemPerCPU=1000 State=UP
PartitionName=cpu Nodes=node1,node2 MaxTime=24:00:00 DefMemPerCPU=1000 Default=YES State=UP
"""


class SlurmCluster:
    """Use as a context manager; ``environment`` is what Slurm's commands, and Snakemake, are to be run with."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder / 'bin'}{os.pathsep}{SEARCHED}",
        }
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "SlurmCluster":
        for name in ("log", "run", "state", "spool/node1", "spool/node2", "dev", "bin"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "dev/nvidia0").touch()  # without a file of theirs, GPUs make a node invalid
        config = CONFIG.format(
            folder=self.folder, host=socket.gethostname().split(".")[0], user=getpass.getuser(), ports=_free_ports(3)
        )
        (self.folder / "slurm.conf").write_text(config)
        (self.folder / "gres.conf").write_text(GRES.format(folder=self.folder))
        # The executor plugin hides SLURM_CONF from the srun in its jobs, which then looks in /etc.
        srun = self.folder / "bin/srun"
        real = shutil.which("srun", path=SEARCHED)
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {real} "$@"\n')
        srun.chmod(0o755)
        for command in (["slurmctld"], ["slurmd", "-N", "node1"], ["slurmd", "-N", "node2"]):
            program = shutil.which(command[0], path=SEARCHED)
            assert program
            self._daemons.append(
                subprocess.Popen(
                    [program, "-D", *command[1:]],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        deadline = time.monotonic() + 60
        while self.run("sinfo", "-h", "-N", "-p", "cpu", "-o", "%T", check=False).split() != ["idle", "idle"]:
            assert time.monotonic() < deadline, (self.folder / "log/slurmctld.log").read_text()
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self.run("scancel", "--user", getpass.getuser(), check=False)
        deadline = time.monotonic() + 20
        while self.run("squeue", "-h", check=False).strip() and time.monotonic() < deadline:
            time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(timeout=30)

    def run(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands and return what it prints."""
        done = subprocess.run(command, env=self.environment, check=check, capture_output=True, text=True)
        return done.stdout

    def insist(self, *command: str) -> None:
        """Run one of Slurm's commands until Slurm takes it; while a job is being set up, it may not."""
        deadline = time.monotonic() + 60
        while (done := subprocess.run(command, env=self.environment, capture_output=True, text=True)).returncode:
            assert time.monotonic() < deadline, f"{' '.join(command)}: {done.stdout}{done.stderr}"
            time.sleep(0.2)

    def jobs(self) -> list[dict[str, str]]:
        """Return the record of every job so far, ended ones included, by Slurm's own names of its parts."""
        shown = self.run("scontrol", "--details", "--oneliner", "show", "job", check=False).splitlines()
        return [
            {key: value for key, _, value in (part.partition("=") for part in line.split()) if value}
            for line in shown
            if line.startswith("JobId=")
        ]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
