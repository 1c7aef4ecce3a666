/* LoRAs that are merged on a GPU. A tensor's base arrives through the loader, where a rounding must
 * not precede the sum as f32 in a slot of scratch memory; then the product of its factors is added
 * to it there (op_add_product). Slots are used in turn, so that the loader's threads read for the
 * next ones meanwhile:
 *
 *     slot 0   factors, base arrives      | add | factors, base ...
 *     slot 1         factors, base arrives      | add | ...
 *
 * Only tensors that are changed by products alone are merged so. The others, which are rare or
 * small, are merged on the host by lora_read; both give the same bits. */
#include "model/lora/lora_internal.h"

#include "kernels/ops.h"

#include <stdlib.h>
#include <string.h>

#define ALIGN ((size_t)256)

static size_t aligned(int64_t floats)
{
    return ((size_t)floats * sizeof(float) + ALIGN - 1) / ALIGN * ALIGN;
}

/* Whether the file's values are read as `dt` without rounding. */
static bool is_exact(const struct lora *l, const struct lora_target *t, enum dtype dt)
{
    const struct file_tensor *f =
        l->options.base != NULL ? tensorfile_find(l->options.base, t->name) : NULL;

    return dt == DT_F32 || (f != NULL && f->shape.dtype == dt && f->coding == NULL);
}

/* Bytes of a slot that can hold a part of any target: its factors, and if the base is rounded, a
 * chunk of the elements of that. Matrices are bf16. */
static size_t slot_bytes(const struct lora *l)
{
    size_t most = 0;

    for (int i = 0; i < l->count; i++) {
        const struct lora_target *t = &l->targets[i];
        const int64_t count = t->rows * t->cols, held = count < l->chunk ? count : l->chunk;
        size_t bytes = aligned(t->rows * t->rank) + aligned(t->rank * t->cols);

        if (t->rank == 0)
            continue;
        bytes += is_exact(l, t, DT_BF16) ? 0 : aligned(held);
        most = bytes > most ? bytes : most;
    }
    return most;
}

size_t lora_device_bytes(const struct lora *l)
{
    return l != NULL ? LORA_SLOTS * slot_bytes(l) : 0;
}

/* Callback of the loader: the base of the slot's elements. */
static status fill_base(void *payload, int unit, size_t from, size_t to, void *dst)
{
    const struct lora_slot *s = payload;
    const struct weight_source *source = &s->lora->options.source;
    const int64_t size = (int64_t)dtype_size(s->spec.dtype);

    return source->read(source->payload, &s->spec, s->target->name, s->first + (int64_t)from / size,
                        (int64_t)(to - from) / size, dst);
}

/* Adds the product of the slot, when its base has arrived. */
static status finish_slot(struct lora_slot *s)
{
    if (!s->busy)
        return ST_OK;
    s->busy = false;
    TRY(loader_wait(s->loader, s->ranges));
    return op_add_product(s->lora->dev, s->dst, s->base, s->first % s->target->cols, s->up,
                          s->down);
}

/* Reads the factors for the slot's rows, and copies them to the device. */
static status load_factors(struct lora_slot *s, struct device *dev, int64_t row, int64_t rows)
{
    const struct lora_target *t = s->target;
    float *up = malloc((size_t)(rows * t->rank) * sizeof(float));
    float *down = malloc((size_t)(t->rank * t->cols) * sizeof(float));
    status st;

    if (up == NULL || down == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for the factors of %s", t->name));
    TRY_OUT(lora_factors(t, row, rows, up, down));
    TRY_OUT(device_upload(dev, s->up, up));
    TRY_OUT(device_upload(dev, s->down, down));
out:
    free(up);
    free(down);
    return st;
}

/* Begins to load elements [first, first + count) to dst with the next slot. */
static status load_part(struct lora *l, struct loader *loader, const struct lora_target *t,
                        const struct weight_spec *spec, int64_t first, int64_t count,
                        struct tensor dst, bool exact)
{
    struct lora_slot *s = &l->slots[l->next_slot];
    const int64_t row = first / t->cols, rows = (first + count - 1) / t->cols + 1 - row;
    struct tensor bytes;

    TRY(finish_slot(s));
    l->next_slot = (l->next_slot + 1) % LORA_SLOTS;
    s->lora = l;
    s->loader = loader;
    s->target = t;
    s->spec = *spec;
    s->first = first;
    s->dst = s->base = dst;
    s->up = tensor_of(s->memory, DT_F32, rows, t->rank);
    s->down = tensor_of(s->memory + aligned(rows * t->rank), DT_F32, t->rank, t->cols);
    if (!exact) {
        s->spec.dtype = DT_F32;
        s->base = tensor_of(s->memory + aligned(rows * t->rank) + aligned(t->rank * t->cols),
                            DT_F32, count);
    }
    bytes = tensor_of(s->base.data, DT_U8, (int64_t)tensor_bytes(s->base));
    TRY(loader_add(loader, fill_base, s, 0, 0, bytes)); // its threads read during the next line
    s->ranges = loader_added(loader);
    s->busy = true;
    return load_factors(s, l->dev, row, rows);
}

/* Allocates the slots, which the next lora_flush frees. */
static status begin(struct lora *l, struct device *dev)
{
    const size_t bytes = slot_bytes(l);

    if (l->scratch != NULL)
        return ST_OK;
    TRY(device_alloc(dev, (void **)&l->scratch, LORA_SLOTS * bytes));
    l->dev = dev;
    l->scratch_bytes = LORA_SLOTS * bytes;
    for (int i = 0; i < LORA_SLOTS; i++)
        l->slots[i] = (struct lora_slot){ .memory = l->scratch + (size_t)i * bytes };
    l->next_slot = 0;
    return ST_OK;
}

void lora_free_slots(struct lora *l)
{
    if (l->scratch != NULL)
        device_free(l->dev, l->scratch, l->scratch_bytes);
    l->scratch = NULL;
}

status lora_load(void *payload, struct loader *loader, struct device *dev,
                 const struct weight_spec *spec, const char *name, int64_t first, int64_t count,
                 struct tensor dst, bool *loads)
{
    struct lora *l = payload;
    const struct lora_target *t = lora_find(l, name);
    bool exact;

    *loads = t != NULL && t->rank > 0 && (spec->dtype == DT_F32 || spec->dtype == DT_BF16);
    if (!*loads)
        return ST_OK;
    TRY(begin(l, dev));
    exact = is_exact(l, t, spec->dtype);
    for (int64_t done = 0; done < count;) {
        const int64_t left = count - done, take = exact || left < l->chunk ? left : l->chunk;

        TRY(load_part(l, loader, t, spec, first + done, take, tensor_slice(dst, 0, done, take),
                      exact));
        done += take;
    }
    return ST_OK;
}

status lora_flush(void *payload)
{
    struct lora *l = payload;

    if (l->scratch == NULL)
        return ST_OK;
    for (int i = 0; i < LORA_SLOTS; i++)
        TRY(finish_slot(&l->slots[(l->next_slot + i) % LORA_SLOTS]));
    TRY(device_wait(l->dev)); // the sums read the slots
    lora_free_slots(l);
    return ST_OK;
}
