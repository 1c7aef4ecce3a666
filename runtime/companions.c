/* Quantized weights of .safetensors and .pth files: the tensors beside a weight that its values
 * depend on. A layer X has X.weight (also X.int8_weight, X.weight._data) and its scales; ComfyUI
 * adds a note for the layer, X.comfy_quant, or notes for all layers in the file's header, and
 * markers for the whole file. */
#include "runtime/tensorfile_internal.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYER_BYTES 1100

/* ---- formats that are known by name ---- */

/* Parts of tensor names that only files of such a format have. */
static const struct {
    const char *text, *what;
} refused[] = {
    { ".bitsandbytes__", "in 4 bits of bitsandbytes" },
    { ".quant_map", "in 4 bits of bitsandbytes" },
    { ".SCB", "in int8 of bitsandbytes" },
    { "_weight_qdata", "quantized by torchao" },
    { ".weight:qdata", "quantized by torchao" },
    { ".weight_quantizer.", "quantized by NVIDIA's ModelOpt" },
    { ".weight._data._data", "in 4 or 2 bits of quanto" },
    { ".weight._shift", "in 4 or 2 bits of quanto" },
    { ".qweight", "quantized (SVDQuant, AWQ or GPTQ)" },
    { ".wscales", "quantized by SVDQuant" },
    { ".pre_quant_scale", "in nvfp4 with scales for its input" },
};

static status refuse_formats(const struct tensor_list *list, const struct tensor_source *sources)
{
    for (int i = 0; i < list->count; i++)
        for (size_t k = 0; k < COUNT(refused); k++)
            if (strstr(list->tensors[i].name, refused[k].text) != NULL)
                return fail(ST_FORMAT, "%s: is %s, which this version does not read (tensor %.80s)",
                            sources[list->tensors[i].file].path, refused[k].what,
                            list->tensors[i].name);
    return ST_OK;
}

/* ---- what is beside a weight ---- */

enum role {
    ROLE_SCALE,
    ROLE_FACTOR,  // of all scales
    ROLE_DIVISOR, // of all scales
    ROLE_INPUT,   // factor of the input in nvfp4 of LightX2V
    ROLE_ALPHA,   // there: 1 / (factor of the input * divisor)
    ROLE_NOTE,
    ROLE_UNUSED, // of the layer's input and output, for products in 8 bits
    ROLE_COUNT
};

static const char *const weights[] = { ".weight", ".weight._data", ".int8_weight" };

static const struct {
    const char *name;
    enum role role;
    const char *of; // only beside this weight; NULL: any
} companions[] = {
    { ".scale_weight", ROLE_SCALE, NULL },
    { ".weight_scale", ROLE_SCALE, NULL },
    { ".weight._scale", ROLE_SCALE, ".weight._data" },
    { ".scale", ROLE_SCALE, ".int8_weight" },
    { ".weight_scale_2", ROLE_FACTOR, NULL },
    { ".weight_global_scale", ROLE_DIVISOR, NULL },
    { ".input_global_scale", ROLE_INPUT, NULL },
    { ".alpha", ROLE_ALPHA, NULL },
    { ".input_absmax", ROLE_UNUSED, NULL },
    { ".comfy_quant", ROLE_NOTE, NULL },
    { ".scale_input", ROLE_UNUSED, NULL },
    { ".input_scale", ROLE_UNUSED, NULL },
    { ".output_scale", ROLE_UNUSED, NULL },
};

struct layer {
    const struct tensor_source *sources;
    char name[LAYER_BYTES]; // "blocks.0.ffn.0"
    struct file_tensor *weight;
    const char *weight_name; // of `weights`
    struct file_tensor *beside[ROLE_COUNT];
};

static struct file_tensor *find(const struct tensor_list *list, const char *layer, const char *name)
{
    struct tensorfile f = { .count = list->count, .tensors = list->tensors };
    char full[LAYER_BYTES + 32];

