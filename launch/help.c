/* What --help writes for the commands that make videos: how to call them, and every flag with the
 * defaults of each task. */
#include "launch/commands.h"
#include "launch/request.h"

static void task_defaults(FILE *out)
{
    fprintf(out,
            "\nDefaults of the tasks\n  %-10s %-10s %-6s %-6s %-6s %-9s sizes it was trained "
            "for\n",
            "task", "size", "frames", "steps", "shift", "guidance");
    for (int i = 0; task_at(i) != NULL; i++) {
        const struct task *t = task_at(i);
        char size[24];

        if (!task_runs(t))
            continue;
        snprintf(size, sizeof(size), "%d*%d", t->width_px, t->height_px);
        fprintf(out, "  %-10s %-10s %-6d %-6d %-6g %-9g %s\n", t->name, size, t->frames, t->steps,
                t->shift, t->guidance, t->sizes);
    }
}

static void request_flags(FILE *out, unsigned command)
{
    struct request r;
    const struct option_set set = request_options(&r);

    request_init(&r);
    options_help(out, command, &set, 1);
    task_defaults(out);
}

void help_generate(FILE *out)
{
    fputs(
        "wanmpi generate: one video, or with one frame a picture, from a prompt. The flags are\n"
        "those of the official generate.py, with '_' or '-'.\n\n"
        "    mpirun -q -n 4 wanmpi generate --task t2v-1.3B --ckpt_dir Wan2.1-T2V-1.3B \\\n"
        "        --size 832*480 --prompt \"A cat surfs\" --base_seed 7 --save_file cat.mp4\n"
        "    mpirun -q -n 4 wanmpi generate ... --run_file cat.h5      keeps its state as it goes\n"
        "    mpirun -q -n 6 wanmpi generate --resume cat.h5            goes on from there\n"
        "    wanmpi plan ...                                           the same flags: the price\n",
        out);
    request_flags(out, CMD_GENERATE);
}

void help_batch(FILE *out)
{
    fputs("wanmpi batch: many requests with the models loaded once. Each line of the file is a\n"
          "JSON object whose keys are flags of generate; the flags given here hold for all lines.\n"
          "Requests whose result is there already are skipped, so a batch is started again as it\n"
          "is.\n\n"
          "    {\"prompt\": \"A cat surfs\", \"base_seed\": 7, \"save_file\": \"cat.mp4\"}\n"
          "    {\"prompt\": \"A dog skis\", \"size\": \"480*832\", \"save_file\": \"dog.mp4\"}\n\n"
          "    mpirun -q -n 4 wanmpi batch jobs.jsonl --task t2v-1.3B --ckpt_dir Wan2.1-T2V-1.3B\n",
          out);
    request_flags(out, CMD_BATCH);
}
