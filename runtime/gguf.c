/* The GGUF format: "GGUF", u32 version, u64 tensors, u64 pairs; the pairs of key and value; the
 * tensors' names, axes (innermost first), types and offsets; the tensors' bytes, aligned.
 * Source: gguf-py gguf/gguf_reader.py, ggml docs/gguf.md. */
#include "runtime/blocks.h"
#include "runtime/tensorfile_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_BYTES ((size_t)16 << 10)
#define KEY_BYTES 256
#define NAME_BYTES 1100       // one more than tensor_list_add accepts is enough
#define PAIR_BYTES_LEAST 13   // an empty key, its type, one byte
#define TENSOR_BYTES_LEAST 24 // an empty name, its type, an offset
#define ALIGNMENT_DEFAULT 32
#define SHAPES_MAX 4096 // all are compared with each tensor
#define VALUE_BYTES_MAX ((uint64_t)256 << 20)

/* Reads the header from its beginning to its end. */
struct reader {
    const struct tensor_source *src;
    uint64_t at;    // of the next byte
    uint64_t start; // of the buffer
    size_t held;
    uint8_t buffer[BUFFER_BYTES];
};

struct pair {
    char key[KEY_BYTES]; // its beginning
    struct file_value v; // without bytes
    bool array;
    uint64_t at, bytes; // of the value, or of an array's elements
};

/* Shapes that a converter changed: comfy.gguf.orig_shape.NAME */
struct original_shape {
    char name[KEY_BYTES];
    int ndim;
    int64_t dim[TENSOR_AXES];
};

struct header {
    uint64_t tensors, pairs, alignment;
    struct original_shape *shapes;
    int count, room;
};

static status cut(const struct reader *r)
{
    return fail(ST_FORMAT, "%s: its header ends at byte %llu, in the middle; was it truncated?",
                r->src->path, (unsigned long long)r->src->size);
}

static status take(struct reader *r, void *dst, size_t bytes)
{
    uint8_t *to = dst;

    if (bytes > r->src->size - r->at)
        return cut(r);
    while (bytes > 0) {
        size_t inside, n;

        if (r->at < r->start || r->at >= r->start + r->held) {
            r->start = r->at;
            r->held =
                r->src->size - r->at < BUFFER_BYTES ? (size_t)(r->src->size - r->at) : BUFFER_BYTES;
            TRY(read_exactly(r->src, r->buffer, r->held, r->start));
        }
        inside = (size_t)(r->at - r->start);
        n = r->held - inside < bytes ? r->held - inside : bytes;
        memcpy(to, r->buffer + inside, n);
        to += n;
        r->at += n;
        bytes -= n;
    }
    return ST_OK;
}

static status take_number(struct reader *r, int bytes, uint64_t *number)
{
    uint8_t b[8] = { 0 };

    TRY(take(r, b, (size_t)bytes));
    *number = 0;
    for (int i = bytes - 1; i >= 0; i--)
        *number = *number << 8 | b[i];
    return ST_OK;
}

static status skip(struct reader *r, uint64_t bytes)
{
    if (bytes > r->src->size - r->at)
        return cut(r);
    r->at += bytes;
    return ST_OK;
}

/* The text, or as much of a longer one as `out` takes. */
static status take_text(struct reader *r, char *out, size_t size)
{
    uint64_t length = 0;
    size_t kept;

    TRY(take_number(r, 8, &length));
    if (length > r->src->size - r->at)
        return cut(r);
    kept = length < size - 1 ? (size_t)length : size - 1;
    TRY(take(r, out, kept));
    out[kept] = '\0';
    return skip(r, length - kept);
}

/* Bytes of one element; 0 for texts and arrays; -1: no such type. */
static int bytes_of(uint64_t type)
{
    static const int bytes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

    return type < COUNT(bytes) ? bytes[type] : -1;
}

