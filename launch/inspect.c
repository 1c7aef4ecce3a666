/* wanmpi inspect: prints the contents of a checkpoint. */
#include "launch/commands.h"
#include "model/pipeline/pipeline.h"
#include "model/pipeline/task.h"

#include <stdlib.h>

struct inspect {
    char *path;
    int tensors;
};

static const struct option rows[] = {
    { "path", OPT_STRING, offsetof(struct inspect, path), .group = "Checkpoint", .value = "PATH",
      .positional = true,
      .help = "an official folder, a -Diffusers folder, or one .safetensors file" },
    { "tensors", OPT_SWITCH, offsetof(struct inspect, tensors),
      .help = "list every tensor with its data type and shape" },
};

void help_inspect(FILE *out)
{
    struct inspect fields = { 0 };
    const struct option_set set = { rows, COUNT(rows), &fields, NULL };

    fputs(
        "wanmpi inspect: prints the layout, model, tensors and data types of a checkpoint, what "
        "is\n"
        "missing or unknown in it, whether its parts fit each other, and the task that it is for.\n"
        "Reads the headers of the files, not the weights.\n\n"
        "    wanmpi inspect Wan2.1-T2V-1.3B\n"
        "    wanmpi inspect Wan2.1-T2V-1.3B --tensors\n",
        out);
    options_help(out, 0, &set, 1);
}

/* Prints whether the parts fit each other, and which task the checkpoint is for. */
static void print_model(struct checkpoint *c)
{
    const struct model m = model_of_checkpoint(c);
    const struct task *task = NULL;
    struct tokenizer *tokenizer = NULL;
    status st = model_check(&m, c->path);

    if (st == ST_OK && model_t5(&m) != NULL)
        st = pipeline_tokenizer(&tokenizer, c);
    tokenizer_close(tokenizer);
    printf("\nmodel\n  %-12s", "parts");
    for (int i = 0; i < c->count && st == ST_OK; i++)
        if (c->parts[i].config == NULL && !c->parts[i].row->optional)
            st = fail(ST_FORMAT, "not compared: the %s cannot be read", c->parts[i].row->name);
    printf("%s\n", st == ST_OK ? "fit each other" : status_line());
    if (model_dit(&m) == NULL)
        return;
    st = task_for_checkpoint(&task, c);
    printf("  %-12s%s\n", "task", st == ST_OK ? task->name : status_line());
}

static status inspect(int argc, char **argv)
{
    status st;
    struct inspect fields = { 0 };
    const struct option_set set = { rows, COUNT(rows), &fields, NULL };
    struct checkpoint c = { 0 };
    char *text = NULL;

    TRY_OUT(options_parse("inspect", 0, &set, 1, argc, argv));
    if (fields.path == NULL) {
        st = fail(ST_USAGE, "inspect needs the path of a checkpoint: wanmpi inspect DIR");
        goto out;
    }
    TRY_OUT(checkpoint_open(&c, fields.path, model_parts));
    TRY_OUT(checkpoint_report(&c, &text, fields.tensors));
    fputs(text, stdout);
    print_model(&c);
out:
    free(text);
    checkpoint_close(&c);
    options_free(&set);
    return st;
}

status cmd_inspect(struct world *w, int argc, char **argv)
{
    return agree(w, w->rank == 0 ? inspect(argc, argv) : ST_OK);
}
