#include "model/transformer/conditioning.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static struct condition *next_array(struct conditioning *c, const char *name)
{
    struct condition *a = &c->array[c->count];

    assert(c->count < CONDITIONS_MAX && strlen(name) < CONDITION_NAME_BYTES);
    assert(conditioning_find(c, name).ndim == 0);
    memcpy(a->name, name, strlen(name) + 1);
    return a;
}

status conditioning_add(struct conditioning *c, const char *name, int ndim, const int64_t *dim,
                        float **data)
{
    struct condition *a = next_array(c, name);

    a->value = tensor_dims(NULL, DT_F32, ndim, dim);
    a->value.data = malloc(tensor_bytes(a->value));
    if (a->value.data == NULL)
        return fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for %s",
                    tensor_bytes(a->value), name);
    c->count++;
    *data = a->value.data;
    return ST_OK;
}

void conditioning_add_shape(struct conditioning *c, const char *name, int ndim, const int64_t *dim)
{
    next_array(c, name)->value = tensor_dims(NULL, DT_F32, ndim, dim);
    c->count++;
}

struct tensor conditioning_find(const struct conditioning *c, const char *name)
{
    for (int i = 0; i < c->count; i++)
        if (strcmp(c->array[i].name, name) == 0)
            return c->array[i].value;
    return (struct tensor){ 0 };
}

void conditioning_done(struct conditioning *c)
{
    for (int i = 0; i < c->count; i++)
        free(c->array[i].value.data);
    *c = (struct conditioning){ 0 };
}