static status skip_value(struct reader *r, struct pair *p)
{
    const int each = bytes_of((uint64_t)p->v.type);
    uint64_t bytes, length = 0;

    p->at = r->at;
    if (p->v.type == VALUE_STRING) {
        // a text has at least the 8 bytes of its length
        if (p->v.count > (r->src->size - r->at) / 8)
            return cut(r);
        for (uint64_t i = 0; i < p->v.count; i++) {
            TRY(take_number(r, 8, &length));
            TRY(skip(r, length));
        }
    } else {
        if (__builtin_mul_overflow(p->v.count, (uint64_t)each, &bytes))
            return cut(r);
        TRY(skip(r, bytes));
    }
    p->bytes = r->at - p->at;
    return ST_OK;
}

/* The next pair; its value is skipped. */
static status next_pair(struct reader *r, struct pair *p)
{
    uint64_t type = 0;

    TRY(take_text(r, p->key, sizeof(p->key)));
    for (char *c = p->key; *c; c++)
        if (*c < ' ' || *c == 0x7f)
            *c = '?';
    TRY(take_number(r, 4, &type));
    p->array = type == VALUE_ARRAY;
    p->v = (struct file_value){ .count = 1 };
    if (p->array) {
        TRY(take_number(r, 4, &type));
        TRY(take_number(r, 8, &p->v.count));
    }
    if (bytes_of(type) < 0 || type == VALUE_ARRAY)
        return fail(ST_FORMAT, "%s: the value of %.80s in its header has the unknown type %llu",
                    r->src->path, p->key, (unsigned long long)type);
    p->v.type = (enum value_type)type;
    return skip_value(r, p);
}

/* A whole number that is not negative. */
static status number_of(const struct tensor_source *src, const struct pair *p, uint64_t *number)
{
    uint8_t b[8] = { 0 };

    if (p->array || p->v.type == VALUE_F32 || p->v.type == VALUE_F64 || p->v.type == VALUE_STRING)
        return fail(ST_FORMAT, "%s: %s in its header is no whole number", src->path, p->key);
    TRY(read_exactly(src, b, (size_t)p->bytes, p->at));
    *number = 0;
    for (int i = 7; i >= 0; i--)
        *number = *number << 8 | b[i];
    return ST_OK;
}

static status add_shape(const struct tensor_source *src, struct header *h, const struct pair *p,
                        const char *name)
{
    struct original_shape *s;
    uint8_t dims[4 * TENSOR_AXES];

    if (!p->array || (p->v.type != VALUE_I32 && p->v.type != VALUE_U32) || p->v.count > TENSOR_AXES)
        return fail(ST_FORMAT, "%s: %s in its header is not a list of at most %d sizes", src->path,
                    p->key, TENSOR_AXES);
    if (h->count == SHAPES_MAX)
        return fail(ST_FORMAT, "%s: has more than %d original shapes in its header", src->path,
                    SHAPES_MAX);
    if (h->count == h->room) {
        const int room = h->room ? 2 * h->room : 16;
        struct original_shape *more = realloc(h->shapes, (size_t)room * sizeof(*more));

        if (more == NULL)
            return fail(ST_MEMORY, "%s: no memory for its header", src->path);
        h->shapes = more;
        h->room = room;
    }
    s = &h->shapes[h->count];
    snprintf(s->name, sizeof(s->name), "%s", name);
    s->ndim = (int)p->v.count;
    TRY(read_exactly(src, dims, (size_t)p->bytes, p->at));
    for (int i = 0; i < s->ndim; i++) {
        int32_t n;

        memcpy(&n, dims + 4 * i, 4);
        s->dim[i] = n;
    }
    h->count++;
    return ST_OK;
}

