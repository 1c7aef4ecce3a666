/* The tensors of a checkpoint of random weights, scaled so that activations keep their magnitude
 * from layer to layer. */
#include "model/synth/synth_internal.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SMALL_FILES_BYTES ((uint64_t)4 << 20)

static bool ends_with(const char *name, const char *suffix)
{
    const size_t n = strlen(name), m = strlen(suffix);

    return n >= m && strcmp(name + n - m, suffix) == 0;
}

/* Sets mean and standard deviation of a tensor's values. Matrices keep the magnitude of their
 * input; weights of norms are near 1; biases and modulations are small. */
static void distribution(const struct synth_part *p, struct synth_tensor *t)
{
    const int64_t count = tensor_count(t->shape), rows = t->shape.dim[0];
    const char *name = t->name;

    t->mean = 0;
    if (ends_with(name, ".bias") || ends_with(name, "padding_tokens") ||
        ends_with(name, "emb_pos")) {
        t->std = 0.02f;
    } else if (ends_with(name, "modulation") || ends_with(name, "cls_embedding") ||
               ends_with(name, "pos_embedding")) {
        t->std = 1 / sqrtf((float)t->shape.dim[t->shape.ndim - 1]);
    } else if (ends_with(name, "gamma") || t->shape.ndim == 1 ||
               ends_with(name, "encoder.weights")) {
        t->mean = 1;
        t->std = 0.05f;
    } else if (ends_with(name, ".kernel")) { // a blur: its values sum to 1
        t->mean = 1 / (float)count;
        t->std = 0;
    } else if (ends_with(name, "token_embedding.weight")) {
        t->std = 1;
    } else if (ends_with(name, "pos_embedding.embedding.weight")) {
        t->std = 0.3f;
    } else {
        t->std = 1 / sqrtf((float)(count / rows));
        t->std *= p->row->std_scale != NULL ? p->row->std_scale(p->config, name) : 1;
    }
}

/* Key of a tensor's random numbers: FNV-1a of its official name, so that values do not depend on
 * the layout; for the second expert, which has the names of the first, also of its key. */
static uint64_t key_of(const struct part *row, const char *name, uint64_t seed)
{
    uint64_t hash = 0xcbf29ce484222325u;

    for (const char *k = row == &part_dit_low ? row->key : ""; *k; k++)
        hash = (hash ^ (unsigned char)*k) * 0x100000001b3u;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
    return hash + seed * 0xd1342543de82ef95u;
}

/* Whether it is a matrix that quantized files have in few bits: attention and feed forward of the
 * transformer's blocks. */
static bool is_quantized(const struct part *row, const struct synth_tensor *t)
{
    return (row == &part_dit || row == &part_dit_low) && t->shape.ndim == 2 &&
           strstr(t->name, "blocks.") != NULL;
}

/* Makes tensor i a quantized one; in fp8 a tensor with the scales of its rows follows it. */
static void quantize(struct synth_part *p, int i, const struct synth_options *o)
{
    struct synth_tensor *t = &p->tensors[i], *scale;

    if (o->blocks != NULL) {
        if (t->shape.dim[1] % o->blocks->values == 0)
            t->block = o->blocks;
        return;
    }
    scale = &p->tensors[p->count++];
    *scale = *t;
    strcat(scale->name, "_scale");
    scale->shape = tensor_of(NULL, DT_F32, t->shape.dim[0], 1);
    scale->key = t->key + 1;
    scale->mean = t->std / synth_rms_e4m3();
    scale->std = 0.1f * scale->mean;
    t->shape.dtype = DT_F8_E4M3;
}

/* Bytes of a tensor's first `count` values in its file. */
uint64_t synth_bytes(const struct synth_tensor *t, int64_t count)
{
    return t->block != NULL ? (uint64_t)(count / t->block->values * t->block->bytes)
                            : (uint64_t)count * dtype_size(t->shape.dtype);
}