    snprintf(full, sizeof(full), "%s%s", layer, name);
    return (struct file_tensor *)tensorfile_find(&f, full);
}

static bool ends_in(const char *name, const char *end, size_t *stem)
{
    const size_t n = strlen(name), m = strlen(end);

    *stem = n - m;
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Whether the tensor is the weight of a layer. */
static bool find_layer(struct layer *l, const struct tensor_list *list, struct file_tensor *t)
{
    size_t stem = 0;

    for (size_t i = 0; i < COUNT(weights); i++) {
        if (!ends_in(t->name, weights[i], &stem) || stem >= sizeof(l->name))
            continue;
        l->weight = t;
        l->weight_name = weights[i];
        memcpy(l->name, t->name, stem);
        l->name[stem] = '\0';
        memset(l->beside, 0, sizeof(l->beside));
        for (size_t k = 0; k < COUNT(companions); k++) {
            struct file_tensor *beside =
                companions[k].of == NULL || strcmp(companions[k].of, weights[i]) == 0
                    ? find(list, l->name, companions[k].name)
                    : NULL;

            if (beside != NULL)
                l->beside[companions[k].role] = beside;
        }
        return true;
    }
    return false;
}

/* The name in `companions` of a tensor of the layer, or its other known names. */
static bool is_known(const struct layer *l, const char *name)
{
    const char *end = name + strlen(l->name);

    if (strcmp(end, l->weight_name) == 0 || strcmp(end, ".bias") == 0)
        return true;
    for (size_t k = 0; k < COUNT(companions); k++)
        if (strcmp(end, companions[k].name) == 0)
            return true;
    return false;
}

static bool is_narrow(enum dtype dt)
{
    return dt == DT_F8_E4M3 || dt == DT_F8_E5M2 || dt == DT_I8 || dt == DT_U8;
}

static status depends(const struct layer *l, const char *name)
{
    return fail(
        ST_FORMAT, "%s: tensor %.80s is %s, and this version does not know how it depends on %.80s",
        l->sources[l->weight->file].path, l->weight->name, tensor_text(l->weight->shape), name);
}

/* Names in sorted order: those of the layer follow each other, but not its weight. */
static status check_neighbours(const struct layer *l, const struct tensor_list *list)
{
    const size_t length = strlen(l->name);

    for (int step = -1; step <= 1; step += 2) {
        const struct file_tensor *t = l->weight + step, *end = list->tensors + list->count;

        for (; t >= list->tensors && t < end && strncmp(t->name, l->name, length) == 0; t += step) {
            if (t->name[length] == '.' && !is_known(l, t->name))
                return depends(l, t->name);
        }
    }
    return ST_OK;
}

/* ---- codings ---- */

static status bad_scale(const struct layer *l)
{
    const struct file_tensor *s = l->beside[ROLE_SCALE];

    return fail(ST_FORMAT, "%s: tensor %.80s is %s, which is no scale of %.80s, %s",
                l->sources[s->file].path, s->name, tensor_text(s->shape), l->weight->name,
                tensor_text(l->weight->shape));
}

static int64_t up(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* Fills the grid of the scales, for a weight of `rows` x `columns` values. */
static status set_grid(const struct layer *l, struct stored_form *c, int64_t rows, int64_t columns)
{
    const struct file_tensor *s = l->beside[ROLE_SCALE];
    const int64_t n = tensor_count(s->shape);

    if (c->scale.tiled) { // the stored scales are those of whole tiles
        c->scale.rows = 1;
        c->scale.columns = c->scale.dtype == DT_F8_E8M0 ? 32 : 16;
        c->scale.per_row = columns / c->scale.columns;
        return columns % c->scale.columns == 0 && n == up(rows, 128) * up(c->scale.per_row, 4)
                   ? ST_OK
                   : bad_scale(l);
    }
    c->scale.rows = 1;
    if (n == 1) {
        c->scale.rows = rows;
        c->scale.per_row = 1;
    } else if (strcmp(l->weight_name, ".int8_weight") == 0) {
        c->scale.rows = c->scale.columns = 128;
        c->scale.per_row = up(columns, 128) / 128;
        return s->shape.ndim == 2 && s->shape.dim[0] == up(rows, 128) / 128 &&
                       s->shape.dim[1] == c->scale.per_row
                   ? ST_OK
                   : bad_scale(l);
    } else {
        if (s->shape.ndim < 1 || s->shape.dim[0] != rows)
            return bad_scale(l);
        c->scale.per_row = n / rows;
    }
    if (c->scale.per_row == 0 || columns % c->scale.per_row != 0)
        return bad_scale(l);
    c->scale.columns = columns / c->scale.per_row;
    return ST_OK;
}

/* Reads the one F32 of a tensor beside the weight. */
static status read_number(const struct layer *l, enum role role, float *number)
{
    const struct file_tensor *t = l->beside[role];

    if (t->shape.dtype != DT_F32 || tensor_count(t->shape) != 1)
        return fail(ST_FORMAT, "%s: tensor %.80s is %s, not one F32", l->sources[t->file].path,
                    t->name, tensor_text(t->shape));
    return read_exactly(&l->sources[t->file], number, sizeof(*number), t->offset);
}

/* The factor of all scales of nvfp4. LightX2V has a divisor, or that times the factor of the input,
 * and puts the low one of two numbers first. */
static status set_factor(const struct layer *l, struct stored_form *f)
{
    float alpha = 0;

    f->nibbles = l->beside[ROLE_FACTOR] != NULL ? NIBBLES_E2M1_HIGH : NIBBLES_E2M1;
    if (l->beside[ROLE_FACTOR] != NULL)
        return read_number(l, ROLE_FACTOR, &f->scale.factor);
    f->scale.divides = l->beside[ROLE_DIVISOR] != NULL;
    if (f->scale.divides)
        return read_number(l, ROLE_DIVISOR, &f->scale.factor);
    if (l->beside[ROLE_ALPHA] == NULL || l->beside[ROLE_INPUT] == NULL)
        return fail(ST_FORMAT,
                    "%s: tensor %.80s is %s without %.80s.weight_scale_2 or .weight_global_scale, "
                    "which nvfp4 needs",
                    l->sources[l->weight->file].path, l->weight->name,
                    tensor_text(l->weight->shape), l->name);
    TRY(read_number(l, ROLE_ALPHA, &alpha));
    TRY(read_number(l, ROLE_INPUT, &f->scale.factor));
    f->scale.factor *= alpha;
    return ST_OK;
}

/* Whether a weight of U8 with powers of two as scales has `columns` values in a row. */
static bool fits_powers(const struct layer *l, int64_t columns)
{
    return columns % 32 == 0 && tensor_count(l->beside[ROLE_SCALE]->shape) ==
                                    up(l->weight->shape.dim[0], 128) * up(columns / 32, 4);
}

/* The type of the numbers of a weight of U8. LightX2V's mxfp4, mxfp6 and mxfp8 differ in nothing
 * but the number of scales. */
static status set_numbers(const struct layer *l, struct stored_form *f, bool powers)
{
    const struct file_tensor *w = l->weight;
    const int64_t bytes = w->shape.dim[1];
    const bool four = fits_powers(l, 2 * bytes), eight = fits_powers(l, bytes);
    const bool six = bytes % 3 == 0 && fits_powers(l, bytes / 3 * 4);

    if (!powers)
        return set_factor(l, f);
    if (four + six + eight > 1)
        return fail(
            ST_FORMAT,
            "%s: tensor %.80s is %s, in mxfp4, mxfp6 or mxfp8, which its scales do not tell",
            l->sources[w->file].path, w->name, tensor_text(w->shape));
    if (six)
        return fail(ST_FORMAT,
                    "%s: is in mxfp6 of LightX2V, which this version does not read (tensor %.80s)",
                    l->sources[w->file].path, w->name);
    f->nibbles = NIBBLES_E2M1;
    if (eight)
        f->dtype = DT_F8_E4M3;
    return four || eight ? ST_OK : bad_scale(l);
}

/* What only nvfp4 has beside a weight; NULL: nothing. */
static const struct file_tensor *has_factor(const struct layer *l)
{
    for (int i = ROLE_FACTOR; i <= ROLE_ALPHA; i++)
        if (l->beside[i] != NULL)
            return l->beside[i];
    return NULL;
}

/* The coding of a weight with scales. */
static status set_coding(struct layer *l, const struct layer_note *note)
{
    struct file_tensor *w = l->weight, *s = l->beside[ROLE_SCALE];
    const enum dtype dt = w->shape.dtype;
    const bool bytes = dt == DT_U8;
    const bool powers = s->shape.dtype == DT_F8_E8M0 || s->shape.dtype == DT_U8;
    struct tensor_coding *c = calloc(1, sizeof(*c));
    struct stored_form *f;
    int64_t rows, columns;

    if (c == NULL)
        return fail(ST_MEMORY, "no memory for the scales of %s", w->name);
    w->coding = c;
    if (w->shape.ndim < 1 || tensor_count(w->shape) == 0 || tensor_count(s->shape) == 0 ||
        !tensor_contiguous(w->shape) || !tensor_contiguous(s->shape) ||
        (!powers && !dtype_is_float(s->shape.dtype)) ||
        (powers && dt != DT_F8_E4M3 && dt != DT_F8_E5M2 && !bytes) ||
        (!dtype_is_float(dt) && dt != DT_I8 && !bytes) ||
        (bytes && (w->shape.ndim != 2 || (!powers && s->shape.dtype != DT_F8_E4M3))) ||
        ((!bytes || powers) && has_factor(l) != NULL) ||
        ((note->int4 || note->rotation > 0) && (dt != DT_I8 || w->shape.ndim != 2 || powers)))
        return bad_scale(l);
    w->bytes += s->bytes;
    c->scale_file = s->file;
    c->scale_offset = s->offset;
    f = &c->form;
    f->dtype = dt;
    f->rotation = note->rotation;
    f->scale.dtype = powers ? DT_F8_E8M0 : s->shape.dtype;
    f->scale.count = tensor_count(s->shape);
    f->scale.tiled = powers || bytes;
    f->scale.factor = 1;
    if (bytes)
        TRY(set_numbers(l, f, powers));
    if (note->int4) {
        f->dtype = DT_U8;
        f->nibbles = NIBBLES_INT4;
    }
    if (f->dtype == DT_U8)
        w->shape = tensor_of(NULL, DT_U8, w->shape.dim[0], 2 * w->shape.dim[1]);
    w->shape.dtype = DT_F32;
    rows = w->shape.dim[0];
    columns = tensor_count(w->shape) / rows;
    TRY(set_grid(l, f, rows, columns));
    if (f->rotation > 0 && columns % f->rotation != 0)
        return fail(ST_FORMAT,
                    "%s: tensor %.80s has rows of %lld values, no multiple of the %d "
                    "that are rotated together",
                    l->sources[w->file].path, w->name, (long long)columns, f->rotation);
    if (f->scale.tiled)
        snprintf(c->format, sizeof(c->format), "%s",
                 !powers             ? "nvfp4"
                 : f->dtype == DT_U8 ? "mxfp4"
                                     : "mxfp8");
    else
        snprintf(c->format, sizeof(c->format), "%s %s", note->int4 ? "int4" : dtype_name(dt),
                 f->rotation > 0 ? "rotated" : "scaled");
    w->format = c->format;
    return ST_OK;
}

/* Gives the layer's weight its coding. The tensors that were used get the file -1. */
static status attach(struct layer *l, const struct tensor_list *list, cJSON *const *notes)
{
    struct file_tensor *w = l->weight;
    struct layer_note note = { 0 };
    const bool narrow = is_narrow(w->shape.dtype);

    if (l->beside[ROLE_SCALE] == NULL && !narrow && l->beside[ROLE_NOTE] == NULL)
        return ST_OK;
    if (narrow)
        TRY(check_neighbours(l, list));
    if (l->beside[ROLE_NOTE] != NULL)
        TRY(note_read(&note, l->sources, w, l->beside[ROLE_NOTE]));
    else if (notes[w->file] != NULL)
        TRY(note_in_header(&note, l->sources, w, l->name, notes[w->file]));
    if (l->beside[ROLE_SCALE] != NULL)
        TRY(set_coding(l, &note));
    else if (narrow && has_factor(l) != NULL)
        return depends(l, has_factor(l)->name);
    else if (w->shape.dtype == DT_I8 || (w->shape.dtype == DT_U8 && w->shape.ndim > 1))
        return fail(ST_FORMAT, "%s: tensor %.80s is %s without scales (%.80s.weight_scale)",
                    l->sources[w->file].path, w->name, tensor_text(w->shape), l->name);
    for (int i = 0; i < ROLE_COUNT; i++)
        if (l->beside[i] != NULL)
            l->beside[i]->file = -1;
    for (size_t k = 0; k < COUNT(companions); k++) {
        struct file_tensor *t = find(list, l->name, companions[k].name);

        if (t != NULL && companions[k].role == ROLE_UNUSED)
            t->file = -1;
    }
    return ST_OK;
}

/* X.int8_weight and X.weight._data are X.weight, which is not longer. */
static void rename_weight(struct file_tensor *t)
{
    size_t stem = 0;

    for (size_t i = 1; i < COUNT(weights); i++)
        if (ends_in(t->name, weights[i], &stem))
            strcpy(t->name + stem, weights[0]);
}

/* A file in which scaled fp8 weights may be has this, without values that matter. */
static bool is_marker(const struct file_tensor *t)
{
    size_t stem;

    return ends_in(t->name, "scaled_fp8", &stem) && (stem == 0 || t->name[stem - 1] == '.');
}

bool tensorfile_is_companion(const char *name)
{
    const struct file_tensor t = { .name = (char *)name };
    size_t stem;

    for (size_t i = 0; i < COUNT(companions); i++)
        if (ends_in(name, companions[i].name, &stem))
            return true;
    for (size_t i = 1; i < COUNT(weights); i++) // these are listed as X.weight
        if (ends_in(name, weights[i], &stem))
            return true;
    return is_marker(&t);
}

status companions_attach(struct tensor_list *list, const struct tensor_source *sources)
{
    int files = 0, kept = 0;
    cJSON **notes = NULL;
    struct layer l = { .sources = sources };
    status st;

    TRY_OUT(refuse_formats(list, sources));
    for (int i = 0; i < list->count; i++)
        files = list->tensors[i].file >= files ? list->tensors[i].file + 1 : files;
    notes = calloc((size_t)files + 1, sizeof(cJSON *));
    if (notes == NULL)
        TRY_OUT(fail(ST_MEMORY, "no memory for the formats of %d files", files));
    TRY_OUT(notes_parse(notes, sources, files));
    for (int i = 0; i < list->count; i++)
        if (list->tensors[i].file >= 0 && list->tensors[i].coding == NULL &&
            find_layer(&l, list, &list->tensors[i]))
            TRY_OUT(attach(&l, list, notes));
    for (int i = 0; i < list->count; i++) {
        struct file_tensor *t = &list->tensors[i];

        if (t->file < 0 || is_marker(t)) {
            file_tensor_done(t);
            continue;
        }
        if (t->coding != NULL && t->coding->form.block == NULL)
            rename_weight(t);
        list->tensors[kept++] = *t;
    }
    list->count = kept;
    TRY_OUT(sort_names(list->tensors, list->count, sources));
out:
    for (int i = 0; notes != NULL && i < files; i++)
        cJSON_Delete(notes[i]);
    free(notes);
    return st;
}
