/* --fast: settings that make a video faster and change it, composed of the rows of the options. */
#include "launch/commands.h"
#include "launch/options_internal.h"
#include "launch/request_internal.h"

#include <stdio.h>
#include <string.h>

/* When a setting is of use. */
enum { GUIDED = 1, MANY_STEPS = 2, ON_GPU = 4 };

#define FEW_STEPS 12 // distilled models have at most so many, of which none can be left out

enum { BALANCED = 1, FAST = 2, FASTEST = 4 };

static const struct {
    unsigned of; // the presets that have it, bits 1 << index
    unsigned when;
    const char *flag, *value;
} settings[] = {
    { BALANCED | FAST, GUIDED | MANY_STEPS, "cfg_gate", "0.5" },
    { FASTEST, GUIDED | MANY_STEPS, "cfg_gate", "0.3" },
    { FAST | FASTEST, ON_GPU, "matmul", "fp8" },
};

const char *const request_fast_names[] = { "balanced", "fast", "fastest" };

static bool applies(const struct request *r, int i)
{
    const unsigned when = settings[i].when;

    return r->fast >= 0 && (settings[i].of >> r->fast & 1) != 0 &&
           ((when & GUIDED) == 0 || request_guided(r)) &&
           ((when & MANY_STEPS) == 0 || r->sample_steps > FEW_STEPS) &&
           ((when & ON_GPU) == 0 || r->device == USE_CUDA);
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
        snprintf(text, size, " nothing that this request does not say");
}

void help_fast(FILE *out)
{
    fprintf(out,
            "\nWhat --fast sets, as far as it is of use: the gate for guided runs of more than "
            "%d steps\n",
            FEW_STEPS);
    for (int k = 0; k < (int)COUNT(request_fast_names); k++) {
        fprintf(out, "  %-9s", request_fast_names[k]);
        for (int i = 0; i < (int)COUNT(settings); i++)
            if ((settings[i].of >> k & 1) != 0)
                fprintf(out, " --%s %s", settings[i].flag, settings[i].value);
        fputc('\n', out);
    }
}
