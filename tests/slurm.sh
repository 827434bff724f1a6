#!/usr/bin/env bash
# Slurm on this machine alone, as root on Debian: tests/slurm.sh start | stop
# What it needs: apt-get install -y --no-install-recommends slurmd slurmctld slurm-client munge
# Without accounting (slurmdbd), as on small clusters: sacct has nothing to say.
set -euo pipefail
place=${SLURM_PLACE:-/var/tmp/slurm-one-node} name=$(hostname -s)

if [ "$1" = stop ]; then
  for pid in "$place"/*.pid; do kill "$(cat "$pid")" 2>/dev/null || true; done
  exit
fi

mkdir -p "$place"/{state,spool} /run/munge
chown munge: /run/munge
chmod 755 /run/munge
cat >/etc/slurm/slurm.conf <<CONF
ClusterName=one
SlurmctldHost=$name
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
OverTimeLimit=0
KillWait=60
NodeName=$name CPUs=$(nproc) RealMemory=$(free -m | awk '/Mem:/ {print int($2 * 0.9)}') Features=small State=UNKNOWN
PartitionName=normal Nodes=$name Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=$name MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
CONF
pgrep -x munged >/dev/null || runuser -u munge -- munged --pid-file="$place/munged.pid" 2>/dev/null ||
  runuser -u munge -- munged
slurmctld
slurmd
for _ in $(seq 60); do
  sinfo -h -p normal -o %T 2>/dev/null | grep -qE 'idle|mixed|allocated' && exit
  sleep 0.5
done
echo "Slurm does not answer: see $place/slurmctld.log and $place/slurmd.log" >&2
exit 1
