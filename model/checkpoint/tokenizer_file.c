/* The SentencePiece model of a checkpoint: a file of its own, or inside the text encoder's file. */
#include "model/checkpoint/checkpoint_internal.h"
#include "runtime/foreign.h"
#include "runtime/readfile.h"

#include <stdlib.h>
#include <string.h>

#define TOKENIZER_BYTES_MAX ((size_t)256 << 20) // google/umt5-xxl: 4.5 MB

/* c->tokenizer is set to the file of a folder in `base` if it exists and none is set. */
static status find_in(struct checkpoint *c, const char *base, const char *folder)
{
    char name[128];

    snprintf(name, sizeof(name), "%s%sspiece.model", folder, *folder ? "/" : "");
    if (c->tokenizer != NULL || !path_has_file(base, name))
        return ST_OK;
    if (asprintf(&c->tokenizer, "%s/%s", base, name) >= 0)
        return ST_OK;
    c->tokenizer = NULL;
    return fail(ST_MEMORY, "cannot allocate host memory for a file name");
}

status tokenizer_find(struct checkpoint *c, const char *base)
{
    for (int i = 0; i < c->count; i++)
        for (size_t k = 0; k < COUNT(c->parts[i].row->tokenizers); k++)
            if (c->parts[i].row->tokenizers[k] != NULL)
                TRY(find_in(c, base, c->parts[i].row->tokenizers[k]));
    return find_in(c, base, "");
}

/* The same, in the folder of an opened part's file. */
static status find_beside(struct checkpoint *c, const struct checkpoint_part *p)
{
    const char *path = tensorfile_path(&p->file, 0), *slash = strrchr(path, '/');
    char *folder = slash != NULL ? strndup(path, (size_t)(slash - path)) : strdup(".");
    status st = ST_OK;

    if (folder == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a path");
    st = tokenizer_find(c, folder);
    free(folder);
    return st;
}

/* The tensor of the part's file that contains the tokenizer, or NULL. */
static const struct file_tensor *tokenizer_tensor(const struct checkpoint_part *p)
{
    const struct file_tensor *t = NULL;

    if (p->row->tokenizer_tensor != NULL && p->file.count > 0)
        t = tensorfile_find(&p->file, p->row->tokenizer_tensor);
    return t != NULL && t->shape.ndim == 1 &&
                   (uint64_t)t->shape.dim[0] <= TOKENIZER_BYTES_MAX / sizeof(float)
               ? t
               : NULL;
}

/* Reads the tokenizer from a tensor of bytes; some GGUF files have them as numbers of another type.
 */
static status read_tokenizer_tensor(struct tensorfile *f, const struct file_tensor *t, char **bytes,
                                    size_t *size)
{
    const bool numbers = dtype_is_float(t->shape.dtype);
    const enum dtype dt = numbers ? DT_F32 : t->shape.dtype;
    const int64_t count = t->shape.dim[0];
    char *read;
    status st;

    if (!numbers && dtype_size(dt) != 1)
        return fail(ST_FORMAT, "%s: tensor %s is %s, not bytes", tensorfile_path(f, t->file),
                    t->file_name, tensor_text(t->shape));
    read = malloc((size_t)count * dtype_size(dt) + 1);
    if (read == NULL)
        return fail(ST_MEMORY, "%s: cannot allocate %zu bytes of host memory for the tokenizer",
                    tensorfile_path(f, t->file), (size_t)count * dtype_size(dt));
    st = tensorfile_read(f, t, 0, count, dt, read);
    for (int64_t i = 0; st == ST_OK && numbers && i < count; i++) {
        float x;

        memcpy(&x, read + 4 * i, 4);
        read[i] = (char)(uint8_t)(x >= 0 && x <= 255 ? x : 0);
    }
    *bytes = read;
    *size = (size_t)count;
    return st;
}

/* Reads the tokenizer's file; a pointer or a page in its place is named. */
static status read_tokenizer(const char *path, char **bytes, size_t *size)
{
    const char *foreign;

    TRY(readfile_bytes(path, TOKENIZER_BYTES_MAX, bytes, size));
    foreign = foreign_kind(*bytes, *size < FOREIGN_BYTES ? *size : FOREIGN_BYTES);
    return foreign == NULL ? ST_OK : fail(ST_FORMAT, "%s: is %s", path, foreign);
}

status checkpoint_tokenizer(struct checkpoint *c, char **bytes, size_t *size, const char **from)
{
    *bytes = NULL;
    *from = c->tokenizer;
    if (c->tokenizer != NULL)
        return read_tokenizer(c->tokenizer, bytes, size);
    for (int i = 0; i < c->count; i++) {
        struct checkpoint_part *p = &c->parts[i];
        const struct file_tensor *t;

        if (p->row->tokenizer == NULL)
            continue;
        TRY(checkpoint_part(c, p->row));
        TRY(find_beside(c, p));
        if (c->tokenizer != NULL) {
            *from = c->tokenizer;
            return read_tokenizer(c->tokenizer, bytes, size);
        }
        t = tokenizer_tensor(p);
        *from = tensorfile_path(&p->file, t != NULL ? t->file : 0);
        if (t != NULL)
            return read_tokenizer_tensor(&p->file, t, bytes, size);
        TRY(p->row->tokenizer(&p->file, bytes, size));
        if (*bytes != NULL)
            return ST_OK;
    }
    return fail(ST_FORMAT,
                "%s: the tokenizer is missing; put google/umt5-xxl/spiece.model (or "
                "tokenizer/spiece.model) into this folder, or pass --text FILE.h5 with embeddings",
                c->folder);
}
