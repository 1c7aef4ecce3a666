/* The motion controller as a row of the table of parts. */
#include "model/checkpoint/config_json.h"
#include "model/checkpoint/names.h"
#include "model/checkpoint/part.h"
#include "model/transformer/motion.h"

#include <inttypes.h>

static const struct motion_config released = { .dim = 1536, .freq_dim = 256 };
static const struct motion_config tiny = { .dim = 128, .freq_dim = 64 };
static const struct variant variants[] = { { "speed-1.3B", &released },
                                           { "speed-tiny", &tiny },
                                           { NULL, NULL } };

static bool same_name(const char *name, bool to_official, char *out, size_t size)
{
    return names_write(out, size, "", name, 0, "");
}

static status describe(const struct describing *d, void *config)
{
    struct motion_config c = { 0 };

    TRY(describe_axis(d, "linear.0.weight", 2, 0, &c.dim));
    TRY(describe_axis(d, "linear.0.weight", 2, 1, &c.freq_dim));
    if (c.freq_dim % 2 != 0)
        return fail(ST_FORMAT, "%s: the motion controller has %lld sinusoids, an odd number",
                    d->file, (long long)c.freq_dim);
    *(struct motion_config *)config = c;
    return ST_OK;
}

static void tensors(struct tensor_list *l, const void *config, const struct tensorfile *file)
{
    motion_tensors(l, config);
}

static status check(const void *config, const char *file)
{
    return ST_OK;
}

static void config_json(struct cJSON *json, const void *config, bool diffusers)
{
    const struct motion_config *c = config;

    config_set_number(json, "dim", (double)c->dim);
    config_set_number(json, "freq_dim", (double)c->freq_dim);
}

static void print(FILE *out, const void *config)
{
    const struct motion_config *c = config;

    fprintf(out, "  %-12swidth %" PRId64 ", sinusoids %" PRId64 "\n", "config", c->dim,
            c->freq_dim);
}

static const struct place places[] = { { "/motion_controller", "model", true }, { 0 } };
static const struct name_pair detected_by[] = { { "linear.4.weight", "linear.4.weight" },
                                                { NULL, NULL } };

const struct part part_motion = { .key = "motion",
                                  .name = "motion controller",
                                  .optional = true,
                                  .config_bytes = sizeof(struct motion_config),
                                  .variants = variants,
                                  .official = places,
                                  .diffusers = places,
                                  .detected_by = detected_by,
                                  .rename = same_name,
                                  .describe = describe,
                                  .tensors = tensors,
                                  .check = check,
                                  .print = print,
                                  .library = "diffusers",
                                  .class_name = "WanMotionControllerModel",
                                  .config_json = config_json,
                                  .dtype = DT_F32 };
