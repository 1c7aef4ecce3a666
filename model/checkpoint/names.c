/* Tensor names of other layouts: translation with the parts' tables, and the names of a file, which
 * may have several parts, each with a prefix before its names. Source: diffusers
 * scripts/convert_wan_to_diffusers.py. */
#include "model/checkpoint/names.h"

#include "model/checkpoint/checkpoint_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Parses the number at *text, of one to four digits, and moves *text after it; false if there is
 * none. */
static bool parse_index(const char **text, int *index)
{
    const char *s = *text;

    *index = 0;
    while (*s >= '0' && *s <= '9' && s - *text < 4)
        *index = 10 * *index + (*s++ - '0');
    if (s == *text || (s - *text > 1 && **text == '0'))
        return false;
    *text = s;
    return true;
}

const char *names_match(const char *pattern, const char *name, int *index)
{
    const bool is_prefix = pattern[strlen(pattern) - 1] == '.';

    for (; *pattern; pattern++) {
        if (*pattern == '%') {
            if (!parse_index(&name, index))
                return NULL;
        } else if (*pattern != *name++) {
            return NULL;
        }
    }
    return is_prefix || *name == '\0' ? name : NULL;
}

bool names_write(char *out, size_t size, const char *prefix, const char *pattern, int index,
                 const char *rest)
{
    const char *number = strchr(pattern, '%');
    int n;

    if (number != NULL)
        n = snprintf(out, size, "%s%.*s%d%s%s", prefix, (int)(number - pattern), pattern, index,
                     number + 1, rest);
    else
        n = snprintf(out, size, "%s%s%s", prefix, pattern, rest);
    return n >= 0 && (size_t)n < size;
}

bool names_translate(const struct name_pair *pairs, bool to_official, const char *prefix,
                     const char *name, char *out, size_t size)
{
    for (const struct name_pair *p = pairs; p->official != NULL; p++) {
        int index = 0;
        const char *rest = names_match(to_official ? p->other : p->official, name, &index);

        if (rest != NULL)
            return names_write(out, size, prefix, to_official ? p->official : p->other, index,
                               rest);
    }
    return false;
}

/* ---- names of a file ---- */

/* What PyTorch's wrappers of modules add inside names. */
static const char *const wrappers[] = { "_orig_mod.", "_fsdp_wrapped_module.",
                                        "_checkpoint_wrapped_module." };

/* Callback of tensorfile_rename: the name without wrappers; false if it has none. */
static bool unwrap(void *payload, const char *name, char *out, size_t size)
{
    bool found = false;
    size_t n = 0;

    while (*name != '\0' && n + 1 < size) {
        size_t skip = 0;

        for (size_t i = 0; i < COUNT(wrappers); i++)
            if (strncmp(name, wrappers[i], strlen(wrappers[i])) == 0)
                skip = strlen(wrappers[i]);
        name += skip;
        found = found || skip > 0;
        if (skip == 0)
            out[n++] = *name++;
    }
    out[n] = '\0';
    return found;
}

static bool has(const struct tensorfile *f, const char *prefix, const char *name)
{
    char full[NAMES_PREFIX_BYTES + 160];

    snprintf(full, sizeof(full), "%s%s", prefix, name);
    return tensorfile_find(f, full) != NULL;
}

/* Whether `name` is PREFIXend, where the prefix is empty or ends in '.'; *length of the prefix. */
static bool ends_in(const char *name, const char *end, size_t *length)
{
    const size_t n = strlen(name), m = strlen(end);

    *length = n - m;
    return n >= m && n - m < NAMES_PREFIX_BYTES && strcmp(name + n - m, end) == 0 &&
           (n == m || name[n - m - 1] == '.');
}

/* Whether prefix a is to be preferred: not of averaged weights, which training programs keep beside
 * the weights; then the shorter one. */
static bool is_better(const char *a, size_t a_length, const char *b)
{
    const bool a_average = memmem(a, a_length, "ema", 3) != NULL,
               b_average = strstr(b, "ema") != NULL;

    return a_average != b_average ? b_average : a_length < strlen(b);
}

bool names_detect(struct naming *n, const struct tensorfile *f, const struct part *part)
{
    bool found = false;

    *n = (struct naming){ .official = true };
    for (int i = 0; i < f->count; i++) {
        const char *name = f->tensors[i].name;

        for (const struct name_pair *a = part->detected_by; a->official != NULL; a++) {
            size_t length = 0;
            const bool official = ends_in(name, a->official, &length);

            if (!official && !ends_in(name, a->other, &length))
                continue;
            if (found && !is_better(name, length, n->prefix))
                continue;
            found = true;
            n->official = official;
            memcpy(n->prefix, name, length);
            n->prefix[length] = '\0';
        }
    }
    return found;
}

status names_unwrap(struct tensorfile *f)
{
    for (int i = 0; i < f->count; i++)
        for (size_t k = 0; k < COUNT(wrappers); k++)
            if (strstr(f->tensors[i].name, wrappers[k]) != NULL)
                return tensorfile_rename(f, unwrap, NULL);
    return ST_OK;
}

