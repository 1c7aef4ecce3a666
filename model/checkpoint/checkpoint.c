#include "model/checkpoint/checkpoint.h"

#include "model/checkpoint/checkpoint_internal.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char *const part_names[PART_COUNT] = {
    [PART_DIT] = "transformer",
    [PART_T5] = "text encoder",
    [PART_VAE] = "VAE",
};

/* The first of these files that is in the folder, malloc'ed, or NULL. */
static char *find_file(const char *folder, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char *path = NULL;

        if (asprintf(&path, "%s/%s", folder, names[i]) < 0)
            return NULL;
        if (path_is_file(path))
            return path;
        free(path);
    }
    return NULL;
}

static bool folder_has(const char *folder, const char *name, bool as_folder)
{
    char *path = NULL;
    bool there;

    if (asprintf(&path, "%s/%s", folder, name) < 0)
        return false;
    there = as_folder ? path_is_folder(path) : path_is_file(path);
    free(path);
    return there;
}

/* Whether the folder has a file that begins like one of an official checkpoint's. */
static bool looks_official(const char *folder)
{
    static const char *const starts[] = { "diffusion_pytorch_model", "models_t5", "Wan2.1_VAE",
                                          "Wan2.2_VAE" };
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    bool found = false;

    if (dir == NULL)
        return false;
    while (!found && (entry = readdir(dir)) != NULL) {
        for (size_t i = 0; i < COUNT(starts); i++)
            found = found || strncmp(entry->d_name, starts[i], strlen(starts[i])) == 0;
    }
    closedir(dir);
    return found;
}

static status find_layout(struct checkpoint *c)
{
    if (folder_has(c->path, "high_noise_model", true))
        return fail(ST_FORMAT,
                    "%s: is a Wan2.2 A14B folder with two experts, which this version does not "
                    "run; inspect its high_noise_model or low_noise_model",
                    c->path);
    if (folder_has(c->path, "transformer_2", true))
        return fail(ST_FORMAT,
                    "%s: has transformer_2 beside transformer, so it is a Wan2.2 A14B model of two "
                    "experts, which this version does not run",
                    c->path);
    if (folder_has(c->path, "model_index.json", false) || folder_has(c->path, "transformer", true))
        c->layout = LAYOUT_DIFFUSERS;
    else if (folder_has(c->path, "config.json", false) || looks_official(c->path))
        c->layout = LAYOUT_OFFICIAL;
    else
        return fail(ST_FORMAT,
                    "%s: is no checkpoint: neither config.json or "
                    "diffusion_pytorch_model*.safetensors of an official folder are in it, nor "
                    "model_index.json or transformer/ of a -Diffusers one",
                    c->path);
    return ST_OK;
}

status checkpoint_open(struct checkpoint *c, const char *path)
{
    static const char *const tokenizers[] = { "google/umt5-xxl/spiece.model",
                                              "tokenizer/spiece.model", "spiece.model" };
    struct stat about;
    size_t length = strlen(path);
    status st = ST_OK;

    *c = (struct checkpoint){ 0 };
    while (length > 1 && path[length - 1] == '/')
        length--;
    c->path = strndup(path, length);
    if (c->path == NULL) {
        st = fail(ST_MEMORY, "%s: no memory for its name", path);
        goto out;
    }
    if (stat(c->path, &about) != 0) {
        st = fail(ST_IO, "%s: %s", c->path, strerror(errno));
        goto out;
    }
    if (S_ISDIR(about.st_mode)) {
        TRY_OUT(find_layout(c));
        c->folder = strdup(c->path);
    } else {
        const char *slash = strrchr(c->path, '/');

        c->layout = LAYOUT_FILE;
        c->folder = slash == NULL      ? strdup(".")
                    : slash == c->path ? strdup("/")
                                       : strndup(c->path, (size_t)(slash - c->path));
    }
    if (c->folder == NULL) {
        st = fail(ST_MEMORY, "%s: no memory for its name", path);
        goto out;
    }
    c->tokenizer = find_file(c->folder, tokenizers, COUNT(tokenizers));
out:
    if (st != ST_OK)
        checkpoint_close(c);
    return st;
}

