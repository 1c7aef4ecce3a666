#!/usr/bin/env bash
# hosts.sh BUILD: two ranks on two hosts, which are network namespaces of this machine joined by a link. They give
# the bits of one host. The link is cut while they load, in a step, and while they decode: within 30 seconds one line
# names the rank and host that give no sign of life, and all processes are gone on both hosts; the run goes on to the
# same bits. Needs root.
. "$(dirname "$0")/common.sh" "$1"
a=wanmpi-a-$$ b=wanmpi-b-$$ network=10.213.77
if ! ip netns add "$a" 2> why || ! ip netns add "$b" 2>> why; then
    echo "hosts: skipped, no network namespaces here: $(cat why)"
    exit 77
fi
# shellcheck disable=SC2154 # dir is set in common.sh
trap 'ip netns del "$a"; ip netns del "$b"; rm -rf "$dir"' EXIT
ip link add wan0 netns "$a" type veth peer name wan0 netns "$b"
ip -n "$a" addr add $network.1/24 dev wan0
ip -n "$b" addr add $network.2/24 dev wan0
link() { # link up|down
    for host in "$a" "$b"; do
        ip -n "$host" link set lo up
        ip -n "$host" link set wan0 "$1"
    done
}
link up

# In place of ssh: ./agent ADDRESS COMMAND...
cat > agent << END
#!/bin/sh
host=$a name=host-a
[ "\$1" != $network.2 ] || host=$b name=host-b
shift
exec ip netns exec \$host unshare --uts sh -c 'hostname '\$name'; exec sh -c "\$*"' sh "\$@"
END
chmod +x agent
export OMPI_MCA_plm_rsh_agent=$dir/agent OMPI_MCA_btl_tcp_if_include=$network.0/24 \
    OMPI_MCA_oob_tcp_if_include=$network.0/24
# mpirun notices a host that is gone after keepalive_time + probes * intvl seconds; without these after 8 minutes
export OMPI_MCA_oob_tcp_keepalive_time=10 OMPI_MCA_oob_tcp_keepalive_intvl=2 OMPI_MCA_oob_tcp_keepalive_probes=3

cat > launch << END
#!/bin/sh
exec ip netns exec $a unshare --uts sh -c 'hostname host-a; exec "\$@"' sh \
    mpirun -q --host $network.1:1,$network.2:1 --bind-to none -n 2 "\$@"
END
chmod +x launch
program() { # program FOLDER COMMAND...: the run, its files in FOLDER
    local to=$1
    shift
    (cd "$to" && exec "$@" "$wanmpi" generate "${demo[@]}" --frame_num 81 --sample_steps 200 \
        --save_every 1 --save_file a.mp4 --run_file a.h5)
}
stream() { ffmpeg -v error -i "$1" -map 0:v -c copy -f md5 -; }
processes() { pgrep -f "^$wanmpi generate"; pgrep -f "^orted .*$dir"; }

mkdir ref out
program ref "${mpirun[@]}" -n 2 > log 2>&1 || { cat log; exit 1; }
want=$(stream ref/a.mp4)
printf '%-36s %14s %14s %6s %6s  %s\n' case 'line after s' 'gone after s' lines status result
table() { # table CASE LINE GONE LINES STATUS RESULT
    rows=$((rows + 1))
    printf '%-36s %14s %14s %6s %6s  %s\n' "$@"
    case $6 in *wrong*) wrong=$((wrong + 1)) && tail -n 5 log | sed 's/^/    /' ;; esac
}
since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }
bits() { # the word for the files in out/
    if "$same" out/a.h5 ref/a.h5 > /dev/null && [ "$(stream out/a.mp4)" = "$want" ]; then echo "same bits"; else echo wrong; fi
}

start=$EPOCHREALTIME
program out ./../launch > log 2>&1
status=$?
table "both hosts, nothing cut" - "$(since "$start")" "$(grep -c '^wanmpi: ' log)" $status "$(bits)"

cut() { # cut STAGE LINE
    local start said=none gone result
    rm -rf out && mkdir out
    : > log
    program out ./../launch > log 2>&1 &
    local job=$!
    for ((i = 0; i < 6000; i++)); do
        ! grep -q "$2" log && kill -0 $job 2> /dev/null || break
        sleep 0.01
    done
    link down
    start=$EPOCHREALTIME
    for ((i = 0; i < 600; i++)); do
        if [ $said = none ] && grep -q '^wanmpi: ' log; then said=$(since "$start"); fi
        [ -n "$(processes)" ] || kill -0 $job 2> /dev/null || break
        sleep 0.1
    done
    gone=$(since "$start")
    pkill -KILL -P $job
    { wait $job; } 2> /dev/null
    status=$?
    lines=$(grep -c '^wanmpi: ' log)
    link up
    program out "${mpirun[@]}" -n 2 > again.log 2>&1
    result=$(bits)
    grep -q "^wanmpi: .*rank 1 on host-b gives no sign of life" log || result="wrong: the line"
    [ "$lines" = 1 ] || result="wrong: $lines lines"
    [ $status != 0 ] || result="wrong: status"
    awk -v s="$said" -v g="$gone" 'BEGIN { exit !(s == "none" || s > 30 || g > 30) }' && result="wrong: late"
    table "link cut, $1" "$said" "$gone" "$lines" $status "$result"
}
cut "loading" '^text and weights'
cut "in a step" '^sampling: [1-9]'
cut "decoding" '^decoding'
echo "hosts: $rows cases, $wrong wrong"
[ $wrong = 0 ]
