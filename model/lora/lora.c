#include "model/lora/lora_internal.h"

#include <math.h>
#include <md5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

status lora_parse(struct lora_use *use, const char *text)
{
    const char *colon = strrchr(text, ':');
    size_t length = strlen(text);
    char *end = NULL;
    double strength = 1;

    if (colon != NULL && colon > text && access(text, F_OK) != 0) {
        strength = strtod(colon + 1, &end);
        if (end == colon + 1 || *end != 0)
            strength = 1; // the colon belongs to the name
        else
            length = (size_t)(colon - text);
    }
    if (!isfinite(strength) || fabs(strength) > 1e6)
        return fail(ST_USAGE, "--lora %s: the strength must be a number of at most 1e6", text);
    *use = (struct lora_use){ .path = strndup(text, length), .strength = (float)strength };
    return use->path != NULL ? ST_OK
                             : fail(ST_MEMORY, "cannot allocate host memory for a file name");
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct lora_target *)a)->name, ((const struct lora_target *)b)->name);
}

const struct lora_target *lora_find(const struct lora *l, const char *name)
{
    struct lora_target key;

    memcpy(key.name, name, strlen(name) + 1);
    return bsearch(&key, l->targets, (size_t)l->count, sizeof(*l->targets), by_name);
}

bool lora_changes(const struct lora *l, const char *name)
{
    return l != NULL && strlen(name) < WEIGHT_NAME_BYTES && lora_find(l, name) != NULL;
}

/* The ranks of a file's products: "rank 64", "ranks 4 to 64", or "". */
static void ranks_text(char *text, size_t size, const struct lora *l, const struct lora_file *f)
{
    int64_t least = INT64_MAX, most = 0;

    for (int i = 0; i < l->count; i++) {
        for (int k = 0; k < l->targets[i].count; k++) {
            const struct lora_term *t = &l->targets[i].terms[k];

            if (t->file != &f->file || t->kind != LORA_PRODUCT)
                continue;
            least = t->a.cols < least ? t->a.cols : least;
            most = t->a.cols > most ? t->a.cols : most;
        }
    }
    text[0] = '\0';
    if (most > 0 && least == most)
        snprintf(text, size, ", rank %lld", (long long)most);
    else if (most > 0)
        snprintf(text, size, ", ranks %lld to %lld", (long long)least, (long long)most);
}

/* Removes targets without terms: those of files of strength 0. */
static void drop_unchanged(struct lora *l)
{
    int n = 0;

    for (int i = 0; i < l->count; i++)
        if (l->targets[i].count > 0)
            l->targets[n++] = l->targets[i];
    l->count = n;
}

/* Targets that one product changes, as most are, and those that changes of other kinds do. */
static void sum_ranks(struct lora *l)
{
    for (int i = 0; i < l->count; i++) {
        struct lora_target *t = &l->targets[i];
        bool products = true, changes = true;
        int64_t rank = 0;

        for (int k = 0; k < t->count; k++) {
            products =
                products && t->terms[k].kind == LORA_PRODUCT && t->terms[k].magnitude.rows == 0;
            changes = changes && t->terms[k].kind <= LORA_KRONECKER;
            rank += t->terms[k].a.cols;
        }
        t->rank = products ? rank : 0;
        t->changes = changes;
    }
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL ? slash + 1 : path;
}

/* Opens a file and adds its changes. */
static status add_file(struct lora *l, const struct lora_use *use, const struct tensor_list *list,
                       char **line)
{
    struct lora_file *f = &l->files[l->file_count];
    struct lora_problems p = { 0 };
    char ranks[64];
    int used = 0;

    TRY(lora_file_open(f, use->path));
    l->file_count++;
    f->strength = use->strength;
    TRY(lora_match(l, f, list, false, &p, &used));
    l->unknown += p.unknown;
    if (p.unknown > 0 && !l->options.ignore_unknown)
        return fail(ST_USAGE,
                    "%s: %d of its keys match no tensor of the %s (%s%s): it is for another model, "
                    "or pass --lora_ignore_unknown to leave them out",
                    f->path, p.unknown, l->options.part->name, p.names,
                    p.unknown > 3 ? ", ..." : "");
    if (used == 0 && !use->either)
        return fail(ST_USAGE, "%s: changes nothing of the %s%s", f->path, l->options.part->name,
                    p.unknown > 0 ? ": all of its keys are unknown" : "");
    ranks_text(ranks, sizeof(ranks), l, f);
    if (asprintf(line, "%s: strength %g, %s%s, %d tensors%s", base_name(f->path),
                 (double)f->strength, f->dialect, ranks, used,
                 p.unknown > 0 ? ", unknown keys left out" : "") < 0) {
        *line = NULL;
        return fail(ST_MEMORY, "cannot allocate host memory for a line");
    }
    return ST_OK;
}

