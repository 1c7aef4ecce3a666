/* The changes of a tensor, and the source of merged weights.
 *
 * The change of W is, with c = alpha / rank (lora_scale):
 *
 *     LoRA         c * up down
 *     LoHa         c * (w1_a w1_b) o (w2_a w2_b)      o: elementwise
 *     LoKr         c * kron(w1, w2); c = 1 if both are whole
 *     difference   the values themselves
 *
 * DoRA scales W and its change C together: (W + C) * m / n - W in place of C, where n is the norm
 *
 *     dora_scale, one per row        of the row of W (as ComfyUI)
 *     dora_scale, one per column     of the column of W + C
 *     lora_magnitude_vector          of the row of W + C (as PEFT)
 *
 * Source: ComfyUI comfy/weight_adapter; PEFT tuners/lora/dora.py; LyCORIS lycoris/functional. */
#include "model/lora/lora_internal.h"

#include "model/checkpoint/quantize.h"
#include "runtime/half.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NORM_ELEMENTS ((int64_t)4 << 20) // that are read at a time for norms

/* Elements of a target that are changed: they are in `rows` rows, from row `row` on. */
struct range {
    int64_t first, count, row, rows;
};

static struct range range_of(const struct lora_target *t, int64_t first, int64_t count)
{
    const int64_t row = first / t->cols;

    return (struct range){ first, count, row, (first + count - 1) / t->cols + 1 - row };
}

static status no_memory(const struct lora_target *t)
{
    return fail(ST_MEMORY, "cannot allocate host memory to merge a LoRA into %s", t->name);
}

/* x = W with the change of a term, for the elements of the range; x is W before. to_norm: without
 * strength and DoRA. */
static status add_change(const struct lora_target *t, const struct lora_term *term, struct range r,
                         bool to_norm, float *x)
{
    const int64_t norms = term->per_column ? t->cols : r.rows;
    float *values = malloc((size_t)lora_change_floats(t, term, r.rows) * sizeof(float));
    struct weight_change w;
    status st =
        values != NULL ? lora_change(t, term, r.row, r.rows, values, values, &w) : no_memory(t);

    if (st == ST_OK && to_norm) {
        w.magnitude = (struct tensor){ 0 };
        w.strength = 1;
    } else if (st == ST_OK && term->squares != NULL) {
        w.squares = tensor_of(term->squares + (term->per_column ? 0 : r.row), DT_F64, norms);
    }
    if (st == ST_OK)
        merge_change(x, r.first - r.row * t->cols, r.count, t->cols, &w);
    free(values);
    return st;
}

/* All terms are products: one product with all their ranks, as on a GPU (lora_device.c). */
static status add_products(const struct lora_target *t, struct range r, float *x)
{
    float *up = malloc((size_t)(r.rows * t->rank) * sizeof(float));
    float *down = malloc((size_t)(t->rank * t->cols) * sizeof(float));
    status st = up != NULL && down != NULL ? ST_OK : no_memory(t);

    if (st == ST_OK)
        st = lora_factors(t, r.row, r.rows, up, down);
    if (st == ST_OK)
        merge_product(x, r.first - r.row * t->cols, r.count, t->cols, up, down, t->rank);
    free(up);
    free(down);
    return st;
}

/* Reads the values of a difference. */
static status read_difference(const struct lora_target *t, const struct lora_term *term,
                              struct range r, float *out)
{
    float *rows;
    status st;

    if (t->kernel == 1)
        return tensorfile_read(term->file, term->a.tensor, r.first, r.count, DT_F32, out);
    rows = malloc((size_t)(r.rows * t->cols) * sizeof(float));
    st = rows != NULL ? lora_wide_rows(t, term->file, &term->a, r.row, r.rows, rows) : no_memory(t);
    if (st == ST_OK)
        memcpy(out, rows + (r.first - r.row * t->cols), (size_t)r.count * sizeof(float));
    free(rows);
    return st;
}

/* x = W with a difference, or W's new values. */
static status add_difference(const struct lora_target *t, const struct lora_term *term,
                             struct range r, float *x)
{
    float *values = malloc((size_t)r.count * sizeof(float));
    status st = values != NULL ? read_difference(t, term, r, values) : no_memory(t);

