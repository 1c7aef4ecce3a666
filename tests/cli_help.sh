#!/bin/sh
# --help and --version: once, whatever the ranks, with every flag of the command's table.
#     cli_help.sh WANMPI MPIRUN [its arguments]
wanmpi=$1
shift
count=0
wrong=0

expect() { # TEXT TIMES COMMAND ...
    text=$1
    times=$2
    shift 2
    count=$((count + 1))
    found=$("$@" 2>&1 | grep -c -e "$text")
    [ "$found" = "$times" ] || {
        wrong=$((wrong + 1))
        echo "'$text' $found times, not $times: $*"
    }
}

expect '^wanmpi [0-9.]*$' 1 "$wanmpi" --version
expect '^wanmpi [0-9.]*$' 1 "$@" -n 3 "$wanmpi" --version
for command in generate batch plan inspect convert synth bench; do
    expect "^  wanmpi $command " 1 "$wanmpi" --help
    expect "^wanmpi $command: " 1 "$@" -n 2 "$wanmpi" "$command" --help
done
expect '^  --sample_steps N ' 1 "$@" -n 2 "$wanmpi" generate --prompt x --help
expect '^  --offload_model True|False' 1 "$wanmpi" generate -h
expect '^  t2v-1.3B .* 832\*480 .* 81 .* 50 .* 5 .* 5 ' 1 "$wanmpi" generate --help
expect '^  lightx2v-4  *euler  *5  *4  ' 1 "$wanmpi" plan --help
expect '^  --cfg_gate 0.5  *balanced, fast, fastest  *guided' 1 "$wanmpi" generate --help
expect '^  --attention 8bit  *fast, fastest  *on GPUs, bf16, heads of 128, more than 4 blocks' 1 "$wanmpi" generate --help
expect '^  FILE.jsonl ' 1 "$wanmpi" batch --help
expect '^  --save_file' 0 "$wanmpi" batch --help
expect '^  --preset NAME' 1 "$wanmpi" synth --help
"$wanmpi" generate --help >/dev/null || wrong=$((wrong + 1))
echo "cli_help: $count checks, $wrong failed"
[ $wrong = 0 ]
