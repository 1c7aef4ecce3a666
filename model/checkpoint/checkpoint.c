#include "model/checkpoint/checkpoint.h"

#include "model/checkpoint/checkpoint_internal.h"
#include "model/checkpoint/quantize.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A longer path than PATH_MAX names nothing. */
bool path_has_file(const char *folder, const char *name)
{
    char path[PATH_MAX];

    return snprintf(path, sizeof(path), "%s/%s", folder, name) < PATH_MAX && path_is_file(path);
}

static bool has_folder(const char *folder, const char *name)
{
    char path[PATH_MAX];

    return snprintf(path, sizeof(path), "%s/%s", folder, name) < PATH_MAX && path_is_folder(path);
}

/* *found: whether the folder has a file whose name starts like those of an official checkpoint. */
static status look_for_official(const char *folder, bool *found)
{
    static const char *const starts[] = { "diffusion_pytorch_model", "models_t5", "Wan2.1_VAE",
                                          "Wan2.2_VAE" };
    DIR *dir = opendir(folder);
    const struct dirent *entry;

    *found = false;
    if (dir == NULL)
        return fail(status_of_errno(), "%s: %s", folder, strerror(errno));
    while (!*found && (entry = readdir(dir)) != NULL) {
        for (size_t i = 0; i < COUNT(starts); i++)
            *found = *found || strncmp(entry->d_name, starts[i], strlen(starts[i])) == 0;
    }
    closedir(dir);
    return ST_OK;
}

/* Replaces a folder of Hugging Face's cache by that of its snapshot. */
static status enter_snapshot(struct checkpoint *c)
{
    char *snapshot = NULL;

    TRY(hub_snapshot(c->path, &snapshot));
    if (snapshot == NULL)
        return ST_OK;
    free(c->path);
    c->path = snapshot;
    return ST_OK;
}

static status find_layout(struct checkpoint *c, const struct part *const *parts)
{
    bool official, weights;

    TRY(look_for_official(c->path, &official));
    TRY(search_has_weights(c, parts, &weights));
    if (path_has_file(c->path, "model_index.json") || has_folder(c->path, "transformer"))
        c->layout = LAYOUT_DIFFUSERS;
    else if (official || path_has_file(c->path, "config.json") ||
             has_folder(c->path, "high_noise_model"))
        c->layout = LAYOUT_OFFICIAL;
    else if (weights)
        c->layout = LAYOUT_FOLDERS;
    else
        return fail(ST_FORMAT,
                    "%s: is not a checkpoint: it has neither config.json or "
                    "diffusion_pytorch_model*.safetensors, as an official folder has, nor "
                    "model_index.json or transformer/, as a -Diffusers folder has, nor weight "
                    "files, also not in diffusion_models/ as ComfyUI has",
                    c->path);
    return ST_OK;
}