/* Adds a part with its tensors, sorted by their official names. */
static status list_part(struct synth *s, const struct part *row, const void *config, enum dtype dt)
{
    struct synth_part *p = &s->parts[s->count++];
    struct tensor_list list = { 0 };
    struct inventory all = { 0 };
    status st = ST_OK;

    *p = (struct synth_part){ .row = row, .config = config };
    assert(dt == DT_F32 || dt == DT_BF16 || dt == DT_F16);
    if (s->options->diffusers && row->in_diffusers != NULL) {
        p->own = malloc(row->config_bytes);
        if (p->own == NULL)
            return fail(ST_MEMORY, "cannot allocate host memory for the config of the %s",
                        row->name);
        memcpy(p->own, config, row->config_bytes);
        row->in_diffusers(p->own);
        p->config = p->own;
    }
    row->tensors(&list, p->config, NULL);
    TRY_OUT(inventory_expand(&all, &list));
    inventory_sort(&all);
    p->tensors = calloc(2 * (size_t)all.count, sizeof(*p->tensors)); // with scales
    if (p->tensors == NULL) {
        st = fail(ST_MEMORY, "cannot allocate host memory for a list of %d tensors", all.count);
        goto out;
    }
    for (int i = 0; i < all.count; i++) {
        struct synth_tensor *t = &p->tensors[i];
        const char *official = all.entries[i].name;

        memcpy(t->name, official, sizeof(t->name));
        t->shape = tensor_dims(NULL, dt, all.entries[i].ndim, all.entries[i].dim);
        t->key = key_of(row, official, s->options->seed);
        distribution(p, t);
        if (s->options->diffusers && !row->rename(official, false, t->name, sizeof(t->name))) {
            st = fail(ST_USAGE, "diffusers has no name for the tensor %s; remove --diffusers",
                      official);
            goto out;
        }
    }
    p->count = all.count;
    for (int i = 0; i < all.count && (s->options->blocks != NULL || s->options->fp8); i++)
        if (is_quantized(row, &p->tensors[i]))
            quantize(p, i, s->options);
    for (int i = 0; i < p->count; i++)
        s->total += synth_bytes(&p->tensors[i], tensor_count(p->tensors[i].shape));
out:
    inventory_done(&all);
    tensors_done(&list);
    return st;
}

static status check_disk(const char *folder, uint64_t bytes)
{
    struct statvfs disk;
    uint64_t available;

    if (statvfs(folder, &disk) != 0)
        return fail(status_of_errno(), "%s: %s", folder, strerror(errno));
    available = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (bytes + SMALL_FILES_BYTES > available)
        return fail(ST_IO, "%s: the checkpoint needs %.2f GB, the disk has %.2f GB free", folder,
                    (double)bytes * 1e-9, (double)available * 1e-9);
    return ST_OK;
}

/* Checks that the folder does not exist or is empty: no files are overwritten. */
static status check_free(const char *dir)
{
    DIR *d = opendir(dir);
    const struct dirent *entry;
    int entries = 0;

    if (d == NULL && errno == ENOENT)
        return ST_OK;
    if (d == NULL && status_of_errno() == ST_MEMORY)
        return fail(ST_MEMORY, "%s: %s", dir, strerror(errno));
    if (d == NULL)
        return fail(ST_USAGE,
                    "%s: exists and is not a readable folder; use --out with a new folder", dir);
    while ((entry = readdir(d)) != NULL)
        entries += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(d);
    return entries == 0 ? ST_OK
                        : fail(ST_USAGE, "%s: is not empty; use --out with a new folder", dir);
}

static int remove_entry(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about;
    (void)kind;
    (void)where;
    return remove(path);
}

status checkpoint_synth(const char *dir, const struct synth_options *options,
                        void (*progress)(void *payload, uint64_t done, uint64_t total),
                        void *payload)
{
    const struct vae_config *vae = model_vae(&options->model);
    struct synth s = { .options = options, .progress = progress, .payload = payload };
    size_t length = strlen(dir);
    bool made = false;
    status st = ST_OK;

    while (length > 1 && dir[length - 1] == '/')
        length--;
    if (options->diffusers && vae != NULL && vae->res_blocks != 2)
        return fail(ST_USAGE, "--diffusers supports only VAEs of 2 blocks per level; remove "
                              "--diffusers, or write --parts dit,t5");
    TRY_OUT(check_free(dir));
    for (int i = 0; i < MODEL_PART_COUNT; i++) {
        const enum dtype dt = options->dtype[i] ? options->dtype[i] : model_parts[i]->dtype;

        if (options->model.config[i] != NULL)
            TRY_OUT(list_part(&s, model_parts[i], options->model.config[i], dt));
    }
    if (asprintf(&s.folder, "%.*s.partial-%d", (int)length, dir, (int)getpid()) < 0) {
        s.folder = NULL;
        st = fail(ST_MEMORY, "cannot allocate host memory for a file name");
        goto out;
    }
    if (mkdir(s.folder, 0777) != 0) {
        st = fail(status_of_errno(), "%s: %s", s.folder, strerror(errno));
        goto out;
    }
    made = true;
    TRY_OUT(check_disk(s.folder, s.total));
    TRY_OUT(synth_write(&s));
    if (rename(s.folder, dir) != 0) {
        st = fail(status_of_errno(), "%s: %s", dir, strerror(errno));
        goto out;
    }
    made = false;
out:
    if (made)
        nftw(s.folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    for (int i = 0; i < s.count; i++) {
        free(s.parts[i].tensors);
        free(s.parts[i].own);
    }
    free(s.folder);
    return st;
}