void checkpoint_close(struct checkpoint *c)
{
    for (int i = 0; i < PART_COUNT; i++)
        tensorfile_close(&c->part[i]);
    free(c->path);
    free(c->folder);
    free(c->tokenizer);
    *c = (struct checkpoint){ 0 };
}

/* Files that are something else altogether get its name, instead of a list of unknown tensors. */
static status refuse_foreign(const struct checkpoint *c, enum part part)
{
    static const struct {
        const char *piece, *what;
    } foreign[] = {
        { "lora_", "a LoRA, which is merged into a checkpoint and is none" },
        { ".lora.", "a LoRA, which is merged into a checkpoint and is none" },
        { ".scale_weight", "in fp8 with scales, which this version does not read" },
        { ".weight_scale", "quantised with scales, which this version does not read" },
        { "ref_conv.", "a Fun Control model, which this version does not run" },
        { "control_adapter.", "a Fun Camera model, which this version does not run" },
    };
    const struct tensorfile *f = &c->part[part];

    for (int i = 0; i < f->count; i++) {
        for (size_t k = 0; k < COUNT(foreign); k++) {
            if (strstr(f->tensors[i].name, foreign[k].piece) != NULL)
                return fail(ST_FORMAT, "%s: is %s (%.80s is in it)",
                            tensorfile_path(f, f->tensors[i].file), foreign[k].what,
                            f->tensors[i].name);
        }
    }
    return ST_OK;
}

status part_open(struct checkpoint *c, enum part part)
{
    struct path_list files = { 0 };
    struct tensorfile *f = &c->part[part];
    status st = ST_OK;

    TRY_OUT(layout_files(c, part, &files));
    TRY_OUT(tensorfile_open(f, (const char *const *)files.path, files.count));
    if (f->count == 0) {
        st = fail(ST_FORMAT, "%s: has no tensors", files.path[0]);
        goto out;
    }
    TRY_OUT(layout_check_index(c, part, f)); // before the names change
    TRY_OUT(names_make_official(f, part, &c->prefix[part]));
    TRY_OUT(refuse_foreign(c, part));
    TRY_OUT(describe_part(c, part));
out:
    if (st != ST_OK)
        tensorfile_close(f);
    path_list_done(&files);
    return st;
}

/* Tensors that are in files of some makers, and that nothing needs. */
static bool ignorable(const struct checkpoint *c, enum part part, const struct file_tensor *t)
{
    const char *prefix = c->prefix[part];

    if (strncmp(t->file_name, prefix, strlen(prefix)) != 0)
        return true; // another part of a file that holds several
    if (part != PART_T5)
        return false;
    return strcmp(t->name, "encoder.embed_tokens.weight") == 0 || // tied to the embedding
           strcmp(t->name, "spiece_model") == 0 || // ComfyUI keeps the tokenizer here
           strncmp(t->name, "decoder.", 8) == 0 || strcmp(t->name, "lm_head.weight") == 0;
}

static bool is_float(enum dtype dt)
{
    return dt == DT_F32 || dt == DT_BF16 || dt == DT_F16 || dt == DT_F64 || dt == DT_F8_E4M3 ||
           dt == DT_F8_E5M2;
}

static struct tensor spec_shape(const struct spec_tensor *s)
{
    return tensor_dims(NULL, DT_F32, s->ndim, s->dim);
}

static bool same_shape(const struct spec_tensor *s, struct tensor t)
{
    if (s->ndim != t.ndim)
        return false;
    for (int i = 0; i < t.ndim; i++) {
        if (s->dim[i] != t.dim[i])
            return false;
    }
    return true;
}

/* Counts of one kind of difference, and the first few names. */
struct difference {
    int count;
    char names[200];
};

static void note(struct difference *d, FILE *full, const char *what, const char *name,
                 const char *shape)
{
    const size_t used = strlen(d->names);

    if (d->count++ < 3)
        snprintf(d->names + used, sizeof(d->names) - used, "%s%.60s", used ? ", " : "", name);
    if (full != NULL)
        fprintf(full, "  %-8s %s%s%s\n", what, name, *shape ? " " : "", shape);
}