    for (int64_t k = 0; st == ST_OK && k < r.count; k++)
        x[k] = term->kind == LORA_SET ? values[k] : x[k] + term->strength * term->scale * values[k];
    free(values);
    return st;
}

/* x = W with the first `terms` terms, for the elements of the range; x is W before. */
static status apply(const struct lora_target *t, int terms, struct range r, float *x)
{
    if (t->rank > 0 && terms == t->count)
        return add_products(t, r, x);
    for (int i = 0; i < terms; i++) {
        const struct lora_term *term = &t->terms[i];

        TRY(term->kind <= LORA_KRONECKER ? add_change(t, term, r, false, x)
                                         : add_difference(t, term, r, x));
    }
    return ST_OK;
}

/* ---- the norms of DoRA ---- */

static status read_base(const struct lora *l, const struct lora_target *t, int64_t first,
                        int64_t count, float *x)
{
    struct weight_spec wide = t->spec;

    wide.dtype = DT_F32;
    return l->options.source.read(l->options.source.payload, &wide, t->name, first, count, x);
}

/* Makes the norms of term `index`, from the whole tensor with the terms before it. */
static status make_norms(const struct lora *l, struct lora_target *t, int index)
{
    struct lora_term *term = &t->terms[index];
    double *sums = calloc((size_t)(term->per_column ? t->cols : t->rows), sizeof(*sums));
    const int64_t block = t->cols < NORM_ELEMENTS ? NORM_ELEMENTS / t->cols : 1; // rows at a time
    float *x = malloc((size_t)(block * t->cols) * sizeof(float));
    status st = sums != NULL && x != NULL ? ST_OK : no_memory(t);

    for (int64_t row = 0; row < t->rows && st == ST_OK; row += block) {
        const int64_t rows = t->rows - row < block ? t->rows - row : block;
        const struct range r = range_of(t, row * t->cols, rows * t->cols);

        st = read_base(l, t, r.first, r.count, x);
        if (st == ST_OK)
            st = apply(t, index, r, x);
        if (st == ST_OK && lora_norm_of_changed(term))
            st = add_change(t, term, r, true, x);
        if (st == ST_OK)
            merge_squares(sums + (term->per_column ? 0 : row), x, rows, t->cols, term->per_column,
                          row > 0);
    }
    free(x);
    if (st == ST_OK)
        term->squares = sums;
    else
        free(sums);
    return st;
}

/* Makes what norms a target needs, once. */
static status need_norms(struct lora *l, struct lora_target *t)
{
    status st = ST_OK;

    for (int i = 0; i < t->count; i++) {
        if (t->terms[i].magnitude.rows == 0)
            continue;
        pthread_mutex_lock(&l->lock);
        if (t->terms[i].squares == NULL)
            st = make_norms(l, t, i);
        pthread_mutex_unlock(&l->lock);
        TRY(st);
    }
    return ST_OK;
}

/* ---- the source ---- */

status lora_read(void *payload, const struct weight_spec *spec, const char *name, int64_t first,
                 int64_t count, void *dst)
{
    const struct weight_source merged = { .read = lora_read, .payload = payload };
    struct lora *l = payload;
    struct lora_target *t;
    char matrix[WEIGHT_NAME_BYTES];
    float *x = dst;
    status st;

    quantize_name(matrix, spec, name);
    t = (struct lora_target *)lora_find(l, matrix);
    if (t == NULL || count == 0)
        return l->options.source.read(l->options.source.payload, spec, name, first, count, dst);
    if (quantize_makes(spec))
        return quantize_read(&merged, spec, name, first, count, dst);
    TRY(need_norms(l, t));
    assert(spec->dtype == DT_F32 || spec->dtype == DT_BF16);
    if (spec->dtype != DT_F32)
        x = malloc((size_t)count * sizeof(float));
    if (x == NULL)
        return no_memory(t);
    st = read_base(l, t, first, count, x);
    if (st == ST_OK)
        st = apply(t, t->count, range_of(t, first, count), x);
    if (spec->dtype == DT_F32)
        return st;
    for (int64_t i = 0; st == ST_OK && i < count; i++)
        ((uint16_t *)dst)[i] = bf16_from_f32(x[i]);
    free(x);
    return st;
}

