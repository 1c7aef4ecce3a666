/* What --help writes for the commands that make videos: how to call them, every flag, and the
 * defaults of each task. */
#include "launch/commands.h"
#include "launch/request.h"

void help_tasks(FILE *out)
{
    fprintf(out,
            "\nDefaults of the tasks\n  %-16s %-10s %-6s %-6s %-6s %-9s sizes the model was "
            "trained for\n",
            "task", "size", "frames", "steps", "shift", "guidance");
    for (int i = 0; task_at(i) != NULL; i++) {
        const struct task *t = task_at(i);
        char size[24], guidance[24];

        if (!task_runs(t))
            continue;
        snprintf(size, sizeof(size), "%d*%d", t->width_px, t->height_px);
        request_scales(guidance, sizeof(guidance), t->guidance);
        fprintf(out, "  %-16s %-10s %-6d %-6d %-6g %-9s %s\n", t->name, size, t->frames, t->steps,
                t->shift, guidance, t->sizes);
    }
}

/* "1000,757,522 renoise", or "4 euler". */
static void steps_text(char *text, size_t size, const struct few_step *f)
{
    size_t used = 0;

    text[0] = 0;
    for (int i = 0; i < FEW_STEP_LIST_MAX && f->list[i] != 0 && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%g", i > 0 ? "," : "", f->list[i]);
    if (used == 0)
        snprintf(text, size, "%d%s", f->steps, f->sigma_max > 0 ? " of rCM" : "");
}

void help_presets(FILE *out)
{
    fprintf(out, "\nPresets of distilled models, all with guidance 1\n  %-15s %-8s %-6s %-35s %s\n",
            "preset", "solver", "shift", "steps", "for");
    for (int i = 0; few_step_at(i) != NULL; i++) {
        const struct few_step *f = few_step_at(i);
        char steps[80], shift[16] = "-";

        steps_text(steps, sizeof(steps), f);
        if (f->shift > 0)
            snprintf(shift, sizeof(shift), "%g", f->shift);
        fprintf(out, "  %-15s %-8s %-6s %-35s %s\n", f->name, solver_name(f->solver), shift, steps,
                f->what);
    }
}

static void request_flags(FILE *out, unsigned command)
{
    struct request r;
    const struct option_set set = request_options(&r);

    request_init(&r);
    options_help(out, command, &set, 1);
    help_tasks(out);
    help_presets(out);
    help_fast(out);
}

void help_generate(FILE *out)
{
    fputs(
        "wanmpi generate: makes one video, or one image, from a prompt. The flags have the names\n"
        "and defaults of the official generate.py; '_' and '-' in them are the same.\n\n"
        "    mpirun -n 4 wanmpi generate --ckpt_dir Wan2.1-T2V-1.3B --size 832*480 \\\n"
        "        --prompt \"A cat surfs\" --base_seed 7 --save_file cat.mp4\n\n"
        "    mpirun -n 4 wanmpi generate ... --run_file cat.h5    saves its state every few steps\n"
        "    mpirun -n 6 wanmpi generate --resume cat.h5          continues that run\n"
        "    wanmpi plan ...                                      memory and time of these flags\n",
        out);
    request_flags(out, CMD_GENERATE);
}

void help_batch(FILE *out)
{
    fputs(
        "wanmpi batch: runs many requests and loads the models once. Each line of the file is a\n"
        "JSON object whose keys are flags of generate; flags on the command line apply to all\n"
        "lines. All lines are checked before the work starts. A request that fails does not stop\n"
        "the others.\n\n"
        "Started again with the same command, an interrupted batch goes on: a request is skipped\n"
        "if its video exists and names the same request, and the video in progress goes on from\n"
        "its run file (VIDEO.h5, removed when the video is written). A line without save_file\n"
        "writes FILE-PROMPT-XXXXXXXX.mp4, in which XXXXXXXX depends on what the line says.\n\n"
        "With --groups G the ranks form G groups, which take the requests from one queue.\n\n"
        "    {\"prompt\": \"A cat surfs\", \"base_seed\": 7, \"save_file\": \"cat.mp4\"}\n"
        "    {\"prompt\": \"A dog skis\", \"size\": \"480*832\", \"save_file\": \"dog.mp4\"}\n\n"
        "    mpirun -n 4 wanmpi batch jobs.jsonl --ckpt_dir Wan2.1-T2V-1.3B\n",
        out);
    request_flags(out, CMD_BATCH);
}
