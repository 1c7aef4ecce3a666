#!/usr/bin/env bash
# slurm.sh BUILD: the scripts of launch/slurm in a real Slurm of two nodes (slurmd's of this machine, with their own
# host names): one node, two nodes, an array over a batch file; a job that gets a signal, is queued again and goes on
# to the same bits; a time limit; a cancelled job; a limit of memory. Needs root, and Debian's slurm-wlm and munge,
# which it installs where apt-get can.
. "$(dirname "$0")/common.sh" "$1"
scripts=$faults/../../launch/slurm
skip() {
    echo "slurm: skipped, $1"
    exit 77
}
[ "$(id -u)" = 0 ] || skip "not root"
command -v slurmctld > /dev/null && command -v munged > /dev/null ||
    apt-get install -y slurm-wlm munge > apt.log 2>&1 || skip "no slurm-wlm and munge here"

# ---- two nodes ----

stop() {
    [ ! -e slurm.conf ] || scancel -u root -s KILL 2> /dev/null
    pkill -f "^slurm(ctl)?d .*$dir/slurm.conf"
    pkill -f "^munged .*$dir/"
    sleep 1
    pkill -KILL -f "$dir/slurm.conf"
}
trap 'stop; rm -rf "$dir"' EXIT
mkdir state run pmix pmix.node1 pmix.node2 out ref
chmod 755 "$dir" run
(umask 077 && head -c 1024 /dev/urandom > key)
munged --force --key-file "$dir/key" --socket "$dir/run/munge.sock" --pid-file "$dir/run/munged.pid" \
    --log-file "$dir/munged.log" --seed-file "$dir/run/seed" || skip "munged does not start: $(tail -n 1 munged.log)"
host=$(hostname) port=$((20000 + $$ % 20000))
limits=task/none
if [ -d /sys/fs/cgroup/memory ]; then # cgroups of version 1, which slurmd can make without systemd
    limits=task/cgroup
    printf 'CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nConstrainRAMSpace=yes\n' > cgroup.conf
fi
echo "PMIxCliTmpDirBase=$dir/pmix" > mpi.conf
cat > slurm.conf << END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=$limits
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SwitchType=switch/none
KillWait=30
OverTimeLimit=0
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=100000
NodeName=node[1-2] NodeHostname=node[1-2] NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 2))] CPUs=2 RealMemory=2000
PartitionName=all Nodes=ALL Default=YES DefMemPerCPU=500 State=UP
END
export SLURM_CONF=$dir/slurm.conf
slurmctld -i -f "$SLURM_CONF" || skip "slurmctld does not start: $(tail -n 1 slurmctld.log)"
for node in node1 node2; do # each with its own folder for PMIx, under the same name
    mkdir "spool.$node"
    unshare --uts --mount sh -c "hostname $node && mount --bind $dir/pmix.$node $dir/pmix &&
        exec slurmd -N $node -f $dir/slurm.conf" || skip "slurmd does not start"
done
for ((i = 0; i < 100; i++)); do
    [ "$(sinfo -h -t idle -o %D)" != 2 ] || break
    sleep 0.1
done
[ "$(sinfo -h -t idle -o %D)" = 2 ] || skip "the nodes do not come up: $(tail -n 1 slurmd.node1.log)"

# ---- jobs ----

export PATH=$build:$PATH
stream() { ffmpeg -v error -i "$1" -map 0:v -c copy -f md5 -; }
submit() { # submit FLAGS OF SBATCH... SCRIPT ARGUMENTS...: sets $id; runs in out/
    id=$(cd out && sbatch --parsable --gpus-per-node=0 --cpus-per-task=1 --ntasks-per-node=1 "$@") || id=0
    begun=$EPOCHREALTIME
}
state() { scontrol -o show job "$id" 2> /dev/null | grep -o 'JobState=[A-Z_]*' | sort -u | tr '\n' ' '; }
field() { scontrol -o show job "$id" | grep -o "\b$1=[^ ]*" | head -n 1 | cut -d= -f2; }
until_ended() {
    for ((i = 0; i < 1200; i++)); do
        case $(state) in
        *PENDING*) # queued again: Slurm would wait two minutes, to be sure that the first run has ended
            sleep 3
            scontrol update jobid="$id" StartTime=now 2> /dev/null
            ;;
        *RUNNING* | *COMPLETING* | *CONFIGURING* | *REQUEUE*) ;;
        *) break ;;
        esac
        sleep 0.1
    done
    seconds=$(awk -v a="$begun" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    status=$(field ExitCode)
    cat out/wanmpi*-"$id"*.log > log 2> /dev/null
    lines=$(grep -c '^wanmpi: ' log)
}
until_log() { # until_log PATTERN: until a job has printed it
    for ((i = 0; i < 600; i++)); do
        ! cat out/wanmpi*-"$id"*.log 2> /dev/null | grep -q "$1" || break
        sleep 0.1
    done
}
bits() { # bits VIDEO RUN: whether they are those of the whole run
    if "$same" "out/$2" ref/a.h5 > /dev/null 2>&1 && [ "$(stream "out/$1")" = "$(stream ref/a.mp4)" ]; then
        echo "same bits"
    else
        echo "wrong bits"
    fi
}
expect() { # expect STATE: a word
    case $(state) in "JobState=$1 ") echo "${1,,}" ;; *) echo "wrong: $(state)" ;; esac
}