/* Allocates an entry for every part of the table, and finds the tokenizer's file. */
static status open_parts(struct checkpoint *c, const struct part *const *parts)
{
    int count = 0;

    while (parts[count] != NULL)
        count++;
    c->parts = calloc((size_t)count, sizeof(*c->parts));
    if (c->parts == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for %d parts of a checkpoint", count);
    c->count = count;
    for (int i = 0; i < c->count; i++)
        c->parts[i] = (struct checkpoint_part){ .row = parts[i] };
    return tokenizer_find(c, c->folder);
}

status checkpoint_open(struct checkpoint *c, const char *path, const struct part *const *parts)
{
    struct stat about;
    size_t length = strlen(path);
    status st = ST_OK;

    *c = (struct checkpoint){ 0 };
    while (length > 1 && path[length - 1] == '/')
        length--;
    c->path = strndup(path, length);
    if (c->path == NULL) {
        st = fail(ST_MEMORY, "%s: cannot allocate host memory for the path", path);
        goto out;
    }
    if (stat(c->path, &about) != 0) {
        st = fail(status_of_errno(), "%s: %s", c->path, strerror(errno));
        goto out;
    }
    if (S_ISDIR(about.st_mode)) {
        TRY_OUT(enter_snapshot(c));
        TRY_OUT(find_layout(c, parts));
        c->folder = strdup(c->path);
    } else {
        const char *slash = strrchr(c->path, '/');

        c->layout = LAYOUT_FILE;
        c->folder = slash == NULL      ? strdup(".")
                    : slash == c->path ? strdup("/")
                                       : strndup(c->path, (size_t)(slash - c->path));
    }
    if (c->folder == NULL) {
        st = fail(ST_MEMORY, "%s: cannot allocate host memory for the path", path);
        goto out;
    }
    TRY_OUT(open_parts(c, parts));
out:
    if (st != ST_OK)
        checkpoint_close(c);
    return st;
}

void checkpoint_close(struct checkpoint *c)
{
    for (int i = 0; i < c->count; i++) {
        tensorfile_close(&c->parts[i].file);
        free(c->parts[i].config);
        free(c->parts[i].given);
    }
    free(c->parts);
    free(c->path);
    free(c->folder);
    free(c->tokenizer);
    *c = (struct checkpoint){ 0 };
}

static void part_close(struct checkpoint_part *p)
{
    tensorfile_close(&p->file);
    free(p->config);
    p->config = NULL;
}

struct checkpoint_part *part_of(const struct checkpoint *c, const struct part *part)
{
    for (int i = 0; i < c->count; i++)
        if (c->parts[i].row == part)
            return &c->parts[i];
    assert(!"a part of the checkpoint's table");
    return NULL;
}

status checkpoint_use(struct checkpoint *c, const struct part *part, const char *path)
{
    struct checkpoint_part *p = part_of(c, part);

    assert(p->file.count == 0 && p->given == NULL);
    p->given = strdup(path);
    return p->given != NULL ? ST_OK
                            : fail(ST_MEMORY, "%s: cannot allocate host memory for the path", path);
}

status part_open(struct checkpoint *c, struct checkpoint_part *p)
{
    struct path_list files = { 0 };
    status st = ST_OK;

    TRY_OUT(layout_files(c, p->row, &files, &p->place));
    TRY_OUT(tensorfile_open(&p->file, (const char *const *)files.path, files.count));
    if (p->file.count == 0) {
        st = fail(ST_FORMAT, "%s: has no tensors", files.path[0]);
        goto out;
    }
    TRY_OUT(layout_check_index(p)); // before the tensors are renamed
    TRY_OUT(refuse_kind(&p->file));
    TRY_OUT(names_unwrap(&p->file));
    TRY_OUT(refuse_part(c, p));
    names_keep_part(&p->file, p->row, c);
    TRY_OUT(names_make_official(&p->file, p->row, &p->naming));
    p->config = calloc(1, p->row->config_bytes);
    if (p->config == NULL) {
        st = fail(ST_MEMORY, "cannot allocate host memory for the config of the %s", p->row->name);
        goto out;
    }
    TRY_OUT(describe_part(c, p));
out:
    if (st != ST_OK)
        part_close(p);
    path_list_done(&files);
    return st;
}

/* Whether an unknown tensor is accepted: it is listed in the part's `ignored`. */
static bool is_ignored(const struct checkpoint_part *p, const struct file_tensor *t)
{
    const char *const *names = p->row->ignored;

    for (; names != NULL && *names != NULL; names++) {
        const size_t length = strlen(*names);

        if ((*names)[length - 1] == '.' ? strncmp(t->name, *names, length) == 0
                                        : strcmp(t->name, *names) == 0)
            return true;
    }
    return false;
}

static struct tensor entry_shape(const struct inventory_entry *s)
{
    return tensor_dims(NULL, DT_F32, s->ndim, s->dim);
}

static bool same_shape(const struct inventory_entry *s, struct tensor t)
{
    if (s->ndim != t.ndim)
        return false;
    for (int i = 0; i < t.ndim; i++) {
        if (s->dim[i] != t.dim[i])
            return false;
    }
    return true;
}

/* The number of differences of one kind, and the first three names. */
struct difference {
    int count;
    char names[200];
};

static void add_difference(struct difference *d, FILE *full, const char *what, const char *name,
                           const char *shape)
{
    const size_t used = strlen(d->names);

    if (d->count++ < 3)
        snprintf(d->names + used, sizeof(d->names) - used, "%s%.60s", used ? ", " : "", name);
    if (full != NULL)
        fprintf(full, "  %-8s %s%s%s\n", what, name, *shape ? " " : "", shape);
}

status compare_part(const struct checkpoint *c, const struct checkpoint_part *p, FILE *full)
{
    const struct tensorfile *f = &p->file;
    const char *path = f->files == 1 ? tensorfile_path(f, 0) : c->folder;
    struct difference missing = { 0 }, unknown = { 0 }, wrong = { 0 };
    char first_wrong[300] = "";
    const char *model = NULL; // whose tensors the unknown ones are
    struct tensor_list list = { 0 };
    struct inventory spec = { 0 };
    status st = ST_OK;
    int i = 0, k = 0;

    p->row->tensors(&list, p->config, f);
    TRY_OUT(inventory_expand(&spec, &list));
    inventory_sort(&spec);
    while (i < spec.count || k < f->count) {
        const struct inventory_entry *s = i < spec.count ? &spec.entries[i] : NULL;
        const struct file_tensor *t = k < f->count ? &f->tensors[k] : NULL;
        const int order = s == NULL ? 1 : t == NULL ? -1 : strcmp(s->name, t->name);

        if (order < 0) {
            add_difference(&missing, full, "missing", s->name, tensor_text(entry_shape(s)) + 4);
            i++;
        } else if (order > 0) {
            if (!is_ignored(p, t)) {
                add_difference(&unknown, full, "unknown", t->file_name, tensor_text(t->shape));
                model = model != NULL ? model : refuse_model_name(t->name);
            }
            k++;
        } else {
            if (!same_shape(s, t->shape) || !dtype_is_float(t->shape.dtype)) {
                if (wrong.count == 0)
                    snprintf(first_wrong, sizeof(first_wrong), "%.100s is %s, expected%s",
                             t->file_name, tensor_text(t->shape),
                             strchr(tensor_text(entry_shape(s)), ' '));
                add_difference(&wrong, full, "wrong", t->file_name, tensor_text(t->shape));
            }
            i++;
            k++;
        }
    }
    if (model != NULL)
        st = fail(ST_FORMAT, "%s: is %s, which this version does not run (unknown tensors: %s%s)",
                  path, model, unknown.names, unknown.count > 3 ? ", ..." : "");
    else if (wrong.count > 0)
        st = fail(ST_FORMAT, "%s: tensor %s%s", path, first_wrong,
                  wrong.count > 1 ? " (other tensors are wrong too)" : "");
    else if (missing.count > 0 && unknown.count > 0)
        st = fail(ST_FORMAT,
                  "%s: %d of the %s's tensors are missing (%s%s), and %d are unknown (%s%s)", path,
                  missing.count, p->row->name, missing.names, missing.count > 3 ? ", ..." : "",
                  unknown.count, unknown.names, unknown.count > 3 ? ", ..." : "");
    else if (missing.count > 0)
        st = fail(ST_FORMAT, "%s: %d of the %s's tensors %s missing (%s%s)", path, missing.count,
                  p->row->name, missing.count > 1 ? "are" : "is", missing.names,
                  missing.count > 3 ? ", ..." : "");
    else if (unknown.count > 0)
        st = fail(ST_FORMAT, "%s: %d tensor%s unknown (%s%s)", path, unknown.count,
                  unknown.count > 1 ? "s are" : " is", unknown.names,
                  unknown.count > 3 ? ", ..." : "");
out:
    inventory_done(&spec);
    tensors_done(&list);
    return st;
}

status checkpoint_part(struct checkpoint *c, const struct part *part)
{
    struct checkpoint_part *p = part_of(c, part);
    status st = ST_OK;

    if (p->file.count > 0)
        return ST_OK;
    TRY_OUT(part_open(c, p));
    // a model that this version cannot run is reported as such, before tensors that are missing
    if (part->check != NULL)
        TRY_OUT(part->check(p->config, tensorfile_path(&p->file, 0)));
    TRY_OUT(compare_part(c, p, NULL));
out:
    if (st != ST_OK)
        part_close(p);
    return st;
}

status checkpoint_has(bool *has, const struct checkpoint *c, const struct part *part)
{
    struct path_list files = { 0 };
    const struct place *place;
    const status st = layout_find(c, part, &files, &place);

    *has = files.count > 0;
    path_list_done(&files);
    return st;
}

const void *checkpoint_config(const struct checkpoint *c, const struct part *part)
{
    return part_of(c, part)->config;
}

struct tensorfile *checkpoint_file(struct checkpoint *c, const struct part *part)
{
    return &part_of(c, part)->file;
}

const void *part_variant(const struct part *part, const char *name)
{
    for (const struct variant *v = part->variants; v->name != NULL; v++)
        if (strcmp(v->name, name) == 0)
            return v->config;
    return NULL;
}

status inventory_of_file(struct inventory *v, const struct tensorfile *f)
{
    *v = (struct inventory){ .entries = calloc((size_t)f->count + 1, sizeof(*v->entries)) };
    if (v->entries == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory for a list of %d tensors", f->count);
    v->count = f->count;
    for (int i = 0; i < f->count; i++) {
        const struct tensor *t = &f->tensors[i].shape;

        snprintf(v->entries[i].name, sizeof(v->entries[i].name), "%s", f->tensors[i].name);
        v->entries[i].ndim = t->ndim;
        memcpy(v->entries[i].dim, t->dim, sizeof(t->dim));
    }
    return ST_OK;
}

status checkpoint_fingerprint(const struct checkpoint *c, const struct part *part, char *hex)
{
    struct inventory v = { 0 };
    status st = inventory_of_file(&v, &part_of(c, part)->file);

    if (st == ST_OK)
        st = inventory_fingerprint(&v, hex);
    inventory_done(&v);
    return st;
}

/* ---- the source of weights ---- */

/* Reads elements [first, first + count) of a [O, I, k...] tensor in the order [O, k..., I]. Both
 * orders permute elements within a row of O only, so the rows that contain the range are read. */
static status read_channels_last(struct tensorfile *f, const struct file_tensor *t, int64_t first,
                                 int64_t count, enum dtype dt, void *dst)
{
    const int64_t in = t->shape.dim[1], row = tensor_count(t->shape) / t->shape.dim[0];
    const int64_t kernel = row / in, first_row = first / row;
    const size_t size = dtype_size(dt);
    char *in_row = malloc((size_t)row * size), *to = dst;
    status st = ST_OK;

    if (in_row == NULL)
        return fail(ST_MEMORY, "cannot allocate %zu bytes of host memory for a row of %s",
                    (size_t)row * size, t->name);
    for (int64_t r = first_row; r * row < first + count; r++) {
        const int64_t begin = r * row > first ? 0 : first - r * row;
        const int64_t end = first + count - r * row < row ? first + count - r * row : row;

        TRY_OUT(tensorfile_read(f, t, r * row, row, dt, in_row));
        for (int64_t i = begin; i < end; i++, to += size)
            memcpy(to, in_row + (size_t)(i % in * kernel + i / in) * size, size);
    }
out:
    free(in_row);
    return st;
}

/* Finds the tensor `name`. ST_FORMAT if it is missing or has another shape than the spec. */
static status find_tensor(const struct tensorfile *f, const struct weight_spec *spec,
                          const char *name, const struct file_tensor **found)
{
    const struct file_tensor *t = tensorfile_find(f, name);

    if (t == NULL)
        return fail(ST_FORMAT, "%s: has no tensor %s", tensorfile_path(f, 0), name);
    if (t->shape.ndim != spec->file_ndim ||
        memcmp(t->shape.dim, spec->file_dim, (size_t)t->shape.ndim * sizeof(int64_t)) != 0)
        return fail(
            ST_FORMAT, "%s: tensor %s is %s, expected %s", tensorfile_path(f, t->file), name,
            tensor_text(t->shape),
            tensor_text(tensor_dims(NULL, t->shape.dtype, spec->file_ndim, spec->file_dim)));
    *found = t;
    return ST_OK;
}

static status source_read(void *payload, const struct weight_spec *spec, const char *name,
                          int64_t first, int64_t count, void *dst);

/* A matrix in e4m3, or the scales of one: as they are stored, where the file has them. */
static status read_fp8(struct tensorfile *f, const struct weight_spec *spec, const char *name,
                       int64_t first, int64_t count, void *dst)
{
    const struct weight_source rows = { .read = source_read, .payload = f };
    const struct file_tensor *t = NULL;
    char matrix[WEIGHT_NAME_BYTES];

    quantize_name(matrix, spec, name);
    TRY(find_tensor(f, spec, matrix, &t));
    if (!tensorfile_has_fp8(t))
        return quantize_read(&rows, spec, name, first, count, dst);
    return spec->row_scales ? tensorfile_read_fp8_scales(f, t, first, count, dst)
                            : tensorfile_read_fp8(f, t, first, count, dst);
}

static status source_read(void *payload, const struct weight_spec *spec, const char *name,
                          int64_t first, int64_t count, void *dst)
{
    struct tensorfile *f = payload;
    const struct file_tensor *t = NULL;

    if (quantize_makes(spec))
        return read_fp8(f, spec, name, first, count, dst);
    TRY(find_tensor(f, spec, name, &t));
    if (first < 0 || count < 0 || first > tensor_count(t->shape) ||
        count > tensor_count(t->shape) - first)
        return fail(ST_FORMAT, "%s: tensor %s is %s; elements %lld to %lld are not in it",
                    tensorfile_path(f, t->file), t->name, tensor_text(t->shape), (long long)first,
                    (long long)(first + count));
    if (count == 0)
        return ST_OK;
    return spec->channels_last ? read_channels_last(f, t, first, count, spec->dtype, dst)
                               : tensorfile_read(f, t, first, count, spec->dtype, dst);
}

static void source_prefetch(void *payload, const char *name, int64_t first, int64_t count)
{
    struct tensorfile *f = payload;
    const struct file_tensor *t = tensorfile_find(f, name);

    if (t != NULL && first >= 0 && count >= 0 && first <= tensor_count(t->shape) - count)
        tensorfile_prefetch(f, t, first, count);
}

static bool source_form(void *payload, const struct weight_spec *spec, const char *name,
                        struct weight_form *form)
{
    const struct file_tensor *t = tensorfile_find(payload, name);

    return t != NULL && t->shape.ndim == spec->file_ndim &&
           memcmp(t->shape.dim, spec->file_dim, (size_t)t->shape.ndim * sizeof(int64_t)) == 0 &&
           tensorfile_form(t, &form->stored);
}

static status source_read_form(void *payload, const struct weight_spec *spec, const char *name,
                               size_t first, size_t count, void *dst)
{
    struct tensorfile *f = payload;
    const struct file_tensor *t = NULL;

    TRY(find_tensor(f, spec, name, &t));
    return tensorfile_read_stored(f, t, first, count, dst);
}

struct weight_source part_source(struct checkpoint_part *p)
{
    assert(p->file.count > 0);
    return (struct weight_source){ .read = source_read,
                                   .prefetch = source_prefetch,
                                   .form = source_form,
                                   .read_form = source_read_form,
                                   .payload = &p->file };
}

struct weight_source checkpoint_source(struct checkpoint *c, const struct part *part)
{
    struct checkpoint_part *p = part_of(c, part);

    return p->adapted.read != NULL ? p->adapted : part_source(p);
}

void checkpoint_adapt(struct checkpoint *c, const struct part *part, struct weight_source adapted)
{
    part_of(c, part)->adapted = adapted;
}

uint64_t checkpoint_bytes(struct checkpoint *c, const struct part *part, int ranks)
{
    const struct checkpoint_part *p = part_of(c, part);
    struct tensor_list list = { 0 };
    uint64_t bytes = 0;

    part->tensors(&list, p->config, &p->file);
    for (int s = 0; s < list.stack_count && tensors_status(&list) == ST_OK; s++) {
        const struct tensor_stack *stack = &list.stacks[s];
        uint64_t whole = 0;

        for (int i = 0; i < stack->units * stack->count; i++) {
            char name[WEIGHT_NAME_BYTES];
            const struct file_tensor *t;

            tensors_nth(&list, stack, i, name);
            t = tensorfile_find(&p->file, name);
            whole += t != NULL ? t->bytes : 0;
        }
        if (stack->keep != TENSORS_READ)
            bytes += stack->keep == TENSORS_LOCAL ? whole : whole / (uint64_t)ranks;
    }
    tensors_done(&list);
    return bytes;
}
