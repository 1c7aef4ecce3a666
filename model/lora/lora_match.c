/* Matches the modules of adapter files with the tensors of a part, and checks their shapes. */
#include "model/lora/lora_internal.h"

#include "kernels/merge.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the names under which files know the part's tensors ---- */

/* What of a module a tensor is. */
enum tail { TAIL_WEIGHT, TAIL_BIAS, TAIL_MODULATION, TAIL_WHOLE };

static const struct {
    const char *text;
    enum tail tail;
} tails[] = { { ".weight", TAIL_WEIGHT },
              { ".bias", TAIL_BIAS },
              { ".modulation", TAIL_MODULATION },
              { ".scale_shift_table", TAIL_MODULATION } };

struct name {
    char text[WEIGHT_NAME_BYTES];
    enum tail tail;
    int tensor; // index in the list
};

/* Names of one tensor: official or of diffusers, with '.' or '_', and of the tensor or its module.
 */
#define NAMES_EACH 8

struct names {
    struct name *all; // sorted
    int count;
    const struct weight_spec **spec; // of each tensor
    char (*official)[WEIGHT_NAME_BYTES];
    int *target; // index in lora.targets; -1: none yet
};

static int by_name(const void *a, const void *b)
{
    const struct name *x = a, *y = b;
    const int order = strcmp(x->text, y->text);

    return order != 0 ? order : (int)x->tail - (int)y->tail;
}

static void add_name(struct names *n, const char *text, size_t length, enum tail tail, int tensor,
                     bool flat)
{
    struct name *to = &n->all[n->count++];

    *to = (struct name){ .tail = tail, .tensor = tensor };
    memcpy(to->text, text, length);
    for (size_t i = 0; i < length && flat; i++)
        to->text[i] = text[i] == '.' ? '_' : text[i];
}

/* Adds the spellings of one name of a tensor. */
static void add_names(struct names *n, const char *full, int tensor)
{
    const size_t length = strlen(full);

    for (int flat = 0; flat < 2; flat++) {
        add_name(n, full, length, TAIL_WHOLE, tensor, flat == 1);
        for (size_t i = 0; i < COUNT(tails); i++) {
            const size_t tail = strlen(tails[i].text);

            if (length > tail && strcmp(full + length - tail, tails[i].text) == 0)
                add_name(n, full, length - tail, tails[i].tail, tensor, flat == 1);
        }
    }
}

static void names_done(struct names *n)
{
    free(n->all);
    free(n->spec);
    free(n->official);
    free(n->target);
    *n = (struct names){ 0 };
}