status lora_open(struct lora **lora, const struct lora_options *options)
{
    struct lora *l = calloc(1, sizeof(*l));
    struct tensor_list list = { 0 };
    status st = ST_OK;

    *lora = NULL;
    if (l == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a LoRA");
    pthread_mutex_init(&l->lock, NULL);
    l->chunk = LORA_CHUNK;
    l->options = *options;
    l->options.uses = NULL; // the caller's
    l->files = calloc((size_t)options->count + 1, sizeof(*l->files));
    l->lines = calloc((size_t)options->count + 1, sizeof(*l->lines));
    if (l->files == NULL || l->lines == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for %d LoRAs", options->count));
    options->part->tensors(&list, options->config, options->base);
    TRY_OUT(tensors_status(&list));
    for (int i = 0; i < options->count; i++)
        TRY_OUT(add_file(l, &options->uses[i], &list, &l->lines[i]));
    drop_unchanged(l);
    sum_ranks(l);
    if (l->count > 0)
        qsort(l->targets, (size_t)l->count, sizeof(*l->targets), by_name);
    *lora = l;
out:
    tensors_done(&list);
    if (st != ST_OK)
        lora_close(l);
    return st;
}

void lora_close(struct lora *l)
{
    if (l == NULL)
        return;
    lora_free_slots(l);
    lora_targets_done(l);
    for (int i = 0; i < l->file_count; i++)
        lora_file_close(&l->files[i]);
    for (int i = 0; l->lines != NULL && i < l->options.count; i++)
        free(l->lines[i]);
    free(l->files);
    free(l->lines);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

const char *lora_line(const struct lora *l, int index)
{
    return l != NULL && index < l->options.count ? l->lines[index] : NULL;
}

int lora_unknown(const struct lora *l)
{
    return l != NULL ? l->unknown : 0;
}

/* What the adapters keep in memory: factors that are not read when they are needed. */
static size_t kept_bytes(const struct lora *l)
{
    size_t bytes = 0;

    for (int i = 0; i < l->count; i++) {
        for (int k = 0; k < l->targets[i].count; k++) {
            const struct lora_term *t = &l->targets[i].terms[k];
            const struct lora_matrix *all[] = { &t->a, &t->b, &t->c, &t->d, &t->magnitude };

            for (size_t m = 0; m < COUNT(all); m++)
                bytes += all[m]->values != NULL
                             ? (size_t)(all[m]->rows * all[m]->cols) * sizeof(float)
                             : 0;
            bytes += (size_t)(t->magnitude.rows * t->magnitude.cols) * sizeof(double); // squares
        }
    }
    return bytes;
}

size_t lora_host_bytes(const struct lora *l, int threads, size_t range)
{
    size_t factors = 0;

    if (l == NULL || l->count == 0)
        return 0;
    for (int i = 0; i < l->count; i++) {
        const struct lora_target *t = &l->targets[i];
        size_t one = 0;

        for (int k = 0; k < t->count; k++)
            one += (size_t)lora_change_floats(t, &t->terms[k], 1) * sizeof(float);
        factors = one > factors ? one : factors;
    }
    // the base and a change, each as f32 where the range may be bf16
    return kept_bytes(l) + (size_t)threads * (factors + 4 * range);
}

/* ---- the digest ---- */

#define SAMPLE 64 // values of each tensor of a file

status lora_digest(struct lora *l, char *hex)
{
    MD5_CTX md5;

    if (l == NULL || l->count == 0)
        return ST_OK;
    MD5Init(&md5);
    MD5Update(&md5, (const uint8_t *)hex, strlen(hex));
    for (int i = 0; i < l->file_count; i++) {
        struct lora_file *f = &l->files[i];

        if (f->strength == 0)
            continue;
        MD5Update(&md5, (const uint8_t *)&f->strength, sizeof(f->strength));
        for (int k = 0; k < f->file.count; k++) {
            const struct file_tensor *t = &f->file.tensors[k];
            const int64_t count = tensor_count(t->shape), n = count < SAMPLE ? count : SAMPLE;
            uint8_t sample[SAMPLE * 8] = { 0 };

            TRY(tensorfile_read(&f->file, t, (count - n) / 2, n, t->shape.dtype, sample));
            MD5Update(&md5, (const uint8_t *)t->file_name, strlen(t->file_name));
            MD5Update(&md5, sample, (size_t)n * dtype_size(t->shape.dtype));
        }
    }
    MD5End(&md5, hex);
    return ST_OK;
}
