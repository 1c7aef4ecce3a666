#!/bin/sh
# wanmpi plan: the time of a guided step is within 5 % of what was measured (bench/LOG.md) on H100s and H200s,
# and more sent per second or faster products make it shorter.
#     plan_time.sh WANMPI
wanmpi=$1
count=0
wrong=0

step() { # TASK SIZE GPUS GB FLAGS...
    task=$1 size=$2 gpus=$3 gb=$4
    shift 4
    "$wanmpi" plan --task "$task" --size "$size" --gpus "$gpus" --gpu_memory "$gb" --precision bf16 "$@" |
        sed -n 's/.* \([0-9.e+-]*\) s for a step.*/\1/p'
}

check() { # SECONDS TASK SIZE GPUS GB FLAGS...
    want=$1
    shift
    got=$(step "$@")
    count=$((count + 1))
    awk "BEGIN { exit !(\"$got\" != \"\" && $got / $want > 0.95 && $got / $want < 1.05) }" || {
        wrong=$((wrong + 1))
        echo "$*: a step of $got s, measured $want"
    }
}

small='832*480' large='1280*720'
check 4.845 t2v-14B $small 1 80
check 18.81 t2v-14B $large 1 80
check 0.842 t2v-1.3B $small 1 80
check 3.628 t2v-1.3B $large 1 80
check 4.930 t2v-14B $small 1 141
check 18.93 t2v-14B $large 1 141
check 0.836 t2v-1.3B $small 1 141
check 3.672 t2v-1.3B $large 1 141
check 2.429 t2v-14B $small 2 80 --cfg_size 2
check 2.553 t2v-14B $small 2 80 --cfg_size 1 --ulysses_size 2
check 2.506 t2v-14B $small 2 80 --cfg_size 1 --ring_size 2
check 1.273 t2v-14B $small 4 80 --cfg_size 2 --ulysses_size 2
check 1.252 t2v-14B $small 4 80 --cfg_size 2 --ring_size 2
check 1.267 t2v-14B $small 4 80 --cfg_size 2 --ring_size 2 --dit_fsdp
check 1.324 t2v-14B $small 4 80 --cfg_size 1 --ring_size 4
check 1.334 t2v-14B $small 4 80 --cfg_size 1 --ring_size 4 --dit_fsdp
check 1.322 t2v-14B $small 4 80 --cfg_size 1 --ulysses_size 4
check 4.876 t2v-14B $large 4 80 --cfg_size 1 --ulysses_size 4
check 4.817 t2v-14B $large 4 80 --cfg_size 2 --ulysses_size 2
check 0.235 t2v-1.3B $small 4 80 --cfg_size 1 --ulysses_size 4
check 0.222 t2v-1.3B $small 4 80 --cfg_size 2 --ring_size 2

shorter() { # FLAG MORE LESS
    more=$(step t2v-14B $small 4 80 --cfg_size 1 "$1" "$2")
    less=$(step t2v-14B $small 4 80 --cfg_size 1 "$1" "$3")
    count=$((count + 1))
    awk "BEGIN { exit !($more < 0.9 * $less) }" || {
        wrong=$((wrong + 1))
        echo "$1 $2 is not shorter than $1 $3"
    }
}
shorter --tflops 800 600
shorter --link 200 5
echo "plan_time: $count checks, $wrong failed"
[ $wrong = 0 ]