static status names_make(struct names *n, const struct part *part, const struct tensor_list *list)
{
    const size_t total = (size_t)tensors_total(list);
    int at = 0;

    *n = (struct names){ .all = calloc(NAMES_EACH * total + 1, sizeof(*n->all)),
                         .spec = calloc(total + 1, sizeof(*n->spec)),
                         .official = calloc(total + 1, sizeof(*n->official)),
                         .target = calloc(total + 1, sizeof(*n->target)) };
    if (n->all == NULL || n->spec == NULL || n->official == NULL || n->target == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for the names of %zu tensors", total);
    for (int s = 0; s < list->stack_count; s++) {
        const struct tensor_stack *stack = &list->stacks[s];

        for (int i = 0; i < stack->units * stack->count; i++, at++) {
            char other[WEIGHT_NAME_BYTES];

            n->spec[at] = tensors_nth(list, stack, i, n->official[at]);
            n->target[at] = -1;
            add_names(n, n->official[at], at);
            if (part->rename != NULL && part->rename(n->official[at], false, other, sizeof(other)))
                add_names(n, other, at);
        }
    }
    qsort(n->all, (size_t)n->count, sizeof(*n->all), by_name);
    return ST_OK;
}

/* The tensor that a module calls `text`; -1 if there is none. */
static int find_name(const struct names *n, const char *text, enum tail tail)
{
    struct name key = { .tail = tail };
    const struct name *found;

    memcpy(key.text, text, strlen(text) + 1);
    found = bsearch(&key, n->all, (size_t)n->count, sizeof(*n->all), by_name);
    if (found == NULL && tail != TAIL_WHOLE)
        return find_name(n, text, TAIL_WHOLE);
    return found != NULL ? found->tensor : -1;
}

/* ---- targets ---- */

static void matrix_done(struct lora_matrix *m)
{
    free(m->values);
    *m = (struct lora_matrix){ 0 };
}

static void term_done(struct lora_term *t)
{
    matrix_done(&t->a);
    matrix_done(&t->b);
    matrix_done(&t->c);
    matrix_done(&t->d);
    matrix_done(&t->magnitude);
    free(t->squares);
    *t = (struct lora_term){ 0 };
}

void lora_targets_done(struct lora *l)
{
    for (int i = 0; i < l->count; i++) {
        for (int k = 0; k < l->targets[i].count; k++)
            term_done(&l->targets[i].terms[k]);
        free(l->targets[i].terms);
    }
    free(l->targets);
    l->targets = NULL;
    l->count = 0;
}

/* The target for tensor `index`, as a matrix in the order of its spec. */
static status target_of(struct lora *l, struct names *n, int index, struct lora_target **out)
{
    const struct weight_spec *spec = n->spec[index];
    const int64_t count = tensor_count(tensor_dims(NULL, DT_F32, spec->file_ndim, spec->file_dim));
    struct lora_target *t;

    if (n->target[index] < 0) {
        struct lora_target *more =
            realloc(l->targets, ((size_t)l->count + 1) * sizeof(*l->targets));

        if (more == NULL)
            return fail(ST_MEMORY, "cannot allocate host memory for %d tensors of a LoRA",
                        l->count + 1);
        l->targets = more;
        t = &l->targets[l->count];
        *t = (struct lora_target){ .spec = *spec, .kernel = 1 };
        memcpy(t->name, n->official[index], sizeof(t->name));
        t->rows = spec->file_ndim > 0 ? spec->file_dim[0] : 1;
        t->cols = count / t->rows;
        if (spec->channels_last && spec->file_ndim > 2 && !l->options.as_in_file)
            t->kernel = t->cols / spec->file_dim[1];
        if (l->options.as_in_file) {
            t->spec.channels_last = false;
            t->spec.ndim = spec->file_ndim;
            memcpy(t->spec.dim, spec->file_dim, sizeof(t->spec.dim));
        }
        n->target[index] = l->count++;
    }
    *out = &l->targets[n->target[index]];
    return ST_OK;
}

static status add_term(struct lora_target *t, const struct lora_term *term)
{
    struct lora_term *more = realloc(t->terms, ((size_t)t->count + 1) * sizeof(*more));

    if (more == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a LoRA of %s", t->name);
    t->terms = more;
    t->terms[t->count++] = *term;
    return ST_OK;
}

/* ---- matrices ---- */

static bool is_float(enum dtype dt)
{
    return dt == DT_F32 || dt == DT_BF16 || dt == DT_F16 || dt == DT_F64 || dt == DT_F8_E4M3 ||
           dt == DT_F8_E5M2;
}

/* A tensor as a matrix: its first axis, and all others. */
static status take(const struct lora_file *f, const struct file_tensor *t, struct lora_matrix *m)
{
    const struct tensor s = t->shape;

    if (!is_float(s.dtype) || tensor_count(s) < 1)
        return fail(ST_FORMAT, "%s: %.80s is %s, not a factor of floats", f->path, t->file_name,
                    tensor_text(s));
    *m = (struct lora_matrix){ .tensor = t, .rows = s.ndim > 0 ? s.dim[0] : 1 };
    m->cols = tensor_count(s) / m->rows;
    return ST_OK;
}

/* The same in memory, `transposed` perhaps. */
static status take_values(struct lora_file *f, const struct file_tensor *t, bool transposed,
                          struct lora_matrix *m)
{
    struct lora_matrix file;
    float *values, *turned;

    TRY(take(f, t, &file));
    values = calloc((size_t)(file.rows * file.cols), sizeof(float));
    turned = calloc((size_t)(file.rows * file.cols), sizeof(float));
    *m = (struct lora_matrix){ .values = values, .rows = file.rows, .cols = file.cols };
    if (values == NULL || turned == NULL) {
        free(turned);
        return fail(ST_MEMORY, "%s: cannot allocate host memory for %.80s", f->path, t->file_name);
    }
    if (transposed) {
        const status st = lora_rows(&f->file, &file, 0, file.rows, turned);

        for (int64_t r = 0; r < file.rows; r++)
            for (int64_t c = 0; c < file.cols; c++)
                values[c * file.rows + r] = turned[r * file.cols + c];
        m->rows = file.cols;
        m->cols = file.rows;
        free(turned);
        return st;
    }
    free(turned);
    return lora_rows(&f->file, &file, 0, file.rows, values);
}

static status does_not_fit(const struct lora_file *f, const struct lora_target *t,
                           const struct file_tensor *factor)
{
    return fail(ST_USAGE, "%s: %.80s is %s, which does not fit the tensor %s of %s", f->path,
                factor->file_name, tensor_text(factor->shape), t->name,
                tensor_text(tensor_dims(NULL, DT_F32, t->spec.file_ndim, t->spec.file_dim)) + 4);
}

/* out = a b, both in memory. */
static status multiply(const struct lora_matrix *a, const struct lora_matrix *b,
                       struct lora_matrix *out)
{
    *out = (struct lora_matrix){ .values = calloc((size_t)(a->rows * b->cols), sizeof(float)),
                                 .rows = a->rows,
                                 .cols = b->cols };
    if (out->values == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a factor of a LoRA");
    merge_product(out->values, 0, out->rows * out->cols, out->cols, a->values, b->values, a->cols);
    return ST_OK;
}

#define RANK_MOST 65536

/* The factor b of a Tucker decomposition, in place: b[i][c, k] = sum over j of core[i][j, k] *
 * b[j][c], where `core` is [R, b->rows, k...]. The result has at most `cols` columns. */
static status tucker(struct lora_file *f, const struct file_tensor *core, int64_t cols,
                     struct lora_matrix *b)
{
    struct lora_matrix m = { 0 }, out = { 0 };
    int64_t kernel;
    status st;

    TRY_OUT(take_values(f, core, false, &m));
    kernel = core->shape.ndim >= 2 && core->shape.dim[1] == b->rows ? m.cols / b->rows : 0;
    if (kernel == 0)
        TRY_OUT(fail(ST_FORMAT, "%s: %.80s is %s, but its other factor has rank %lld", f->path,
                     core->file_name, tensor_text(core->shape), (long long)b->rows));
    if (m.rows > RANK_MOST || b->cols > cols / kernel)
        TRY_OUT(fail(ST_USAGE, "%s: %.80s is %s, which does not fit a tensor of %lld columns",
                     f->path, core->file_name, tensor_text(core->shape), (long long)cols));
    out =
        (struct lora_matrix){ .values = calloc((size_t)(m.rows * b->cols * kernel), sizeof(float)),
                              .rows = m.rows,
                              .cols = b->cols * kernel };
    if (out.values == NULL)
        TRY_OUT(fail(ST_MEMORY, "%s: cannot allocate host memory for a factor", f->path));
    for (int64_t i = 0; i < m.rows; i++)
        for (int64_t j = 0; j < b->rows; j++)
            for (int64_t c = 0; c < b->cols; c++)
                for (int64_t k = 0; k < kernel; k++)
                    out.values[i * out.cols + c * kernel + k] +=
                        m.values[i * m.cols + j * kernel + k] * b->values[j * b->cols + c];
    matrix_done(b);
    *b = out;
    out = (struct lora_matrix){ 0 };
out:
    matrix_done(&m);
    matrix_done(&out);
    return st;
}

/* ---- terms ---- */

/* Fails unless the module has both factors or none; *has: it has. */
static status both(const struct lora_file *f, const struct lora_module *m, enum lora_role first,
                   enum lora_role second, bool *has)
{
    const struct file_tensor *a = m->part[first], *b = m->part[second];

    *has = a != NULL && b != NULL;
    if ((a == NULL) != (b == NULL))
        return fail(ST_FORMAT, "%s: %.80s has no other factor: the file is incomplete", f->path,
                    (a != NULL ? a : b)->file_name);
    return ST_OK;
}

/* The rank of a factor "down": its first axis. */
static int64_t rank_of(const struct file_tensor *t)
{
    return t->shape.ndim > 0 && t->shape.dim[0] > 0 ? t->shape.dim[0] : 1;
}

static status product_term(struct lora_file *f, const struct lora_module *m,
                           const struct lora_target *t, struct lora_term *term)
{
    const struct file_tensor *up = m->part[ROLE_UP], *down = m->part[ROLE_DOWN];
    float alpha;

    term->kind = LORA_PRODUCT;
    TRY(take(f, up, &term->a));
    if (m->part[ROLE_MID] != NULL) {
        TRY(take_values(f, down, false, &term->b));
        TRY(tucker(f, m->part[ROLE_MID], t->cols, &term->b));
    } else {
        TRY(take(f, down, &term->b));
    }
    if (term->a.rows != t->rows)
        return does_not_fit(f, t, up);
    if (term->b.cols != t->cols)
        return does_not_fit(f, t, down);
    if (term->a.cols != term->b.rows)
        return fail(ST_FORMAT, "%s: the factors of %s have the ranks %lld (%s) and %lld (%s)",
                    f->path, m->name, (long long)term->a.cols, tensor_text(up->shape),
                    (long long)term->b.rows, tensor_text(down->shape));
    return lora_scale(f, m, rank_of(down), &term->scale, &alpha);
}

static status hadamard_term(struct lora_file *f, const struct lora_module *m,
                            const struct lora_target *t, struct lora_term *term)
{
    static const enum lora_role a[2] = { ROLE_HADA_W1_A, ROLE_HADA_W2_A };
    static const enum lora_role b[2] = { ROLE_HADA_W1_B, ROLE_HADA_W2_B };
    static const enum lora_role core[2] = { ROLE_HADA_T1, ROLE_HADA_T2 };
    struct lora_matrix *const first[2] = { &term->a, &term->c };
    struct lora_matrix *const second[2] = { &term->b, &term->d };
    bool has;
    float alpha;

    term->kind = LORA_HADAMARD;
    for (int i = 0; i < 2; i++) {
        TRY(both(f, m, a[i], b[i], &has));
        if (!has)
            return fail(ST_FORMAT, "%s: %s has no %s: the file is incomplete", f->path, m->name,
                        i == 0 ? "hada_w1_a" : "hada_w2_a");
        if (m->part[core[i]] != NULL) {
            TRY(take_values(f, m->part[a[i]], true, first[i]));
            TRY(take_values(f, m->part[b[i]], false, second[i]));
            TRY(tucker(f, m->part[core[i]], t->cols, second[i]));
        } else {
            TRY(take(f, m->part[a[i]], first[i]));
            TRY(take(f, m->part[b[i]], second[i]));
        }
        if (first[i]->rows != t->rows || first[i]->cols != second[i]->rows)
            return does_not_fit(f, t, m->part[a[i]]);
        if (second[i]->cols != t->cols)
            return does_not_fit(f, t, m->part[b[i]]);
    }
    return lora_scale(f, m, rank_of(m->part[ROLE_HADA_W1_B]), &term->scale, &alpha);
}

/* One factor of a Kronecker product: whole, or itself a product. *rank: of that. */
static status kronecker_factor(struct lora_file *f, const struct lora_module *m,
                               const struct lora_target *t, int which, struct lora_matrix *out,
                               int64_t *rank)
{
    const struct file_tensor *whole = m->part[which == 1 ? ROLE_LOKR_W1 : ROLE_LOKR_W2];
    const enum lora_role role_a = which == 1 ? ROLE_LOKR_W1_A : ROLE_LOKR_W2_A;
    const enum lora_role role_b = which == 1 ? ROLE_LOKR_W1_B : ROLE_LOKR_W2_B;
    const struct file_tensor *core = which == 2 ? m->part[ROLE_LOKR_T2] : NULL;
    struct lora_matrix a = { 0 }, b = { 0 };
    bool has;
    status st;

    if (whole != NULL)
        return take_values(f, whole, false, out);
    TRY(both(f, m, role_a, role_b, &has));
    if (!has)
        return fail(ST_FORMAT, "%s: %s has no lokr_w%d: the file is incomplete", f->path, m->name,
                    which);
    *rank = rank_of(m->part[role_b]);
    TRY_OUT(take_values(f, m->part[role_a], core != NULL, &a));
    TRY_OUT(take_values(f, m->part[role_b], false, &b));
    if (core != NULL)
        TRY_OUT(tucker(f, core, t->cols, &b));
    if (a.rows > t->rows || b.cols > t->cols)
        TRY_OUT(does_not_fit(f, t, m->part[a.rows > t->rows ? role_a : role_b]));
    if (a.cols != b.rows)
        TRY_OUT(fail(ST_FORMAT, "%s: the factors of %s have the ranks %lld and %lld", f->path,
                     m->name, (long long)a.cols, (long long)b.rows));
    TRY_OUT(multiply(&a, &b, out));
out:
    matrix_done(&a);
    matrix_done(&b);
    return st;
}

/* The whole product in place of the factors, w1 = 1, with columns in the order of the memory. */
static status in_order_of_memory(const struct lora_file *f, const struct lora_target *t,
                                 struct lora_term *term)
{
    const struct lora_matrix a = term->a, b = term->b;
    const int64_t channels = t->cols / t->kernel;
    struct lora_matrix one = { .values = calloc(1, sizeof(float)), .rows = 1, .cols = 1 };
    struct lora_matrix all = { .values = calloc((size_t)(t->rows * t->cols), sizeof(float)),
                               .rows = t->rows,
                               .cols = t->cols };

    if (one.values == NULL || all.values == NULL) {
        matrix_done(&one);
        matrix_done(&all);
        return fail(ST_MEMORY, "%s: cannot allocate host memory for a Kronecker product", f->path);
    }
    one.values[0] = 1;
    for (int64_t r = 0; r < t->rows; r++)
        for (int64_t i = 0; i < t->cols; i++) {
            const int64_t c = i % channels * t->kernel + i / channels;

            all.values[r * t->cols + i] = a.values[r / b.rows * a.cols + c / b.cols] *
                                          b.values[r % b.rows * b.cols + c % b.cols];
        }
    matrix_done(&term->a);
    matrix_done(&term->b);
    term->a = one;
    term->b = all;
    return ST_OK;
}

static status kronecker_term(struct lora_file *f, const struct lora_module *m,
                             const struct lora_target *t, struct lora_term *term)
{
    int64_t rank = 0;
    float alpha;

    term->kind = LORA_KRONECKER;
    TRY(kronecker_factor(f, m, t, 1, &term->a, &rank));
    TRY(kronecker_factor(f, m, t, 2, &term->b, &rank));
    if (t->rows % term->a.rows != 0 || t->rows / term->a.rows != term->b.rows ||
        t->cols % term->a.cols != 0 || t->cols / term->a.cols != term->b.cols)
        return fail(ST_USAGE,
                    "%s: the factors of %s are %lld x %lld and %lld x %lld; their Kronecker "
                    "product does not fit the tensor %s of %lld x %lld",
                    f->path, m->name, (long long)term->a.rows, (long long)term->a.cols,
                    (long long)term->b.rows, (long long)term->b.cols, t->name, (long long)t->rows,
                    (long long)t->cols);
    if (t->kernel != 1)
        TRY(in_order_of_memory(f, t, term));
    return rank > 0 ? lora_scale(f, m, rank, &term->scale, &alpha) : ST_OK;
}

/* The magnitudes of DoRA, one per row or per column. */
static status magnitude_of(struct lora_file *f, const struct lora_module *m,
                           const struct lora_target *t, struct lora_term *term)
{
    const bool peft = m->part[ROLE_MAGNITUDE] != NULL;
    const struct file_tensor *s = m->part[peft ? ROLE_MAGNITUDE : ROLE_DORA];
    int64_t count;

    if (s == NULL)
        return ST_OK;
    TRY(take_values(f, s, false, &term->magnitude));
    count = term->magnitude.rows * term->magnitude.cols;
    term->merged_norm = peft;
    term->per_column = !peft && term->magnitude.rows != t->rows;
    if (count != (term->per_column ? t->cols : t->rows) || (term->per_column && t->kernel != 1))
        return does_not_fit(f, t, s);
    return ST_OK;
}

static bool same_dims(const struct tensor *a, const struct weight_spec *spec)
{
    int i = 0, k = 0;

    while (true) { // axes of size 1 may be missing
        while (i < a->ndim && a->dim[i] == 1)
            i++;
        while (k < spec->file_ndim && spec->file_dim[k] == 1)
            k++;
        if (i == a->ndim || k == spec->file_ndim)
            return i == a->ndim && k == spec->file_ndim;
        if (a->dim[i++] != spec->file_dim[k++])
            return false;
    }
}

static status difference_term(struct lora_file *f, const struct file_tensor *values,
                              const struct lora_target *t, enum lora_kind kind,
                              struct lora_term *term)
{
    term->kind = kind;
    TRY(take(f, values, &term->a));
    if (!same_dims(&values->shape, &t->spec))
        return does_not_fit(f, t, values);
    term->a.rows = t->rows;
    term->a.cols = t->cols;
    return ST_OK;
}

/* ---- modules ---- */

/* What modules change, in this order: the keys of a row change the tensor of its tail. */
static const struct change {
    enum tail tail;
    enum lora_role first, last; // the keys: roles from first to last
    status (*make)(struct lora_file *f, const struct lora_module *m, const struct lora_target *t,
                   struct lora_term *term);
    enum lora_kind kind; // without `make`
} changes[] = {
    { TAIL_WEIGHT, ROLE_SET, ROLE_SET, NULL, LORA_SET },
    { TAIL_WEIGHT, ROLE_UP, ROLE_MID, product_term, LORA_PRODUCT },
    { TAIL_WEIGHT, ROLE_HADA_W1_A, ROLE_HADA_T2, hadamard_term, LORA_HADAMARD },
    { TAIL_WEIGHT, ROLE_LOKR_W1, ROLE_LOKR_T2, kronecker_term, LORA_KRONECKER },
    { TAIL_WEIGHT, ROLE_DIFF, ROLE_DIFF, NULL, LORA_DIFF },
    { TAIL_BIAS, ROLE_SET_B, ROLE_SET_B, NULL, LORA_SET },
    { TAIL_BIAS, ROLE_UP_BIAS, ROLE_UP_BIAS, NULL, LORA_DIFF },
    { TAIL_BIAS, ROLE_DIFF_B, ROLE_DIFF_B, NULL, LORA_DIFF },
    { TAIL_MODULATION, ROLE_DIFF_M, ROLE_DIFF_M, NULL, LORA_DIFF },
};

/* Counts the keys [first, last] of a module as unknown. */
static void count_unknown(const struct lora_module *m, const struct change *c,
                          struct lora_problems *p)
{
    for (int r = (int)c->first; r <= (int)c->last; r++) {
        const size_t used = strlen(p->names);

        if (m->part[r] == NULL)
            continue;
        if (p->list != NULL)
            p->list[p->unknown] = m->part[r]->file_name;
        if (p->unknown++ < 3)
            snprintf(p->names + used, sizeof(p->names) - used, "%s%.60s", used ? ", " : "",
                     m->part[r]->file_name);
    }
}

/* Adds one change of a module to its tensor. */
static status apply_change(struct lora *l, struct lora_file *f, const struct lora_module *m,
                           const struct change *c, struct names *names, int tensor)
{
    struct lora_term term = { .file = &f->file, .strength = f->strength, .scale = 1 };
    struct lora_target *t = NULL;
    bool pair = true;
    float alpha;
    status st;

    TRY_OUT(target_of(l, names, tensor, &t));
    if (c->make == product_term)
        TRY_OUT(both(f, m, ROLE_UP, ROLE_DOWN, &pair));
    if (!pair)
        TRY_OUT(fail(ST_FORMAT, "%s: %s has a lora_mid and no other factor", f->path, m->name));
    if (c->make != NULL) {
        TRY_OUT(c->make(f, m, t, &term));
        TRY_OUT(magnitude_of(f, m, t, &term));
    } else {
        TRY_OUT(difference_term(f, m->part[c->first], t, c->kind, &term));
    }
    if (c->first == ROLE_UP_BIAS && m->part[ROLE_DOWN] != NULL)
        TRY_OUT(lora_scale(f, m, rank_of(m->part[ROLE_DOWN]), &term.scale, &alpha));
    if (f->strength == 0) // only checked
        goto out;
    TRY_OUT(add_term(t, &term));
    term = (struct lora_term){ 0 }; // given away
out:
    term_done(&term);
    return st;
}

static status match_module(struct lora *l, struct lora_file *f, const struct lora_module *m,
                           bool count_wrong, struct names *names, struct lora_problems *p,
                           int *used)
{
    if (m->part[ROLE_RESHAPE] != NULL)
        return fail(ST_FORMAT,
                    "%s: %.80s changes the shape of a tensor, which this version does not do",
                    f->path, m->part[ROLE_RESHAPE]->file_name);
    for (size_t i = 0; i < COUNT(changes); i++) {
        const struct change *c = &changes[i];
        bool has = false;
        int tensor;
        status st;

        for (int r = (int)c->first; r <= (int)c->last; r++)
            has = has || m->part[r] != NULL;
        if (!has)
            continue;
        tensor = find_name(names, m->name, c->tail);
        if (tensor < 0) {
            count_unknown(m, c, p);
            continue;
        }
        st = apply_change(l, f, m, c, names, tensor);
        if (count_wrong && (st == ST_USAGE || st == ST_FORMAT)) {
            if (p->wrong == 0 || (st == ST_FORMAT && p->damaged == 0))
                snprintf(p->first_wrong, sizeof(p->first_wrong), "%s", status_line());
            p->wrong++;
            p->damaged += st == ST_FORMAT;
        } else if (st != ST_OK) {
            return st;
        }
        *used += st == ST_OK;
    }
    return ST_OK;
}

/* Whether the transformer takes a module, by diffusers' prefixes of the two experts; has_second:
 * the file has some of the second. */
static bool is_for(const struct lora_module *m, bool second, bool has_second)
{
    return second ? m->place != PLACE_FIRST || !has_second : m->place != PLACE_SECOND;
}

status lora_match(struct lora *l, struct lora_file *f, const struct tensor_list *list,
                  bool count_wrong, struct lora_problems *p, int *used)
{
    // modules are sorted by their place
    const bool has_second = f->count > 0 && f->modules[f->count - 1].place == PLACE_SECOND;
    struct names names = { 0 };
    status st;

    *used = 0;
    TRY_OUT(names_make(&names, l->options.part, list));
    for (int i = 0; i < l->count; i++) // those of the files before
        for (int k = 0; k < tensors_total(list); k++)
            if (strcmp(names.official[k], l->targets[i].name) == 0)
                names.target[k] = i;
    for (int i = 0; i < f->count; i++)
        if (is_for(&f->modules[i], l->options.second, has_second))
            TRY_OUT(match_module(l, f, &f->modules[i], count_wrong, &names, p, used));
    for (int i = 0; i < f->unknown_count; i++) {
        const size_t length = strlen(p->names);

        if (p->list != NULL)
            p->list[p->unknown] = f->unknown[i];
        if (p->unknown++ < 3)
            snprintf(p->names + length, sizeof(p->names) - length, "%s%.60s", length ? ", " : "",
                     f->unknown[i]);
    }
out:
    names_done(&names);
    return st;
}
