/* The factors of the changes of a tensor, read from their files: as the host needs them, and as
 * they are laid out in a GPU's memory. */
#include "model/lora/lora_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- matrices ---- */

/* Reads elements [first, first + count) of a matrix as f32. */
static status read_elements(struct tensorfile *file, const struct lora_matrix *m, int64_t first,
                            int64_t count, float *dst)
{
    if (m->tensor != NULL)
        return tensorfile_read(file, m->tensor, first, count, DT_F32, dst);
    memcpy(dst, m->values + first, (size_t)count * sizeof(float));
    return ST_OK;
}

status lora_rows(struct tensorfile *file, const struct lora_matrix *m, int64_t first, int64_t n,
                 float *dst)
{
    return read_elements(file, m, first * m->cols, n * m->cols, dst);
}

status lora_wide_rows(const struct lora_target *t, struct tensorfile *file,
                      const struct lora_matrix *m, int64_t first, int64_t n, float *dst)
{
    const int64_t channels = t->cols / t->kernel;
    float *row;

    TRY(lora_rows(file, m, first, n, dst));
    if (t->kernel == 1)
        return ST_OK;
    row = malloc((size_t)t->cols * sizeof(float));
    if (row == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a row of %s", t->name);
    for (int64_t r = 0; r < n; r++) {
        memcpy(row, dst + r * t->cols, (size_t)t->cols * sizeof(float));
        for (int64_t c = 0; c < t->cols; c++)
            dst[r * t->cols + c] = row[c % channels * t->kernel + c / channels];
    }
    free(row);
    return ST_OK;
}

/* ---- changes ---- */

/* A factor of a change. */
struct factor {
    struct lora_matrix matrix;
    bool rows; // it has the target's rows, of which a part is used; else all
    bool wide; // it has the target's columns
    struct tensor *to;
};

#define FACTORS 5 // at most

static int factors_of(const struct lora_term *term, struct weight_change *w, struct factor *f)
{
    const bool whole = term->kind == LORA_KRONECKER;
    const struct lora_matrix *m = &term->magnitude;
    int n = 0;

    f[n++] = (struct factor){ term->a, !whole, false, &w->a };
    f[n++] = (struct factor){ term->b, false, !whole, &w->b };
    if (term->kind == LORA_HADAMARD) {
        f[n++] = (struct factor){ term->c, true, false, &w->c };
        f[n++] = (struct factor){ term->d, false, true, &w->d };
    }
    if (m->rows > 0)
        f[n++] = (struct factor){ { .values = m->values, .rows = m->rows * m->cols, .cols = 1 },
                                  !term->per_column,
                                  false,
                                  &w->magnitude };
    return n;
}

static int64_t aligned(int64_t floats)
{
    return (floats + FACTOR_FLOATS - 1) / FACTOR_FLOATS * FACTOR_FLOATS;
}

static int64_t count_of(const struct factor *f, int64_t rows)
{
    return (f->rows ? rows : f->matrix.rows) * f->matrix.cols;
}

static int64_t floats_of(const struct factor *f, int64_t rows)
{
    return aligned(count_of(f, rows));
}

int64_t lora_change_floats(const struct lora_target *t, const struct lora_term *term, int64_t rows)
{
    struct weight_change w;
    struct factor f[FACTORS];
    const int n = term->kind <= LORA_KRONECKER ? factors_of(term, &w, f) : 0;
    int64_t floats = 0;

    for (int i = 0; i < n; i++)
        floats += floats_of(&f[i], rows);
    return floats;
}

status lora_change(const struct lora_target *t, const struct lora_term *term, int64_t row,
                   int64_t rows, float *values, float *memory, struct weight_change *w)
{
    static const enum change_kind kinds[] = { [LORA_PRODUCT] = CHANGE_PRODUCT,
                                              [LORA_HADAMARD] = CHANGE_HADAMARD,
                                              [LORA_KRONECKER] = CHANGE_KRONECKER };
    struct factor f[FACTORS];
    int64_t at = 0;

    *w = (struct weight_change){ .kind = kinds[term->kind],
                                 .row = row,
                                 .scale = term->scale,
                                 .strength = term->strength,
                                 .per_column = term->per_column };
    for (int i = 0, n = factors_of(term, w, f); i < n; i++) {
        const struct lora_matrix *m = &f[i].matrix;
        const int64_t first = f[i].rows ? row : 0, count = f[i].rows ? rows : m->rows;

        if (values != NULL)
            TRY(f[i].wide ? lora_wide_rows(t, term->file, m, first, count, values + at)
                          : lora_rows(term->file, m, first, count, values + at));
        *f[i].to = m->cols == 1 && f[i].to == &w->magnitude
                       ? tensor_of(memory + at, DT_F32, count)
                       : tensor_of(memory + at, DT_F32, count, m->cols);
        at += floats_of(&f[i], rows);
    }
    return ST_OK;
}

/* ---- products ---- */

status lora_factors(const struct lora_target *t, int64_t row, int64_t rows, float *up, float *down)
{
    int64_t at = 0;

    for (int i = 0; i < t->count; i++) {
        const struct lora_term *term = &t->terms[i];
        const float scale = term->strength * term->scale;
        const int64_t rank = term->a.cols;
        float *part = NULL;
        status st;

        if (down != NULL)
            TRY(lora_wide_rows(t, term->file, &term->b, 0, rank, down + at * t->cols));
        if (up != NULL) {
            part = malloc((size_t)(rows * rank) * sizeof(float));
            st = part != NULL ? lora_rows(term->file, &term->a, row, rows, part)
                              : fail(ST_MEMORY, "cannot allocate host memory for the factors of %s",
                                     t->name);
            for (int64_t r = 0; st == ST_OK && r < rows; r++)
                for (int64_t k = 0; k < rank; k++)
                    up[r * t->rank + at + k] = scale * part[r * rank + k];
            free(part);
            TRY(st);
        }
        at += rank;
    }
    return ST_OK;
}

/* ---- ranges of what a GPU has ---- */

/* The part of `count` floats from float `at` on that is in [first, first + n): *from, *left. False
 * if there is none. */
static bool overlap(int64_t at, int64_t count, int64_t first, int64_t n, int64_t *from,
                    int64_t *left)
{
    const int64_t begin = first > at ? first : at;
    const int64_t end = first + n < at + count ? first + n : at + count;

    *from = begin - at;
    *left = end - begin;
    return end > begin;
}

/* Elements [from, from + n) of what a change uses of a factor. */
static status read_factor(const struct lora_target *t, struct tensorfile *file,
                          const struct factor *f, int64_t row, int64_t from, int64_t n, float *out)
{
    const int64_t cols = f->matrix.cols, skip = f->rows ? row * cols : 0;
    float *line = NULL;
    status st = ST_OK;

    if (!f->wide || t->kernel == 1)
        return read_elements(file, &f->matrix, skip + from, n, out);
    line = malloc((size_t)cols * sizeof(float));
    if (line == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a row of %s", t->name);
    for (int64_t r = from / cols; st == ST_OK && r * cols < from + n; r++) {
        int64_t begin, count;

        st = lora_wide_rows(t, file, &f->matrix, r, 1, line);
        if (st == ST_OK && overlap(r * cols, cols, from, n, &begin, &count))
            memcpy(out + (r * cols + begin - from), line + begin, (size_t)count * sizeof(float));
    }
    free(line);
    return st;
}

/* Elements [from, from + n) of the matrix "up" of all terms, which are products. */
static status read_up(const struct lora_target *t, int64_t row, int64_t from, int64_t n, float *out)
{
    const int64_t first = from / t->rank, end = (from + n + t->rank - 1) / t->rank;
    float *up = malloc((size_t)((end - first) * t->rank) * sizeof(float));
    status st = up != NULL
                    ? lora_factors(t, row + first, end - first, up, NULL)
                    : fail(ST_MEMORY, "cannot allocate host memory for the factors of %s", t->name);

    if (st == ST_OK)
        memcpy(out, up + (from - first * t->rank), (size_t)n * sizeof(float));
    free(up);
    return st;
}

int64_t lora_down_at(const struct lora_target *t, int64_t rows)
{
    return aligned(rows * t->rank);
}

int64_t lora_floats(const struct lora_target *t, int64_t rows)
{
    int64_t floats = 0;

    if (t->rank > 0)
        return lora_down_at(t, rows) + aligned(t->rank * t->cols);
    for (int i = 0; i < t->count; i++)
        floats += lora_change_floats(t, &t->terms[i], rows);
    return floats;
}

status lora_read_floats(const struct lora_target *t, int64_t row, int64_t rows, int64_t first,
                        int64_t n, float *out)
{
    int64_t at = 0, from, count;

    if (t->rank > 0) {
        if (overlap(0, rows * t->rank, first, n, &from, &count))
            TRY(read_up(t, row, from, count, out));
        at = lora_down_at(t, rows);
    }
    for (int i = 0; i < t->count; i++) {
        struct weight_change w;
        struct factor f[FACTORS];
        const int factors = factors_of(&t->terms[i], &w, f);

        for (int k = t->rank > 0 ? 1 : 0; k < factors; k++) { // of a product, "down" follows
            if (overlap(at, count_of(&f[k], rows), first, n, &from, &count))
                TRY(read_factor(t, t->terms[i].file, &f[k], row, from, count,
                                out + (at + from - first)));
            at += t->rank > 0 ? count_of(&f[k], rows) : floats_of(&f[k], rows);
        }
    }
    return ST_OK;
}