/* ---- one part of a file that may have several ---- */

struct keeping {
    const struct part *part;
    struct naming own, other[PARTS_MOST];
    int others;
};

static bool begins_with(const char *name, const struct naming *n)
{
    return strncmp(name, n->prefix, strlen(n->prefix)) == 0;
}

static bool is_tokenizer(const struct part *part, const char *name)
{
    size_t length;

    return part->tokenizer_tensor != NULL && ends_in(name, part->tokenizer_tensor, &length);
}

/* Callback of tensorfile_keep. A longer prefix is that of the tensor's own part. */
static bool is_own(void *payload, const struct file_tensor *t)
{
    const struct keeping *k = payload;

    if (is_tokenizer(k->part, t->name))
        return true;
    for (int i = 0; i < k->others; i++)
        if (strlen(k->other[i].prefix) > strlen(k->own.prefix) &&
            begins_with(t->name, &k->other[i]))
            return false;
    return begins_with(t->name, &k->own);
}

void names_keep_part(struct tensorfile *f, const struct part *part, const struct checkpoint *c)
{
    struct keeping k = { .part = part };

    if (!names_detect(&k.own, f, part))
        return;
    for (int i = 0; i < c->count && k.others < PARTS_MOST; i++)
        if (c->parts[i].row != part && names_detect(&k.other[k.others], f, c->parts[i].row))
            k.others++;
    tensorfile_keep(f, is_own, &k);
}

/* Payload of make_official. */
struct renaming {
    const struct part *part;
    const struct tensorfile *f;
    struct naming naming;
    bool (*rename)(const char *name, bool to_official, char *out, size_t size); // or NULL
};

/* Callback of tensorfile_rename: the official name; false for a name without the prefix. */
static bool make_official(void *payload, const char *name, char *out, size_t size)
{
    const struct renaming *r = payload;
    const struct part *part = r->part;
    const char *prefix = r->naming.prefix, *bare = name + strlen(prefix);

    if (is_tokenizer(part, name))
        return names_write(out, size, "", part->tokenizer_tensor, 0, "");
    if (!begins_with(name, &r->naming))
        return false;
    for (const struct name_pair *p = part->fallbacks; p != NULL && p->official != NULL; p++)
        if (r->rename != NULL && strcmp(bare, p->official) == 0 && !has(r->f, prefix, p->other))
            bare = p->other;
    if (r->rename != NULL && r->rename(bare, true, out, size))
        return true;
    return names_write(out, size, "", bare, 0, "");
}

/* The shape of a row of part->shapes for this tensor; false if it has these axes already, or they
 * cannot be had. */
static bool find_shape(const struct tensorfile *f, const struct file_tensor *t,
                       const struct full_shape *row, int64_t *dim)
{
    char bias[WEIGHT_NAME_BYTES];
    const struct file_tensor *b;
    const size_t stem =
        strlen(t->name) - strlen(strrchr(t->name, '.') ? strrchr(t->name, '.') : "");
    int64_t rest = tensor_count(t->shape), known = 1;

    if (t->shape.ndim >= row->ndim)
        return false;
    snprintf(bias, sizeof(bias), "%.*s.bias", (int)stem, t->name);
    b = tensorfile_find(f, bias);
    for (int i = 0; i < row->ndim; i++) {
        dim[i] = row->dim[i];
        if (dim[i] == SHAPE_BIAS)
            dim[i] = b != NULL ? tensor_count(b->shape) : 0;
        if (dim[i] == SHAPE_LAST)
            dim[i] = t->shape.ndim > 0 ? t->shape.dim[t->shape.ndim - 1] : 0;
        known *= dim[i] != SHAPE_REST ? dim[i] : 1;
    }
    if (known < 1 || rest % known != 0)
        return false;
    for (int i = 0; i < row->ndim; i++)
        dim[i] = dim[i] == SHAPE_REST ? rest / known : dim[i];
    return true;
}

/* Writers of GGUF files drop or join axes of size 1. */
static void restore_shapes(struct tensorfile *f, const struct part *part)
{
    for (int i = 0; part->shapes != NULL && i < f->count; i++) {
        for (const struct full_shape *row = part->shapes; row->name != NULL; row++) {
            int64_t dim[TENSOR_AXES];
            int index;

            if (names_match(row->name, f->tensors[i].name, &index) != NULL &&
                find_shape(f, &f->tensors[i], row, dim))
                tensorfile_reshape(f, f->tensors[i].name, row->ndim, dim);
        }
    }
}

status names_make_official(struct tensorfile *f, const struct part *part, struct naming *naming)
{
    struct renaming r = { .part = part, .f = f };

    names_detect(&r.naming, f, part);
    *naming = r.naming;
    if (!naming->official)
        r.rename = part->witness != NULL && has(f, naming->prefix, part->witness)
                       ? part->rename_witnessed
                       : part->rename;
    TRY(tensorfile_rename(f, make_official, &r));
    restore_shapes(f, part);
    return ST_OK;
}
