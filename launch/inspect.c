/* wanmpi inspect: what a checkpoint holds. */
#include "launch/commands.h"
#include "model/checkpoint/checkpoint.h"

#include <stdlib.h>

struct inspect {
    char *path;
    int tensors;
};

static const struct option rows[] = {
    { "path", OPT_STRING, offsetof(struct inspect, path), .group = "What to look at",
      .value = "PATH", .positional = true,
      .help = "the official folder, a -Diffusers folder, or one .safetensors file" },
    { "tensors", OPT_SWITCH, offsetof(struct inspect, tensors),
      .help = "list every tensor with its type and shape" },
};

void help_inspect(FILE *out)
{
    struct inspect fields = { 0 };
    const struct option_set set = { rows, COUNT(rows), &fields, NULL };

    fputs(
        "wanmpi inspect: layout, model, tensors and types of a checkpoint, and what is missing or\n"
        "unknown in it. Reads headers only.\n\n"
        "    wanmpi inspect Wan2.1-T2V-1.3B\n"
        "    wanmpi inspect Wan2.1-T2V-1.3B --tensors\n",
        out);
    options_help(out, 0, &set, 1);
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
        st = fail(ST_USAGE, "inspect needs the path of a checkpoint");
        goto out;
    }
    TRY_OUT(checkpoint_open(&c, fields.path));
    TRY_OUT(checkpoint_report(&c, &text, fields.tensors));
    fputs(text, stdout);
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
