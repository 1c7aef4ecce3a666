/* LoRAs that are merged on a GPU. A tensor's base arrives through the loader, where a rounding must
 * not precede the sum as f32 in a slot of scratch memory; then it is changed there (op_add_product;
 * op_add_change for LoHa, LoKr and DoRA). Slots are used in turn, so that the loader's threads read
 * for the next ones meanwhile:
 *
 *     slot 0   factors, base arrives      | add | factors, base ...
 *     slot 1         factors, base arrives      | add | ...
 *
 * DoRA's norms are made before, by the same slots: of the base where it stays, if it is there as a
 * whole or all rows of it that the norms need; else it is loaded once more for them.
 *
 * Tensors with differences and new values, which are small, are merged on the host by lora_read;
 * both give the same bits. */
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

/* Values whose squares are summed for the norms of a term. */
static int64_t norm_count(const struct lora_target *t, const struct lora_term *term)
{
    return term->magnitude.rows == 0 ? 0 : term->per_column ? t->cols : t->rows;
}

/* Elements that are held as f32 at a time: a chunk, of at least one row. */
static int64_t held_at_once(const struct lora *l, const struct lora_target *t)
{
    const int64_t count = t->rows * t->cols, least = l->chunk > t->cols ? l->chunk : t->cols;

    return count < least ? count : least;
}

/* Whether the base arrives where the merged values will be, without rounding, and is changed there
 * in one operation. */
static bool is_direct(const struct lora *l, const struct lora_target *t, enum dtype dt)
{
    return (t->rank > 0 || t->count == 1) && is_exact(l, t, dt);
}

/* What the changes of all targets need on a GPU, in bytes: a slot, which can hold a part of any
 * target, its factors and, if the base does not arrive where it stays, elements of it; changed
 * weights for norms; and sums of squares. Matrices are bf16. */
struct needs {
    size_t slot, wide, squares;
    int terms; // of a target
};

static struct needs needs_of(const struct lora *l)
{
    struct needs n = { 0 };

    for (int i = 0; i < l->count; i++) {
        const struct lora_target *t = &l->targets[i];
        bool norms = false, changed = false;
        int64_t sums = 0;
        size_t slot;

        if (!t->changes)
            continue;
        for (int k = 0; k < t->count; k++) {
            const int64_t count = norm_count(t, &t->terms[k]);

            norms = norms || count > 0;
            changed = changed || (count > 0 && lora_norm_of_changed(&t->terms[k]));
            sums += count;
        }
        slot = (size_t)lora_floats(t, t->rows) * sizeof(float);
        if (norms || !is_direct(l, t, DT_BF16)) // norms may need more than is loaded
            slot += aligned(held_at_once(l, t));
        n.slot = slot > n.slot ? slot : n.slot;
        if (changed && aligned(held_at_once(l, t)) > n.wide)
            n.wide = aligned(held_at_once(l, t));
        n.squares = 2 * aligned(sums) > n.squares ? 2 * aligned(sums) : n.squares; // f64
        n.terms = t->count > n.terms ? t->count : n.terms;
    }
    return n;
}

static size_t bytes_of(const struct needs *n)
{
    return LORA_SLOTS * n->slot + n->wide + n->squares;
}

