/* Writes checkpoints that synth does not write.
 *
 *     make_checkpoint sparse PRESET DIR [PREFIX FROM TO]...
 *         An official folder with the transformer of a released model: all tensors with name and
 *         shape. Their values are a hole in a sparse file, which needs no disk space. In tensors
 *         whose names begin with PREFIX, axes of size FROM have the size TO.
 *     make_checkpoint comfy DIFFUSERS DIR
 *         The parts of a -Diffusers folder as ComfyUI's single files, with the tokenizer inside the
 *         text encoder's file.
 *     make_checkpoint extra FILE OUT NAME
 *         A .safetensors file with one more tensor of this name.
 *     make_checkpoint file GOLDEN NAME OUT
 *         The file that is recorded as tensor NAME of bytes.
 *     make_checkpoint plain FILE OUT
 *         The values of a file of any format, as F32 in a .safetensors file. */
#include "model/pipeline/model.h"
#include "runtime/readfile.h"
#include "runtime/tensorwriter.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *in(const char *dir, const char *name)
{
    static char path[4][600];
    static int turn;
    char *p = path[turn++ % 4];

    snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
    return p;
}

/* ---- sparse files ---- */

static status write_header(FILE *f, const struct inventory *v, uint64_t *bytes)
{
    cJSON *header = cJSON_CreateObject();
    char *text;
    uint64_t at = 0, length;

    for (int i = 0; i < v->count; i++) {
        const struct inventory_entry *e = &v->entries[i];
        const uint64_t end = at + tensor_bytes(tensor_dims(NULL, DT_BF16, e->ndim, e->dim));
        const double offsets[] = { (double)at, (double)end };
        cJSON *t = cJSON_AddObjectToObject(header, e->name), *shape;

        cJSON_AddStringToObject(t, "dtype", "BF16");
        shape = cJSON_AddArrayToObject(t, "shape");
        for (int k = 0; k < e->ndim; k++)
            cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)e->dim[k]));
        cJSON_AddItemToObject(t, "data_offsets", cJSON_CreateDoubleArray(offsets, 2));
        at = end;
    }
    text = cJSON_PrintUnformatted(header);
    cJSON_Delete(header);
    if (text == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a header");
    length = strlen(text);
    *bytes = 8 + length + at;
    if (fwrite(&length, 8, 1, f) != 1 || fwrite(text, 1, length, f) != length)
        return fail(ST_IO, "cannot write a header");
    cJSON_free(text);
    return ST_OK;
}

/* Changes sizes: `change` is PREFIX FROM TO. */
static void change_sizes(struct inventory *v, char **change)
{
    for (int i = 0; i < v->count; i++)
        for (int k = 0; k < v->entries[i].ndim; k++)
            if (strncmp(v->entries[i].name, change[0], strlen(change[0])) == 0 &&
                v->entries[i].dim[k] == atoll(change[1]))
                v->entries[i].dim[k] = atoll(change[2]);
}

static status make_sparse(const char *name, const char *dir, char **changes, int count)
{
    const struct preset *preset = preset_find(name);
    struct model m;
    struct tensor_list list = { 0 };
    struct inventory v = { 0 };
    uint64_t bytes = 0;
    FILE *f = NULL;
    status st;

    if (preset == NULL)
        return fail(ST_USAGE, "unknown preset %s", name);
    m = preset_model(preset);
    mkdir(dir, 0777);
    part_dit.tensors(&list, model_dit(&m), NULL);
    TRY_OUT(inventory_expand(&v, &list));
    inventory_sort(&v);
    for (int i = 0; i + 2 < count; i += 3)
        change_sizes(&v, changes + i);
    f = fopen(in(dir, "diffusion_pytorch_model.safetensors"), "wb");
    if (f == NULL)
        TRY_OUT(fail(ST_IO, "%s: cannot be written", dir));
    TRY_OUT(write_header(f, &v, &bytes));
    if (fflush(f) != 0 || ftruncate(fileno(f), (off_t)bytes) != 0)
        st = fail(ST_IO, "%s: %llu bytes", dir, (unsigned long long)bytes);
out:
    if (f != NULL)
        fclose(f);
    inventory_done(&v);
    tensors_done(&list);
    return st;
}

/* ---- ComfyUI's single files ---- */

struct copy {
    struct tensorfile *f;
    const char *extra; // bytes of the last tensor
    bool plain;        // as F32
};

static status copy_values(void *payload, int index, int64_t first, int64_t count, void *dst)
{
    const struct copy *c = payload;
    const struct file_tensor *t = &c->f->tensors[index];

    if (index == c->f->count) {
        memcpy(dst, c->extra + first, (size_t)count);
        return ST_OK;
    }
    return tensorfile_read(c->f, t, first, count, c->plain ? DT_F32 : t->shape.dtype, dst);
}

/* Copies a part to one file, with `prefix` before the tensor names of `from`, and adds a tensor of
 * bytes with the name `extra`, if that is not NULL. */
