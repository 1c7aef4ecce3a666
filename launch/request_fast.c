/* --fast: settings that make a video faster and change it, composed of the rows of the options. */
#include "launch/commands.h"
#include "launch/options_internal.h"
#include "launch/request_internal.h"

#include <stdio.h>
#include <string.h>

/* When a setting is of use. */
enum {
    GUIDED = 1,
    MANY_STEPS = 2,
    ON_GPU = 4,
    RATIOS = 8,
    NO_RATIOS = 16,
    MAGCACHE = 32,
    ONE = 64,
    TWO = 128,
    HEADS_128 = 256,
    BF16 = 512,
    DENSE = 1024,
    BLOCKS = 2048,
    EIGHT_BITS = 4096,
    FEW_STEPS = 8192
};

#define FEW 12         // steps of distilled models at most, none of which can be left out
#define EXACT_BLOCKS 4 // that it leaves exact by default

enum { BALANCED = 1, FAST = 2, FASTEST = 4, ALL = BALANCED | FAST | FASTEST };

/* In this order, as some depend on those before. Of magcache's settings `balanced` has its authors'
 * for the task, the others those that they give for more speed on Wan2.1; with two experts, where
 * they skip less, half of the threshold. */
static const struct {
    unsigned of;   // the presets that have it, bits 1 << index
    unsigned when; // all of these
    const char *flag, *value;
} settings[] = {
    { ALL, GUIDED, "cfg_gate", "0.5" },
    { ALL, MANY_STEPS | RATIOS, "cache", "magcache" },
    { ALL, MANY_STEPS | NO_RATIOS, "cache", "easycache" },
    { FAST, MANY_STEPS | MAGCACHE, "cache_max_skip", "4" },
    { FASTEST, MANY_STEPS | MAGCACHE, "cache_max_skip", "6" },
    { FASTEST, MANY_STEPS | MAGCACHE | ONE, "cache_threshold", "0.24" },
    { FASTEST, MANY_STEPS | MAGCACHE | TWO, "cache_threshold", "0.12" },
    { FAST | FASTEST, ON_GPU, "matmul", "fp8" },
    { FAST | FASTEST, ON_GPU | BF16 | HEADS_128 | BLOCKS | DENSE, "attention", "8bit" },
    { FAST | FASTEST, EIGHT_BITS | MANY_STEPS, "attention_exact_steps", "1,1" },
    { FAST | FASTEST, EIGHT_BITS | FEW_STEPS, "attention_exact_steps", "0,0" },
};

const char *const request_fast_names[] = { "balanced", "fast", "fastest" };

static bool applies(const struct request *r, int i)
{
    const bool ratios = request_has_ratios(r), two = r->task->boundary > 0;
    const bool whole = !request_windowed(r), three = r->guide_image >= 0;
    const unsigned is =
        (request_guided(r) && !three ? GUIDED : 0) |
        (r->steps > FEW && r->calibrate_cache == NULL && whole && !three ? MANY_STEPS : 0) |
        (r->device == USE_CUDA ? ON_GPU : 0) | (ratios ? RATIOS : NO_RATIOS) |
        (r->cache == CACHE_MAG ? MAGCACHE : 0) | (two ? TWO : ONE) |
        (r->head_size == 0 || r->head_size == 128 ? HEADS_128 : 0) | // as all released models
        (r->layers == 0 || r->layers > EXACT_BLOCKS ? BLOCKS : 0) |
        (r->precision != PRECISION_FP32 ? BF16 : 0) | (r->steps <= FEW ? FEW_STEPS : 0) |
        (r->attention == ATTENTION_8BIT ? EIGHT_BITS : 0) |
        (r->sparse || r->vsa_sparsity >= 0 || r->sla_topk >= 0 ? 0 : DENSE);

    return r->fast >= 0 && (settings[i].of >> r->fast & 1) != 0 && (settings[i].when & ~is) == 0;
}

static int row_of(int setting)
{
    int row = 0;

    while (strcmp(request_rows[row].name, settings[setting].flag) != 0)
        row++;
    return row;
}

status request_fill_fast(struct request *r)
{
    const struct option_set set = request_options(r);

    if (r->resume != NULL) // the settings are those of the run file
        return ST_OK;
    for (int i = 0; i < (int)COUNT(settings); i++) {
        const struct option *row = &request_rows[row_of(i)];

        if (applies(r, i) && !r->given[row_of(i)] && !options_is_set(&set, row_of(i)))
            TRY(option_set_word(&set, row, row->name, settings[i].value));
    }
    return ST_OK;
}

bool request_fast_sets(int row)
{
    for (int i = 0; i < (int)COUNT(settings); i++)
        if (row_of(i) == row)
            return (request_rows[row].marks & JOB) == 0;
    return false;
}

void request_fast(char *text, size_t size, const struct request *r)
{
    size_t used = 0;

    text[0] = 0;
    for (int i = 0; i < (int)COUNT(settings) && used < size; i++)
        if (applies(r, i) && !r->given[row_of(i)])
            used += (size_t)snprintf(text + used, size - used, " --%s %s", settings[i].flag,
                                     settings[i].value);
    if (used == 0)
        snprintf(text, size, " nothing that is of use here and not given");
}

void help_fast(FILE *out)
{
    static const struct {
        unsigned when;
        const char *text;
    } conditions[] = { { GUIDED, "guided" },
                       { MANY_STEPS, "more than 12 steps" },
                       { ON_GPU, "on GPUs" },
                       { MAGCACHE, "magcache" },
                       { RATIOS, "tasks with a table" },
                       { NO_RATIOS, "tasks without a table" },
                       { ONE, "one transformer" },
                       { TWO, "two experts" },
                       { BF16, "bf16" },
                       { HEADS_128, "heads of 128" },
                       { BLOCKS, "more than 4 blocks" },
                       { EIGHT_BITS, "8-bit attention" },
                       { FEW_STEPS, "at most 12 steps" },
                       { DENSE, "attention to all tokens" } };

    fprintf(out,
            "\nWhat --fast sets, for requests to which the condition applies\n  %-26s %-24s %s\n",
            "setting", "in", "if");
    for (int i = 0; i < (int)COUNT(settings); i++) {
        char setting[40], in[40] = "", condition[120] = "";
        size_t used = 0;

        snprintf(setting, sizeof(setting), "--%s %s", settings[i].flag, settings[i].value);
        for (size_t k = 0; k < COUNT(request_fast_names); k++)
            if ((settings[i].of >> k & 1) != 0)
                used += (size_t)snprintf(in + used, sizeof(in) - used, "%s%s", used > 0 ? ", " : "",
                                         request_fast_names[k]);
        used = 0;
        for (size_t k = 0; k < COUNT(conditions); k++)
            if ((settings[i].when & conditions[k].when) != 0)
                used += (size_t)snprintf(condition + used, sizeof(condition) - used, "%s%s",
                                         used > 0 ? ", " : "", conditions[k].text);
        fprintf(out, "  %-26s %-24s %s\n", setting, in, condition);
    }
}