demo+=(--frame_num 17 --sample_steps 300 --save_every 10)
(cd ref && wanmpi generate "${demo[@]}" --save_file a.mp4 --run_file a.h5) > log 2>&1 || { cat log; exit 1; }
head_row

submit "$scripts/node.sh" "${demo[@]}" --save_file one.mp4 --run_file one.h5
until_ended
row "node.sh" "$(expect COMPLETED)" "$(bits one.mp4 one.h5)"

submit "$scripts/nodes.sh" "${demo[@]}" --save_file two.mp4 --run_file two.h5
until_ended
word=$(expect COMPLETED)
grep -q '^ranks   2:' log || word="wrong: not two ranks"
row "nodes.sh on two nodes" "$word" "$(bits two.mp4 two.h5)"

for ((i = 1; i <= 6; i++)); do
    printf '{"prompt": "a red circle", "base_seed": %d, "save_file": "array%d.mp4"}\n' $i $i
done > out/jobs.jsonl
submit --array=1-2 "$scripts/array.sh" jobs.jsonl --task t2v-1.3B --ckpt_dir "$faults/../../model/demo" --size 32*32 \
    --frame_num 5 --sample_steps 2 --threads 1
until_ended
word=$(expect COMPLETED)
[ "$(find out -name 'array*.mp4' | wc -l)" = 6 ] || word="wrong: $(ls out)"
row "array.sh, 6 lines in 2 tasks" "$word" "-"

for signal in USR1 TERM; do
    submit "$scripts/preemptible.sh" $signal.h5 "${demo[@]}" --save_file $signal.mp4
    until_log '^sampling: [1-9]'
    scancel --signal=$signal "$id"
    until_ended
    word=$(expect COMPLETED)
    grep -q "^wanmpi: stopped by SIG$signal after step .* --resume $signal.h5" log || word="wrong: the line"
    [ "$(field Restarts)" = 1 ] || word="wrong: $(field Restarts) restarts"
    row "preemptible.sh, $signal to its step" "$word" "$(bits $signal.mp4 $signal.h5)"
done

submit "$scripts/preemptible.sh" requeued.h5 "${demo[@]}" --save_file requeued.mp4
until_log '^sampling: [1-9]'
scontrol requeue "$id"
until_ended
row "preemptible.sh, scontrol requeue" "$(expect COMPLETED)" "$(bits requeued.mp4 requeued.h5)"

submit "$scripts/preemptible.sh" cancelled.h5 "${demo[@]}" --save_file cancelled.mp4
until_log '^sampling: [1-9]'
scancel "$id"
until_ended
word=$(expect CANCELLED)
(cd out && wanmpi generate "${demo[@]}" --save_file cancelled.mp4 --run_file cancelled.h5) > again.log 2>&1
row "scancel; started again by hand" "$word" "$(bits cancelled.mp4 cancelled.h5)"

if [ $limits = task/cgroup ]; then
    submit --mem=60M "$scripts/node.sh" "${demo[@]}" --save_file memory.mp4
    until_ended
    word=$(expect FAILED)
    [ "$status" = 4:0 ] && grep -q '^wanmpi: the node of rank 0 has .* of memory free' log || word="wrong: status or line"
    row "--mem=60M is seen" "$word" "-"
else
    echo "--mem: not tested, there are no cgroups of version 1 here"
fi
summary