static status copy_part(const char *from, const char *to, const char *prefix, const char *extra,
                        const char *bytes, size_t size)
{
    struct tensorfile f = { 0 };
    struct copy c = { .f = &f, .extra = bytes };
    struct tensor_entry *entries = NULL;
    char(*names)[200] = NULL;
    status st;

    TRY_OUT(tensorfile_open(&f, &from, 1));
    entries = calloc((size_t)f.count + 1, sizeof(*entries));
    names = calloc((size_t)f.count + 1, sizeof(*names));
    if (entries == NULL || names == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for %d tensors", f.count));
    for (int i = 0; i < f.count; i++) {
        snprintf(names[i], sizeof(names[i]), "%s%.150s", prefix, f.tensors[i].name);
        entries[i] = (struct tensor_entry){ names[i], f.tensors[i].shape };
    }
    entries[f.count] = (struct tensor_entry){ extra, tensor_of(NULL, DT_U8, (int64_t)size) };
    TRY_OUT(tensorwriter_safetensors(to, entries, f.count + (extra != NULL), copy_values, &c));
out:
    free(entries);
    free(names);
    tensorfile_close(&f);
    return st;
}

static status write_plain(const char *from, const char *to)
{
    struct tensorfile f = { 0 };
    struct copy c = { .f = &f, .plain = true };
    struct tensor_entry *entries = NULL;
    status st;

    TRY_OUT(tensorfile_open(&f, &from, 1));
    entries = calloc((size_t)f.count + 1, sizeof(*entries));
    if (entries == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for %d tensors", f.count));
    for (int i = 0; i < f.count; i++)
        entries[i] = (struct tensor_entry){ f.tensors[i].name,
                                            tensor_dims(NULL, DT_F32, f.tensors[i].shape.ndim,
                                                        f.tensors[i].shape.dim) };
    TRY_OUT(tensorwriter_safetensors(to, entries, f.count, copy_values, &c));
out:
    free(entries);
    tensorfile_close(&f);
    return st;
}

static status write_recorded(const char *golden, const char *name, const char *to)
{
    const struct file_tensor *t;
    struct tensorfile f = { 0 };
    FILE *out = fopen(to, "wb");
    char *bytes = NULL;
    int64_t n;
    status st;

    TRY_OUT(tensorfile_open(&f, &golden, 1));
    t = tensorfile_find(&f, name);
    if (t == NULL || out == NULL)
        TRY_OUT(fail(ST_IO, "%s: no tensor %s, or %s cannot be written", golden, name, to));
    n = tensor_count(t->shape);
    bytes = malloc((size_t)n + 1);
    if (bytes == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for %s", name));
    TRY_OUT(tensorfile_read(&f, t, 0, n, DT_U8, bytes));
    if (fwrite(bytes, 1, (size_t)n, out) != (size_t)n)
        st = fail(ST_IO, "%s: cannot be written", to);
out:
    if (out != NULL)
        fclose(out);
    free(bytes);
    tensorfile_close(&f);
    return st;
}

static status make_comfy(const char *from, const char *dir)
{
    char *bytes = NULL;
    size_t size = 0;
    status st;

    mkdir(dir, 0777);
    mkdir(in(dir, "diffusion_models"), 0777);
    mkdir(in(dir, "text_encoders"), 0777);
    mkdir(in(dir, "vae"), 0777);
    TRY_OUT(readfile_bytes(in(from, "tokenizer/spiece.model"), (size_t)64 << 20, &bytes, &size));
    TRY_OUT(copy_part(in(from, "transformer/diffusion_pytorch_model.safetensors"),
                      in(dir, "diffusion_models/wan2.1_t2v_tiny.safetensors"),
                      "model.diffusion_model.", NULL, NULL, 0));
    TRY_OUT(copy_part(in(from, "text_encoder/model.safetensors"),
                      in(dir, "text_encoders/umt5_xxl_fp16.safetensors"), "", "spiece_model", bytes,
                      size));
    TRY_OUT(copy_part(in(from, "vae/diffusion_pytorch_model.safetensors"),
                      in(dir, "vae/wan_2.1_vae.safetensors"), "", NULL, NULL, 0));
out:
    free(bytes);
    return st;
}

int main(int argc, char **argv)
{
    status st = fail(ST_USAGE, "make_checkpoint sparse PRESET DIR [PREFIX FROM TO]..., comfy "
                               "DIFFUSERS DIR, extra FILE OUT NAME, file GOLDEN NAME OUT, or plain "
                               "FILE OUT");

    if (argc >= 4 && argc % 3 == 1 && strcmp(argv[1], "sparse") == 0)
        st = make_sparse(argv[2], argv[3], argv + 4, argc - 4);
    if (argc == 4 && strcmp(argv[1], "comfy") == 0)
        st = make_comfy(argv[2], argv[3]);
    if (argc == 5 && strcmp(argv[1], "extra") == 0)
        st = copy_part(argv[2], argv[3], "", argv[4], "extra", 5);
    if (argc == 5 && strcmp(argv[1], "file") == 0)
        st = write_recorded(argv[2], argv[3], argv[4]);
    if (argc == 4 && strcmp(argv[1], "plain") == 0)
        st = write_plain(argv[2], argv[3]);
    if (st != ST_OK)
        printf("%s\n", status_line());
    return st;
}
