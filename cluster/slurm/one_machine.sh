#!/usr/bin/env bash
# A Slurm on this machine alone, for as long as a command runs: two nodes, both of them this machine. To try the
# scripts beside this one without a cluster.
#
#   apt-get install slurmctld slurmd slurm-client munge      (Debian 12: Slurm 22.05; as root)
#   cluster/slurm/one_machine.sh sbatch --wait --nodes=2 cluster/slurm/ray.sbatch -n 4 examples/digits.py
#
# What it needs, and what differs from a real cluster: root, because slurmd starts jobs; no cgroups (processes are
# found by their parents instead, and limits are not enforced), so it runs in a container; a key of munge of its own;
# every file in a temporary directory, every port on 127.0.0.1. At the end the daemons are ended by their ids and the
# directory is removed. The exit code is that of the command.
set -euo pipefail

[ "$#" -gt 0 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
for program in munged slurmctld slurmd sinfo; do
  PATH=$PATH:/usr/sbin command -v "$program" >/dev/null ||
    { echo "$program is missing: apt-get install slurmctld slurmd slurm-client munge" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "slurmd has to be root to start jobs: run this with sudo, or in a container" >&2; exit 2; }
PATH=$PATH:/usr/sbin
top=$(mktemp -d /tmp/slurm-XXXXXX)
chmod 755 "$top"
daemons=()
end() {
  # Jobs first, while there is a Slurm to cancel them; then the daemons, and after a grace what they started, which carries this SLURM_CONF: a step may outlive its srun.
  trap '' INT TERM
  if ! no_jobs; then
    scancel --user=root || true
    until_true 20 no_jobs || true
  fi
  [ "${#daemons[@]}" = 0 ] || kill "${daemons[@]}" 2>/dev/null || true
  until_true 3 none_started || for process in $(started); do kill -KILL "$process" 2>/dev/null || true; done
  wait 2>/dev/null
  rm -rf "$top"
}
started() {
  grep -lszx "SLURM_CONF=$top/slurm.conf" /proc/[0-9]*/environ | cut -d / -f 3
}
no_jobs() { [ -z "$(squeue --noheader 2>/dev/null)" ]; }
none_started() { [ -z "$(started)" ]; }
trap end EXIT
trap 'exit 130' INT TERM

until_true() {  # SECONDS COMMAND...: within that time the command succeeds
  local tries=$((10 * $1))
  shift
  until "$@"; do
    [ "$((tries--))" -gt 0 ] || return 1
    sleep 0.1
  done
}

# munged wants a directory that nobody else can write to.
mkdir "$top/munge" "$top/state"
head -c 128 /dev/urandom >"$top/munge/key"
chmod 600 "$top/munge/key"
munged --foreground --force --num-threads=2 --key-file="$top/munge/key" --socket="$top/munge/socket" \
  --pid-file="$top/munge/pid" --seed-file="$top/munge/seed" --log-file="$top/munge/log" >"$top/munge/out" 2>&1 &
daemons+=("$!")

# Ports that nothing listens on: for the controller, and for the two nodes.
read -r control first second < <(python3 -c '
import socket
held = [socket.socket() for _ in range(3)]
for each in held:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in held))')
cpus=$(getconf _NPROCESSORS_ONLN) # nproc would heed OMP_NUM_THREADS
export SLURM_CONF=$top/slurm.conf
cat >"$SLURM_CONF" <<END
ClusterName=one-machine
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$control
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$top/munge/socket
StateSaveLocation=$top/state
SlurmdSpoolDir=$top/%n
SlurmctldPidFile=$top/slurmctld.pid
SlurmdPidFile=$top/%n.pid
SlurmctldLogFile=$top/slurmctld.log
SlurmdLogFile=$top/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=pmi2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
NodeName=n1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$first CPUs=$cpus
NodeName=n2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$second CPUs=$cpus
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
END
mkdir "$top/n1" "$top/n2"
until_true 5 test -S "$top/munge/socket"
slurmctld -D >"$top/slurmctld.out" 2>&1 &
daemons+=("$!")
for node in n1 n2; do
  slurmd -D -N "$node" >"$top/$node.out" 2>&1 &
  daemons+=("$!")
done
two_idle() { [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null)" = 2 ]; }
until_true 30 two_idle ||
  { echo "Slurm did not start:" >&2; tail -n 20 "$top"/*.log "$top"/*.out "$top"/munge/out >&2; exit 1; }

"$@" <&0 & # in the background, because only then does the shell hear of a signal at once
command=$!
trap 'kill -TERM "$command"; exit 130' INT TERM
wait "$command"