size_t lora_device_bytes(const struct lora *l)
{
    struct needs n = { 0 };

    if (l != NULL)
        n = needs_of(l);
    return bytes_of(&n);
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

/* Where the sums of squares of term `index` are. */
static struct tensor squares_of(const struct lora *l, const struct lora_target *t, int index)
{
    char *at = l->squares;

    for (int i = 0; i < index; i++)
        at += 2 * aligned(norm_count(t, &t->terms[i]));
    return tensor_of(at, DT_F64, norm_count(t, &t->terms[index]));
}

/* Rows [row, row + rows) of term `index`'s sums, or those of all columns. */
static struct tensor squares_for(const struct lora *l, const struct lora_target *t, int index,
                                 int64_t row, int64_t rows)
{
    const struct tensor all = squares_of(l, t, index);

    return t->terms[index].per_column ? all : tensor_slice(all, 0, row, rows);
}

/* Adds to the sums of term `index` the squares of x, elements of whole rows from `row` on, of
 * which the first is row `at` of the factors. */
static status sum_squares(struct lora_slot *s, int index, struct tensor x, int64_t row, int64_t at,
                          bool more)
{
    struct lora *l = s->lora;
    const struct lora_target *t = s->target;
    const struct lora_term *term = &t->terms[index];
    const int64_t count = tensor_count(x), rows = count / t->cols;

    if (lora_norm_of_changed(term)) {
        struct weight_change w = s->changes[index];
        const struct tensor wide = tensor_slice(l->wide, 0, 0, count);

        w.magnitude = (struct tensor){ 0 };
        w.strength = 1;
        w.row += at;
        w.a = w.kind == CHANGE_KRONECKER ? w.a : tensor_slice(w.a, 0, at, rows);
        w.c = w.kind == CHANGE_HADAMARD ? tensor_slice(w.c, 0, at, rows) : w.c;
        TRY(op_add_change(l->dev, wide, x, 0, t->cols, &w));
        x = wide;
    }
    return op_add_squares(l->dev, squares_for(l, t, index, row, rows),
                          tensor_reshape(x, rows, t->cols), term->per_column, more);
}

/* The norms of the only term, of a base that is where it stays. */
static status sum_in_place(struct lora_slot *s)
{
    const struct lora_target *t = s->target;
    const int64_t held = held_at_once(s->lora, t) / t->cols * t->cols;
    const int64_t count = tensor_count(s->base);

    for (int64_t done = 0; done < count; done += held) {
        const int64_t take = count - done < held ? count - done : held;

        TRY(sum_squares(s, 0, tensor_slice(s->base, 0, done, take), (s->first + done) / t->cols,
                        done / t->cols, done > 0));
    }
    return ST_OK;
}

/* Applies the first `terms` changes to the slot's base; the last one's result is `dst`. */
static status apply(struct lora_slot *s, int terms, struct tensor dst)
{
    const struct lora_target *t = s->target;
    const int64_t row = s->first / t->cols;

    for (int i = 0; i < terms; i++) {
        struct weight_change *w = &s->changes[i];

        if (w->magnitude.data != NULL)
            w->squares =
                squares_for(s->lora, t, i, row, w->per_column ? 0 : tensor_count(w->magnitude));
        TRY(op_add_change(s->lora->dev, i + 1 == terms ? dst : s->base, s->base, s->first % t->cols,
                          t->cols, w));
    }
    return ST_OK;
}

/* Changes the slot's base, or makes norms of it, when it has arrived. */
static status finish_slot(struct lora_slot *s)
{
    const struct lora_target *t = s->target;

    if (!s->busy)
        return ST_OK;
    s->busy = false;
    TRY(loader_wait(s->loader, s->ranges));
    if (t->rank > 0)
        return op_add_product(s->lora->dev, s->dst, s->base, s->first % t->cols, s->up, s->down);
    if (s->norms != LORA_MERGE && s->dst.data == NULL) {
        TRY(apply(s, s->norms, s->base));
        return sum_squares(s, s->norms, s->base, s->first / t->cols, 0, s->more);
    }
    if (s->norms != LORA_MERGE)
        TRY(sum_in_place(s));
    return apply(s, t->count, s->dst);
}

/* Callback of the loader: the factors for the slot's rows. */
static status fill_factors(void *payload, int unit, size_t from, size_t to, void *dst)
{
    const struct lora_slot *s = payload;

    return lora_read_floats(s->target, s->first / s->target->cols, s->rows,
                            (int64_t)(from / sizeof(float)), (int64_t)((to - from) / sizeof(float)),
                            dst);
}

/* Begins to load the factors for the slot's rows. */
static status load_factors(struct lora_slot *s)
{
    const struct lora_target *t = s->target;
    const int64_t row = s->first / t->cols;
    float *memory = (float *)s->memory;
    int64_t at = 0;

    s->up = tensor_of(memory, DT_F32, s->rows, t->rank);
    s->down = tensor_of(memory + lora_down_at(t, s->rows), DT_F32, t->rank, t->cols);
    for (int i = 0; i < t->count && t->rank == 0; i++) {
        TRY(lora_change(t, &t->terms[i], row, s->rows, NULL, memory + at, &s->changes[i]));
        at += lora_change_floats(t, &t->terms[i], s->rows);
    }
    return loader_add(s->loader, fill_factors, s, 0, 0,
                      tensor_of(memory, DT_U8, lora_floats(t, s->rows) * (int64_t)sizeof(float)));
}

/* What a part of a tensor is loaded for. */
struct load {
    int norms; // as in struct lora_slot
    bool more;
    enum dtype base; // data type in which it is read
    struct tensor dst;
};

/* Begins to load elements [first, first + count) with the next slot: to p->dst itself if they are
 * read as that. */
static status load_part(struct lora *l, struct loader *loader, const struct lora_target *t,
                        const struct weight_spec *spec, int64_t first, int64_t count,
                        const struct load *p, bool direct)
{
    struct lora_slot *s = &l->slots[l->next_slot];
    struct tensor bytes;

    TRY(finish_slot(s));
    l->next_slot = (l->next_slot + 1) % LORA_SLOTS;
    s->lora = l;
    s->loader = loader;
    s->target = t;
    s->spec = *spec;
    s->spec.dtype = p->base;
    s->first = first;
    s->rows = (first + count - 1) / t->cols + 1 - first / t->cols;
    s->norms = p->norms;
    s->more = p->more;
    s->dst = p->dst;
    s->base = direct ? p->dst
                     : tensor_of(s->memory + (size_t)lora_floats(t, s->rows) * sizeof(float),
                                 p->base, count);
    bytes = tensor_of(s->base.data, DT_U8, (int64_t)tensor_bytes(s->base));
    TRY(load_factors(s));
    TRY(loader_add(loader, fill_base, s, 0, 0, bytes));
    s->ranges = loader_added(loader);
    s->busy = true;
    return ST_OK;
}

/* Allocates the slots, which the next lora_flush frees. */
static status begin(struct lora *l, struct device *dev)
{
    const struct needs n = needs_of(l);

    if (l->scratch != NULL)
        return ST_OK;
    l->changes = calloc((size_t)(LORA_SLOTS * n.terms), sizeof(*l->changes));
    if (l->changes == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for the terms of a LoRA");
    TRY(device_alloc(dev, (void **)&l->scratch, bytes_of(&n)));
    l->dev = dev;
    l->scratch_bytes = bytes_of(&n);
    for (int i = 0; i < LORA_SLOTS; i++)
        l->slots[i] = (struct lora_slot){ .memory = l->scratch + (size_t)i * n.slot,
                                          .changes = l->changes + i * n.terms };
    l->wide =
        tensor_of(l->scratch + LORA_SLOTS * n.slot, DT_F32, (int64_t)(n.wide / sizeof(float)));
    l->squares = l->scratch + LORA_SLOTS * n.slot + n.wide;
    l->next_slot = 0;
    return ST_OK;
}

void lora_free_slots(struct lora *l)
{
    if (l->scratch != NULL)
        device_free(l->dev, l->scratch, l->scratch_bytes);
    free(l->changes);
    l->scratch = NULL;
    l->changes = NULL;
}

/* Makes the norms of term `index` for rows [row, row + rows): loads them as f32, or as they are if
 * no term is applied before. */
static status load_norms(struct lora *l, struct loader *loader, const struct lora_target *t,
                         const struct weight_spec *spec, int index, int64_t row, int64_t rows)
{
    const int64_t held = held_at_once(l, t) / t->cols;
    struct load p = { .norms = index, .base = DT_F32 };

    if (index == 0 && is_exact(l, t, DT_BF16))
        p.base = DT_BF16;
    for (int64_t done = 0; done < rows; done += held) {
        const int64_t take = rows - done < held ? rows - done : held;

        p.more = done > 0;
        TRY(load_part(l, loader, t, spec, (row + done) * t->cols, take * t->cols, &p, false));
    }
    return ST_OK;
}

status lora_load(void *payload, struct loader *loader, struct device *dev,
                 const struct weight_spec *spec, const char *name, int64_t first, int64_t count,
                 struct tensor dst, bool *loads)
{
    struct lora *l = payload;
    const struct lora_target *t = lora_find(l, name);
    struct load p = { .norms = LORA_MERGE, .base = DT_F32 };
    bool direct;

    *loads = t != NULL && t->changes && (spec->dtype == DT_F32 || spec->dtype == DT_BF16);
    if (!*loads)
        return ST_OK;
    TRY(begin(l, dev));
    direct = is_direct(l, t, spec->dtype);
    if (direct)
        p.base = spec->dtype;
    for (int i = 0; i < t->count; i++) {
        const struct lora_term *term = &t->terms[i];
        const int64_t row = term->per_column ? 0 : first / t->cols;
        const int64_t end = term->per_column ? t->rows : (first + count - 1) / t->cols + 1;

        if (term->magnitude.rows == 0)
            continue;
        if (direct && first == row * t->cols && first + count == end * t->cols)
            p.norms = i; // of what is loaded
        else
            TRY(load_norms(l, loader, t, spec, i, row, end - row));
    }
    for (int64_t done = 0; done < count;) {
        const int64_t left = count - done, take = direct || left < l->chunk ? left : l->chunk;

        p.dst = tensor_slice(dst, 0, done, take);
        TRY(load_part(l, loader, t, spec, first + done, take, &p, direct));
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
