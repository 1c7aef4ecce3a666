#!/usr/bin/env bash
# nomem.sh BUILD [quick|all] [COMMAND...]: allocations of the program fail in turn, on the first and on the second of
# two ranks, alone or with all that follow: for each chain of three calls in the code the first and the last allocation
# of a run, `all` of them, or a few. A run ends with one line and the status for too little memory, or completely and with
# the same result; it never waits for long, and Open MPI prints nothing. COMMAND: only these of the list below. PART=I/N:
# only the I-th of N parts of the cases, so that N processes share them.
. "$(dirname "$0")/common.sh" "$1" "${2:-}"
no_sanitizer "has its own malloc"
deadline=10 PART=${PART:-1/1}
library=$build/tests/nomem.so
export OMPI_MCA_btl_vader_backing_directory=$dir
declare -A seen

# line COMMAND: sets `ranks`, the `words` of a command, and the `results` that it must leave
line() {
    local files=(--save_file out/a.mp4 --run_file out/a.h5 --save_every 1)
    ranks=2 results="a.mp4 a.h5"
    case $1 in
    generate) words=(generate "${demo[@]}" --timeout $deadline "${files[@]}" --keep_frames --contact_sheet out/a.png) ;;
    sharded) # two experts in another layout, weights sharded over the ranks, decoded in tiles
        words=(generate --ckpt_dir pair --dit_fsdp --t5_fsdp --experts later --tiled --tile_size 2,2 --tile_stride 1,1
            --check_finite "${demo[@]:4}" --sample_steps 4 --timeout $deadline "${files[@]}")
        ;;
    resume) words=(generate --resume out/a.h5 --threads 1 --timeout $deadline) && cp begun.h5 out/a.h5 ;;
    batch) words=(batch lines.jsonl "${demo[@]:0:10}" "${demo[@]:12:2}" --precision fp32 --timeout $deadline)
        results="a.mp4 b.mp4" ;;
    bench) words=(bench dit,comm,vae --model tiny --size 32*32 --frame_num 5 --repeats 1 --json out/a.json
            --trace out/b.json)
        results="a.json b.json" ;;
    plan) ranks=1 results=stdout words=(plan "${demo[@]}" --json) ;;
    inspect) ranks=1 results=stdout words=(inspect pair --json) ;;
    synth) ranks=1 results=model words=(synth --preset tiny --out out/model) ;;
    esac
}
commands=(generate sharded resume batch bench plan inspect synth)
[ "$quick" != quick ] || commands=(generate)
[ $# -lt 3 ] || commands=("${@:3}")

try() { # try COMMAND RANK N [VARIABLES...]: the command, with that allocation failing
    local command=$1 rank=$2 n=$3 variable launcher
    shift 3
    rm -rf out && mkdir out
    line "$command"
    launcher=(env LD_PRELOAD="$library" NOMEM_N="$n" "$@")
    if [ "$ranks" = 2 ]; then
        launcher=("${mpirun[@]}" -n 2)
        for variable in LD_PRELOAD="$library" NOMEM_RANK="$rank" NOMEM_N="$n" "$@"; do
            launcher+=(-x "$variable")
        done
    fi
    # stdout is a result, and progress
    timed bash -c '"$@" > out/stdout' bash "${launcher[@]}" "$wanmpi" "${words[@]}"
}

judge() { # what came of it: `complete`, `refused`, or wrong
    local file
    if [ "$status" = 0 ]; then
        for file in $results; do
            [ -e "out/$file" ] || { echo "wrong: no $file"; return; }
            case $file in
            *.h5) "$same" "out/$file" "ref-$1/$file" > /dev/null || { echo "wrong: $file"; return; } ;;
            *.mp4 | stdout | model) # but what is measured at the time: free memory, the speed of the cores
                diff -r -I '"available_bytes":\|"seconds":' "out/$file" "ref-$1/$file" > /dev/null ||
                    { echo "wrong: $file differs"; return; }
                ;;
            esac
        done
        [ "$lines" = 0 ] || { echo "wrong: complete with a line"; return; }
    elif [ "$lines" != 1 ] || { [ "$status" != 4 ] && ! grep -q '^wanmpi: .*Cannot allocate memory' log; }; then
        echo "wrong: status or lines"
        return
    fi
    if grep -q '^\[\|\*\*\*\|MPI_\|free()\|malloc()\|Assert\|terminate\|Segmentation\|Signal' log; then
        echo "wrong: other lines"
        return
    fi
    awk -v s="$seconds" -v most=$((deadline + 10)) 'BEGIN { exit s > most }' || { echo "wrong: late"; return; }
    [ "$status" = 0 ] && echo complete || echo refused
}

