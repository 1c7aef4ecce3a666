/* The texts that one group of ranks has encoded, for the others. */
#include "model/pipeline/pipeline.h"

#include <stdlib.h>
#include <string.h>

/* Adds entries of that many rows for the prompts that have none. Local. */
static status add_entries(struct pipeline *p, int count, const char *const *prompts,
                          const int64_t *rows)
{
    const int64_t width = model_dit(&p->plan.model)->text_dim;
    struct text_entry *more = realloc(p->texts, (size_t)(p->text_count + count) * sizeof(*more));

    if (more == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %d texts", count);
    p->texts = more;
    for (int i = 0; i < count; i++) {
        struct text_entry e = { 0 };

        if (pipeline_find_text(p, prompts[i]) != NULL)
            continue;
        e.prompt = strdup(prompts[i]);
        e.rows =
            tensor_of(malloc((size_t)(rows[i] * width) * sizeof(float)), DT_F32, rows[i], width);
        p->texts[p->text_count++] = e; // pipeline_close frees it in any case
        if (e.prompt == NULL || e.rows.data == NULL)
            return fail(ST_MEMORY, "cannot allocate host memory for %lld rows of text",
                        (long long)rows[i]);
    }
    return ST_OK;
}

status pipeline_share_texts(struct pipeline *p, struct world *w, int count,
                            const char *const *prompts)
{
    int64_t *rows;
    status st = ST_OK;

    if (count == 0)
        return ST_OK;
    rows = calloc((size_t)count, sizeof(*rows));
    if (rows == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for %d texts", count);
    TRY_OUT(agree(w, st));
    for (int i = 0; i < count && w->rank == 0; i++)
        rows[i] = pipeline_find_text(p, prompts[i])->rows.dim[0];
    world_broadcast(w, rows, (size_t)count * sizeof(*rows), 0);
    TRY_OUT(agree(w, add_entries(p, count, prompts, rows)));
    for (int i = 0; i < count; i++) {
        struct tensor *t = &pipeline_find_text(p, prompts[i])->rows;

        world_broadcast(w, t->data, tensor_bytes(*t), 0);
    }
out:
    free(rows);
    return st;
}