static status read_pair(const struct tensor_source *src, struct header *h, const struct pair *p)
{
    static const char shape[] = "comfy.gguf.orig_shape.";
    uint64_t number = 0;

    if (strcmp(p->key, "general.alignment") == 0) {
        TRY(number_of(src, p, &number));
        if (number == 0 || (number & (number - 1)) != 0 || number > (uint64_t)1 << 30)
            return fail(ST_FORMAT, "%s: general.alignment is %llu; expected a power of two",
                        src->path, (unsigned long long)number);
        h->alignment = number;
    } else if (strcmp(p->key, "split.count") == 0) {
        TRY(number_of(src, p, &number));
        if (number > 1)
            return fail(ST_FORMAT,
                        "%s: is one of %llu files of a divided GGUF file: join them with "
                        "llama-gguf-split --merge",
                        src->path, (unsigned long long)number);
    } else if (strncmp(p->key, shape, sizeof(shape) - 1) == 0) {
        TRY(add_shape(src, h, p, p->key + sizeof(shape) - 1));
    }
    return ST_OK;
}

static status take_header(struct reader *r, struct header *h)
{
    uint64_t version = 0, left;

    r->at = 4;
    TRY(take_number(r, 4, &version));
    if (version != 2 && version != 3)
        return fail(ST_FORMAT, "%s: is a GGUF file of version %llu%s; 2 and 3 are read",
                    r->src->path, (unsigned long long)version,
                    (version & 0xffff) == 0 ? ", or of a big-endian machine" : "");
    TRY(take_number(r, 8, &h->tensors));
    TRY(take_number(r, 8, &h->pairs));
    left = r->src->size - r->at;
    if (h->pairs > left / PAIR_BYTES_LEAST || h->tensors > left / TENSOR_BYTES_LEAST)
        return fail(ST_FORMAT,
                    "%s: has %llu bytes, too few for the %llu tensors and %llu values that its "
                    "header names; was it truncated?",
                    r->src->path, (unsigned long long)r->src->size, (unsigned long long)h->tensors,
                    (unsigned long long)h->pairs);
    return ST_OK;
}

/* A tensor's name, dims (outermost first), type, and offset from the beginning of the data. */
static status take_tensor(struct reader *r, char *name, int *ndim, int64_t *dim,
                          const struct ggml_type **type, uint64_t *offset)
{
    uint64_t axes = 0, id = 0, size = 0;

    TRY(take_text(r, name, NAME_BYTES));
    TRY(take_number(r, 4, &axes));
    if (axes > TENSOR_AXES)
        return fail(ST_FORMAT, "%s: tensor %.80s has %llu axes; at most %d are possible",
                    r->src->path, name, (unsigned long long)axes, TENSOR_AXES);
    *ndim = (int)axes;
    for (int i = *ndim - 1; i >= 0; i--) {
        TRY(take_number(r, 8, &size));
        dim[i] = size > INT64_MAX ? -1 : (int64_t)size;
    }
    TRY(take_number(r, 4, &id));
    TRY(take_number(r, 8, offset));
    *type = ggml_type_find((uint32_t)id);
    if (*type == NULL || (*type)->values == 0)
        return fail(ST_FORMAT, "%s: tensor %.80s is of the type %s (%llu), which is not read",
                    r->src->path, name, *type != NULL ? (*type)->name : "unknown",
                    (unsigned long long)id);
    return ST_OK;
}

/* Adds a tensor, whose offset is still that from the beginning of the data. */
static status add_tensor(const struct tensor_source *src, const struct header *h, const char *name,
                         int ndim, const int64_t *dim, const struct ggml_type *type,
                         uint64_t offset, struct tensor_list *list)
{
    const int64_t inner = ndim > 0 ? dim[ndim - 1] : 1;
    struct file_tensor *t;
    int64_t count = 0, other = 1;
    uint64_t bytes = 0;

    TRY(tensor_extent(src, name, DT_F64, ndim, dim, &count, &bytes)); // no type takes more bytes
    if (inner % type->values != 0)
        return fail(ST_FORMAT, "%s: tensor %.80s is %s with rows of %lld values, no multiple of %d",
                    src->path, name, type->name, (long long)inner, type->values);
    TRY(tensor_list_add(list, src, name, type->dtype == DT_NONE ? DT_F32 : type->dtype, ndim, dim,
                        NULL, offset));
    t = &list->tensors[list->count - 1];
    t->bytes = (uint64_t)(count / type->values) * (uint64_t)type->bytes;
    t->format = type->name;
    if (type->decode != NULL) {
        t->coding = calloc(1, sizeof(*t->coding));
        if (t->coding == NULL)
            return fail(ST_MEMORY, "%s: no memory for its %d tensors", src->path, list->count);
        t->coding->form.block = type;
        t->coding->scale_file = -1;
    }
    for (int i = 0; i < h->count; i++) {
        const struct original_shape *s = &h->shapes[i];

        other = 1;
        for (int k = 0; k < s->ndim; k++)
            other = s->dim[k] < 0 || __builtin_mul_overflow(other, s->dim[k], &other) ? -1 : other;
        if (strcmp(s->name, name) == 0 && other == count)
            t->shape = tensor_dims(NULL, t->shape.dtype, s->ndim, s->dim);
    }
    return ST_OK;
}