status compare_part(const struct checkpoint *c, enum part part, FILE *full)
{
    const struct tensorfile *f = &c->part[part];
    const char *path = f->files == 1 ? tensorfile_path(f, 0) : c->folder;
    struct difference missing = { 0 }, unknown = { 0 }, wrong = { 0 };
    char first_wrong[300] = "";
    struct spec spec = { 0 };
    status st = ST_OK;
    int i = 0, k = 0;

    if (part == PART_VAE) // one half alone is a useful file
        TRY_OUT(spec_vae(&spec, &c->config.vae, tensorfile_find(f, "encoder.conv1.weight") != NULL,
                         tensorfile_find(f, "decoder.conv1.weight") != NULL));
    else
        TRY_OUT(spec_part(&spec, &c->config, part));
    spec_sort(&spec);
    while (i < spec.count || k < f->count) {
        const struct spec_tensor *s = i < spec.count ? &spec.tensors[i] : NULL;
        const struct file_tensor *t = k < f->count ? &f->tensors[k] : NULL;
        const int order = s == NULL ? 1 : t == NULL ? -1 : strcmp(s->name, t->name);

        if (order < 0) {
            note(&missing, full, "missing", s->name, tensor_text(spec_shape(s)) + 4);
            i++;
        } else if (order > 0) {
            if (!ignorable(c, part, t))
                note(&unknown, full, "unknown", t->file_name, tensor_text(t->shape));
            k++;
        } else {
            if (!same_shape(s, t->shape) || !is_float(t->shape.dtype)) {
                if (wrong.count == 0)
                    snprintf(first_wrong, sizeof(first_wrong), "%.100s is %s, it should be%s",
                             t->file_name, tensor_text(t->shape),
                             strchr(tensor_text(spec_shape(s)), ' '));
                note(&wrong, full, "wrong", t->file_name, tensor_text(t->shape));
            }
            i++;
            k++;
        }
    }
    if (wrong.count > 0)
        st = fail(ST_FORMAT, "%s: tensor %s%s", path, first_wrong,
                  wrong.count > 1 ? " (and others are wrong)" : "");
    else if (missing.count > 0 && unknown.count > 0)
        st = fail(ST_FORMAT,
                  "%s: %d of the %s's tensors are missing (%s%s), and %d are unknown (%s%s)", path,
                  missing.count, part_names[part], missing.names, missing.count > 3 ? ", ..." : "",
                  unknown.count, unknown.names, unknown.count > 3 ? ", ..." : "");
    else if (missing.count > 0)
        st = fail(ST_FORMAT, "%s: %d of the %s's tensors %s missing (%s%s)", path, missing.count,
                  part_names[part], missing.count > 1 ? "are" : "is", missing.names,
                  missing.count > 3 ? ", ..." : "");
    else if (unknown.count > 0)
        st = fail(ST_FORMAT, "%s: %d tensors are unknown (%s%s)", path, unknown.count,
                  unknown.names, unknown.count > 3 ? ", ..." : "");
out:
    spec_done(&spec);
    return st;
}

/* Whole and sound, but for a task that this version does not do. */
static status check_usable(const struct checkpoint *c, enum part part)
{
    static const char *const witness[DIT_KIND_COUNT] = {
        [DIT_I2V] = "img_emb.proj.1.weight",
        [DIT_FLF2V] = "img_emb.emb_pos",
        [DIT_VACE] = "vace_patch_embedding.weight",
        [DIT_S2V] = "casual_audio_encoder.weights",
        [DIT_ANIMATE] = "motion_encoder.dec.direction.weight",
    };
    const struct dit_config *dit = &c->config.dit;
    const char *path = tensorfile_path(&c->part[part], 0);

    if (part == PART_DIT && dit->kind != DIT_T2V)
        return fail(ST_FORMAT,
                    "%s: is a checkpoint of Wan's %s (%s is in it); this version does text to "
                    "video only",
                    path, dit_kind_name(dit->kind), witness[dit->kind]);
    if (part == PART_DIT && dit->in_dim != dit->out_dim)
        return fail(ST_FORMAT,
                    "%s: takes %lld channels and gives %lld, as Wan2.2's I2V does; this version "
                    "does text to video only",
                    path, (long long)dit->in_dim, (long long)dit->out_dim);
    if (part == PART_VAE && c->config.vae.patch != 1)
        return fail(ST_FORMAT,
                    "%s: is Wan2.2's VAE of %lld latent channels, for TI2V-5B, which this version "
                    "does not run",
                    path, (long long)c->config.vae.z);
    return ST_OK;
}

