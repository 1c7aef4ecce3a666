/* wanmpi inspect: prints the contents of a checkpoint. */
#include "launch/commands.h"
#include "model/lora/lora.h"
#include "model/pipeline/pipeline.h"
#include "model/pipeline/task.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

struct inspect {
    char *path, *ckpt_dir;
    int tensors, json;
};

static const struct option rows[] = {
    { "path", OPT_STRING, offsetof(struct inspect, path), .group = "Checkpoint", .value = "PATH",
      .positional = true,
      .help = "an official folder, a -Diffusers folder, one .safetensors file, or a LoRA" },
    { "tensors", OPT_SWITCH, offsetof(struct inspect, tensors),
      .help = "list every tensor with its data type and shape" },
    { "ckpt_dir", OPT_STRING, offsetof(struct inspect, ckpt_dir), .value = "DIR",
      .help = "for a LoRA: the checkpoint to compare it with (default: the released models)" },
    { "json", OPT_SWITCH, offsetof(struct inspect, json),
      .help = "print JSON instead of text, also of what is no checkpoint" },
};

void help_inspect(FILE *out)
{
    struct inspect fields = { 0 };
    const struct option_set set = { rows, COUNT(rows), &fields, NULL };

    fputs(
        "wanmpi inspect: prints the layout, model, tensors and data types of a checkpoint, what "
        "is\n"
        "missing or unknown in it, whether its parts fit each other, and the task that it is for.\n"
        "Reads the headers of the files, not the weights. The exit status is 0 if the checkpoint "
        "is\n"
        "complete and its parts fit each other.\n\n"
        "    wanmpi inspect Wan2.1-T2V-1.3B\n"
        "    wanmpi inspect Wan2.1-T2V-1.3B --tensors\n",
        out);
    options_help(out, 0, &set, 1);
}

/* Whether the parts fit each other. */
static status check_fit(struct checkpoint *c, const struct model *m)
{
    struct tokenizer *tokenizer = NULL;

    for (int i = 0; i < c->count; i++)
        if (c->parts[i].config == NULL && !c->parts[i].row->optional)
            return fail(ST_FORMAT, "not compared: the %s cannot be read", c->parts[i].row->name);
    TRY(model_check(m, c->path));
    TRY(pipeline_tokenizer(&tokenizer, c));
    tokenizer_close(tokenizer);
    return ST_OK;
}

/* Adds to the report whether the parts fit each other, and which task the checkpoint is for; `text`
 * gets the lines. A model that this version does not run is no problem of its checkpoint. */
static status add_model(struct checkpoint *c, struct checkpoint_report *r, FILE *text)
{
    const struct model m = model_of_checkpoint(c);
    const struct task *task = NULL;
    status st = check_fit(c, &m);

    fprintf(text, "\nmodel\n  %-12s%s\n", "parts", st == ST_OK ? "fit each other" : status_line());
    cJSON_AddBoolToObject(r->json, "fit", st == ST_OK);
    if (st != ST_OK && r->st == ST_OK)
        checkpoint_report_problem(r, st);
    if (model_dit(&m) == NULL)
        return ST_OK;
    st = task_for_checkpoint(&task, c);
    if (st == ST_MEMORY) // it could not be found out
        return st;
    fprintf(text, "  %-12s%s\n", "task", st == ST_OK ? task->name : status_line());
    for (int i = 0; st == ST_OK && i < MODEL_PART_COUNT && task->parts[i] != NULL; i++) {
        const status part = checkpoint_part(c, task->parts[i]);

        if (part != ST_OK && r->st == ST_OK) // an optional part, which this task needs
            checkpoint_report_problem(r, part);
    }
    if (st == ST_OK)
        cJSON_AddStringToObject(r->json, "task", task->name);
    else
        cJSON_AddNullToObject(r->json, "task");
    return ST_OK;
}

/* Prints the report of a checkpoint; fails with its first problem. */
static status report(struct checkpoint *c, const struct inspect *fields)
{
    struct checkpoint_report r = { 0 };
    char *model = NULL;
    size_t size = 0;
    FILE *text = open_memstream(&model, &size);
    status st = text != NULL ? ST_OK : fail(ST_MEMORY, "cannot allocate host memory for a report");

    if (st == ST_OK)
        st = checkpoint_report(c, &r, fields->tensors);
    if (st == ST_OK)
        st = add_model(c, &r, text);
    if (text != NULL && fclose(text) != 0 && st == ST_OK)
        st = fail(ST_MEMORY, "cannot allocate host memory for a report");
    if (st == ST_OK && fields->json)
        st = command_print_json(r.json);
    else if (st == ST_OK)
        printf("%s%s", r.text, model);
    if (st == ST_OK && r.st != ST_OK)
        st = fail(r.st, "%s", r.problem);
    free(model);
    checkpoint_report_done(&r);
    return st;
}

/* With --json also a path that is no checkpoint gives an object: its path and the problem. */
static status report_failure(const struct inspect *fields, status st)
{
    const char *line = status_line();
    cJSON *json = cJSON_CreateObject();

    cJSON_AddStringToObject(json, "path", fields->path);
    cJSON_AddItemToArray(cJSON_AddArrayToObject(json, "problems"), cJSON_CreateString(line));
    if (fields->json && command_print_json(json) != ST_OK)
        st = ST_MEMORY;
    cJSON_Delete(json);
    return st;
}

/* Prints the report of a LoRA; fails with its first problem. */
static status report_lora(const struct inspect *fields)
{
    struct variant own[2] = { { fields->ckpt_dir, NULL }, { NULL, NULL } };
    const struct variant *variants = part_dit.variants;
    struct checkpoint c = { 0 };
    struct cJSON *json = NULL, *problems;
    char *text = NULL, line[600];
    status st;

    if (fields->ckpt_dir != NULL) {
        TRY_OUT(checkpoint_open(&c, fields->ckpt_dir, model_parts));
        TRY_OUT(checkpoint_part(&c, &part_dit));
        own[0].config = checkpoint_config(&c, &part_dit);
        variants = own;
    }
    st = lora_report(fields->path, &part_dit, variants, fields->tensors == 1, &text, &json);
    snprintf(line, sizeof(line), "%s", status_line());
    problems = cJSON_AddArrayToObject(json, "problems");
    if (st != ST_OK)
        cJSON_AddItemToArray(problems, cJSON_CreateString(line));
    if (!fields->json && text != NULL)
        fputs(text, stdout);
    if (fields->json && json != NULL && command_print_json(json) != ST_OK)
        st = ST_IO;
    else if (st != ST_OK)
        fail(st, "%s", line);
out:
    checkpoint_close(&c);
    cJSON_Delete(json);
    free(text);
    return st;
}

static status inspect(int argc, char **argv)
{
    status st;
    struct inspect fields = { 0 };
    const struct option_set set = { rows, COUNT(rows), &fields, NULL };
    struct checkpoint c = { 0 };

    TRY_OUT(options_parse("inspect", 0, &set, 1, argc, argv));
    if (fields.path == NULL) {
        st = fail(ST_USAGE, "inspect needs the path of a checkpoint: wanmpi inspect DIR");
        goto out;
    }
    if (lora_is(fields.path)) {
        st = report_lora(&fields);
        goto out;
    }
    st = checkpoint_open(&c, fields.path, model_parts);
    st = st == ST_OK ? report(&c, &fields) : report_failure(&fields, st);
out:
    checkpoint_close(&c);
    options_free(&set);
    return st;
}

status cmd_inspect(struct world *w, int argc, char **argv)
{
    return agree(w, w->rank == 0 ? inspect(argc, argv) : ST_OK);
}