/* Tensors [from, count) of the list are this file's; the data begins at `data`. */
static status place_tensors(const struct tensor_source *src, struct tensor_list *list, int from,
                            uint64_t data)
{
    for (int i = from; i < list->count; i++) {
        struct file_tensor *t = &list->tensors[i];

        if (data > src->size || t->offset > src->size - data ||
            t->bytes > src->size - data - t->offset)
            return fail(ST_FORMAT,
                        "%s: tensor %.80s has %llu bytes at %llu, the file ends at %llu; was it "
                        "truncated?",
                        src->path, t->name, (unsigned long long)t->bytes,
                        (unsigned long long)t->offset, (unsigned long long)src->size);
        t->offset += data;
    }
    return ST_OK;
}

status gguf_list(const struct tensor_source *src, struct tensor_list *list)
{
    const int from = list->count;
    struct reader r = { .src = src };
    struct header h = { .alignment = ALIGNMENT_DEFAULT };
    char name[NAME_BYTES];
    status st = ST_OK;

    TRY_OUT(take_header(&r, &h));
    for (uint64_t i = 0; i < h.pairs; i++) {
        struct pair p;

        TRY_OUT(next_pair(&r, &p));
        TRY_OUT(read_pair(src, &h, &p));
    }
    for (uint64_t i = 0; i < h.tensors; i++) {
        const struct ggml_type *type = NULL;
        int64_t dim[TENSOR_AXES];
        uint64_t offset = 0;
        int ndim = 0;

        TRY_OUT(take_tensor(&r, name, &ndim, dim, &type, &offset));
        TRY_OUT(add_tensor(src, &h, name, ndim, dim, type, offset, list));
    }
    TRY_OUT(place_tensors(src, list, from, (r.at + h.alignment - 1) / h.alignment * h.alignment));
out:
    free(h.shapes);
    return st;
}

status gguf_value(const struct tensor_source *src, const char *key, struct file_value *v)
{
    struct reader r = { .src = src };
    struct header h = { 0 };

    *v = (struct file_value){ .type = VALUE_NONE };
    TRY(take_header(&r, &h));
    for (uint64_t i = 0; i < h.pairs; i++) {
        struct pair p;
        uint8_t *bytes;
        status st;

        TRY(next_pair(&r, &p));
        if (strcmp(p.key, key) != 0)
            continue;
        if (p.bytes > VALUE_BYTES_MAX)
            return fail(ST_FORMAT, "%s: %s in its header has %llu bytes; at most %llu are read",
                        src->path, key, (unsigned long long)p.bytes,
                        (unsigned long long)VALUE_BYTES_MAX);
        bytes = malloc((size_t)p.bytes + 1);
        if (bytes == NULL)
            return fail(ST_MEMORY, "%s: no memory for %s in its header", src->path, key);
        st = read_exactly(src, bytes, (size_t)p.bytes, p.at);
        if (st != ST_OK) {
            free(bytes);
            return st;
        }
        bytes[p.bytes] = 0;
        *v = p.v;
        v->bytes = bytes;
        v->size = (size_t)p.bytes;
        return ST_OK;
    }
    return ST_OK;
}
