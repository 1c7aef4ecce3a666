/* The LoRAs of a request, opened for the transformers of its checkpoint. */
#include "launch/job.h"

#include <stdlib.h>
#include <string.h>

/* Parses the items of a list to uses[*count]. */
static status add_uses(struct lora_use *uses, int *count, const char *list, bool either)
{
    for (const char *item = list, *end; item != NULL && *item != 0; item = end + (*end != 0)) {
        char *text;
        status st;

        end = item + strcspn(item, "\n");
        if (*count == LORA_FILES_MAX)
            return fail(ST_USAGE, "--lora: at most %d files are merged into a transformer",
                        LORA_FILES_MAX);
        text = strndup(item, (size_t)(end - item));
        st = text != NULL ? lora_parse(&uses[*count], text)
                          : fail(ST_MEMORY, "cannot allocate host memory for a file name");
        free(text);
        TRY(st);
        uses[(*count)++].either = either;
    }
    return ST_OK;
}

static status open_for(const struct request *r, struct checkpoint *c, int expert, bool as_in_file,
                       struct lora **lora)
{
    const struct part *part = expert_parts[expert];
    const bool two = checkpoint_config(c, expert_parts[1]) != NULL;
    struct lora_use uses[LORA_FILES_MAX] = { { NULL, 0, false } };
    int count = 0;
    status st;

    TRY_OUT(add_uses(uses, &count, r->lora, two));
    TRY_OUT(add_uses(uses, &count, expert == 0 ? r->lora_high : r->lora_low, false));
    if (count == 0)
        goto out;
    TRY_OUT(lora_open(lora, &(struct lora_options){ .part = part,
                                                    .config = checkpoint_config(c, part),
                                                    .base = checkpoint_file(c, part),
                                                    .source = checkpoint_source(c, part),
                                                    .second = expert == 1,
                                                    .as_in_file = as_in_file,
                                                    .ignore_unknown = r->lora_ignore_unknown == 1,
                                                    .uses = uses,
                                                    .count = count }));
    checkpoint_adapt(c, part, lora_source(*lora));
out:
    for (int i = 0; i < count; i++)
        free(uses[i].path);
    return st;
}

status job_loras(const struct request *r, struct checkpoint *c, struct model *m, bool as_in_file,
                 struct lora *lora[EXPERTS_MAX])
{
    for (int i = 0; i < EXPERTS_MAX; i++) {
        if (checkpoint_config(c, expert_parts[i]) == NULL)
            continue;
        TRY(open_for(r, c, i, as_in_file, &lora[i]));
        m->lora[model_index(expert_parts[i])] = lora[i];
        m->source[model_index(expert_parts[i])] = checkpoint_source(c, expert_parts[i]);
    }
    return ST_OK;
}