static bool lora_form(void *payload, const struct weight_spec *spec, const char *name,
                      struct weight_form *form)
{
    const struct lora *l = payload;
    const struct weight_source *base = &l->options.source;
    const struct lora_target *t = lora_find(l, name);

    if ((t != NULL && t->rank == 0) || base->form == NULL ||
        !base->form(base->payload, spec, name, form))
        return false;
    form->rank = t != NULL ? t->rank : 0;
    return true;
}

/* Copies those of floats [0, count), which begin at byte `at`, that are in bytes [from, to) from a
 * buffer that has those from float `first` on. */
static void copy_floats(char *dst, size_t from, size_t to, size_t at, const float *values,
                        int64_t first, int64_t count)
{
    const size_t begin = at + (size_t)first * sizeof(float);
    const size_t end = begin + (size_t)count * sizeof(float);
    const size_t a = from > begin ? from : begin, b = to < end ? to : end;

    if (a < b)
        memcpy(dst + (a - from), (const char *)values + (a - begin), b - a);
}

/* Bytes [from, to) of the factors, which follow the base's bytes. */
static status read_factors(const struct lora_target *t, const struct weight_form *f, size_t from,
                           size_t to, char *dst)
{
    const size_t up_at = weight_form_up(f), down_at = weight_form_down(f);
    const size_t row_bytes = (size_t)t->rank * sizeof(float);
    const size_t up_end = up_at + (size_t)t->rows * row_bytes;
    const bool needs_up = from < up_end && to > up_at, needs_down = to > down_at;
    const int64_t row = from > up_at ? (int64_t)((from - up_at) / row_bytes) : 0;
    const int64_t end = to < up_end ? (int64_t)((to - up_at + row_bytes - 1) / row_bytes) : t->rows;
    float *up = needs_up ? malloc((size_t)(end - row) * row_bytes) : NULL;
    float *down = needs_down ? malloc((size_t)(t->rank * t->cols) * sizeof(float)) : NULL;
    status st = (up == NULL && needs_up) || (down == NULL && needs_down) ? no_memory(t) : ST_OK;

    if (st == ST_OK)
        st = lora_factors(t, row, end - row, up, down);
    if (st == ST_OK && needs_up)
        copy_floats(dst, from, to, up_at, up, row * t->rank, (end - row) * t->rank);
    if (st == ST_OK && needs_down)
        copy_floats(dst, from, to, down_at, down, 0, t->rank * t->cols);
    free(up);
    free(down);
    return st;
}

static status lora_read_form(void *payload, const struct weight_spec *spec, const char *name,
                             size_t first, size_t count, void *dst)
{
    const struct lora *l = payload;
    const struct weight_source *base = &l->options.source;
    const struct lora_target *t = lora_find(l, name);
    struct weight_form f = { .rank = 0 };
    size_t stored, before;

    if (t == NULL)
        return base->read_form(base->payload, spec, name, first, count, dst);
    if (!lora_form(payload, spec, name, &f)) {
        assert(!"a tensor without a form");
        return ST_OK;
    }
    stored = stored_bytes(&f.stored);
    before = first < stored ? (first + count < stored ? count : stored - first) : 0;
    if (before > 0)
        TRY(base->read_form(base->payload, spec, name, first, before, dst));
    return before < count ? read_factors(t, &f, first + before, first + count, (char *)dst + before)
                          : ST_OK;
}

static void prefetch(void *payload, const char *name, int64_t first, int64_t count)
{
    const struct lora *l = payload;

    if (l->options.source.prefetch != NULL)
        l->options.source.prefetch(l->options.source.payload, name, first, count);
}

struct weight_source lora_source(struct lora *l)
{
    return (struct weight_source){ .load = lora_load,
                                   .flush = lora_flush,
                                   .read = lora_read,
                                   .prefetch = prefetch,
                                   .form = lora_form,
                                   .read_form = lora_read_form,
                                   .payload = l };
}