# numbers LOG TRIED: the allocations of a log that are tried: alone or all, number, call, chain of calls. Of those with
# the same last three calls the first alone, and the last with all that follow; none of a kind that was tried before.
numbers() {
    local each=1
    [ "$quick" != quick ] || each=53
    awk -v every="$quick" -v each=$each -v tried="$2" '
        BEGIN { while ((getline kind < tried) > 0) old[kind] }
        every == "all" { print NR % 2 ? "NOMEM_ONE=1" : "NOMEM_ALL=1", $0; next }
        {
            split($3, at, ",")
            kind = $2 at[1] at[2] at[3]
            if (kind in first) last[kind] = $0
            else if (!(kind in old)) { first[kind] = $0; order[kind] = ++kinds }
        }
        END {
            for (kind in first) {
                print kind >> tried
                if (order[kind] % each != 6 % each) continue # of rank 1: the first for what rank 0 sent
                alone = kind in last || order[kind] % 2
                if (alone) print "NOMEM_ONE=1", first[kind]
                if (kind in last) print "NOMEM_ALL=1", last[kind]
                else if (!alone) print "NOMEM_ALL=1", first[kind]
            }
        }' "$1" | sort -n -k 2
}

"$wanmpi" synth --preset tiny-A14B --diffusers --out pair > log 2>&1 || { cat log; exit 1; }
for name in a b; do
    echo "{\"prompt\": \"$name circle\", \"base_seed\": 7, \"save_file\": \"out/$name.mp4\"}"
done > lines.jsonl
for ((n = 1; n < 100; n++)); do # a run that was ended after its first step
    [[ " ${commands[*]} " == *" resume "* ]] || break
    rm -rf out && mkdir out && line generate
    LD_PRELOAD=$failio FAILIO_DIR=$dir/out/a FAILIO_N=$n FAILIO_ERRNO=5 FAILIO_ALL=1 \
        "$wanmpi" "${words[@]}" > log 2>&1 && break
    [ ! -e out/a.h5 ] || { cp out/a.h5 begun.h5 && break; }
done

head_row
for command in "${commands[@]}"; do
    before=$rows
    for rank in 0 1; do
        try "$command" $rank 0 NOMEM_LOG="$dir/calls"
        [ "$status" = 0 ] || { cat log; exit 1; }
        rm -rf "ref-$command" && cp -r out "ref-$command"
        numbers calls tried$rank | awk -v i="${PART%/*}" -v n="${PART#*/}" 'NR % n == i % n' > chosen && rm calls
        while read -r all n call chain; do
            try "$command" $rank "$n" $all < /dev/null
            word=$(judge "$command")
            rows=$((rows + 1))
            if [[ $word == wrong* ]]; then
                rows=$((rows - 1))
                at=$(addr2line -s -e "$wanmpi" ${chain//,/ } | head -n 4 | sed 's/ (.*//' | tr '\n' ' ')
                row "$command, rank $rank, $call $n ($all): $at" "$word" ""
            fi
            seen[$status]=$((${seen[$status]:-0} + 1))
            awk -v s="$seconds" -v m="${most:-0}" 'BEGIN { exit !(s > m) }' && most=$seconds
        done < chosen
        [ "$ranks" = 2 ] || break
    done
    echo "$command: $((rows - before)) cases"
done
for status in "${!seen[@]}"; do echo "status $status: ${seen[$status]} cases"; done
echo "longest: $most s, all: $SECONDS s"
summary