status checkpoint_part(struct checkpoint *c, enum part part)
{
    status st = ST_OK;

    if (c->part[part].count > 0)
        return ST_OK;
    TRY_OUT(part_open(c, part));
    // what it is comes before what it lacks: an I2V file with a cut index is an I2V file
    TRY_OUT(check_usable(c, part));
    TRY_OUT(compare_part(c, part, NULL));
out:
    if (st != ST_OK)
        tensorfile_close(&c->part[part]);
    return st;
}

/* Rows of a [O, I, k...] tensor in the order [O, k..., I]. A range of one order lies within the
 * same rows of the other, so only those are read. */
static status read_channels_last(struct tensorfile *f, const struct file_tensor *t, int64_t first,
                                 int64_t count, enum dtype dt, void *dst)
{
    const int64_t in = t->shape.dim[1], row = tensor_count(t->shape) / t->shape.dim[0];
    const int64_t places = row / in, first_row = first / row;
    const size_t size = dtype_size(dt);
    char *whole = malloc((size_t)row * size), *to = dst;
    status st = ST_OK;

    if (whole == NULL)
        return fail(ST_MEMORY, "no memory for a row of %s", t->name);
    for (int64_t r = first_row; r * row < first + count; r++) {
        const int64_t from = r * row > first ? 0 : first - r * row;
        const int64_t till = first + count - r * row < row ? first + count - r * row : row;

        TRY_OUT(tensorfile_read(f, t, r * row, row, dt, whole));
        for (int64_t i = from; i < till; i++, to += size)
            memcpy(to, whole + (size_t)(i % in * places + i / in) * size, size);
    }
out:
    free(whole);
    return st;
}

/* The tensor behind a name with or without a mark. */
static status find_marked(const struct tensorfile *f, const char *name, bool *permuted,
                          const struct file_tensor **found)
{
    const bool conv = strncmp(name, "conv:", 5) == 0, patch = strncmp(name, "patch:", 6) == 0;
    const char *bare = name + (conv ? 5 : patch ? 6 : 0);
    const struct file_tensor *t = tensorfile_find(f, bare);

    if (t == NULL)
        return fail(ST_FORMAT, "%s: has no tensor %s", tensorfile_path(f, 0), bare);
    if ((conv && t->shape.ndim != 4 && t->shape.ndim != 5) ||
        (patch && (t->shape.ndim != 5 || t->shape.dim[2] != 1)))
        return fail(ST_FORMAT, "%s: tensor %s is %s, no convolution's", tensorfile_path(f, t->file),
                    bare, tensor_text(t->shape));
    *permuted = conv || patch;
    *found = t;
    return ST_OK;
}

static status source_read(void *payload, const char *name, int64_t first, int64_t count,
                          enum dtype dt, void *dst)
{
    struct tensorfile *f = payload;
    const struct file_tensor *t = NULL;
    bool permuted = false;

    TRY(find_marked(f, name, &permuted, &t));
    if (first < 0 || count < 0 || first > tensor_count(t->shape) ||
        count > tensor_count(t->shape) - first)
        return fail(ST_FORMAT, "%s: tensor %s is %s; elements %lld to %lld are not in it",
                    tensorfile_path(f, t->file), t->name, tensor_text(t->shape), (long long)first,
                    (long long)(first + count));
    if (count == 0)
        return ST_OK;
    return permuted ? read_channels_last(f, t, first, count, dt, dst)
                    : tensorfile_read(f, t, first, count, dt, dst);
}

static void source_want(void *payload, const char *name, int64_t first, int64_t count)
{
    struct tensorfile *f = payload;
    const struct file_tensor *t = tensorfile_find(f, name);

    if (t != NULL && first >= 0 && count >= 0 && first <= tensor_count(t->shape) - count)
        tensorfile_want(f, t, first, count);
}

struct weight_source checkpoint_source(struct checkpoint *c, enum part part)
{
    assert(c->part[part].count > 0);
    return (struct weight_source){ source_read, source_want, &c->part[part] };
}
