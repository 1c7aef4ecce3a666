/* Checkpoints of random weights, for tests and speed runs: every tensor of the architecture, scaled
 * so that activations keep their size from layer to layer, in the folders that users have. */
#include "model/checkpoint/checkpoint.h"

#include "model/checkpoint/checkpoint_internal.h"
#include "runtime/tensorwriter.h"

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

#define ROOM_FOR_SMALL_FILES ((uint64_t)4 << 20)

struct synth {
    const struct synth_options *options;
    char *folder; // temporary, beside the final one
    struct synth_tensor *tensors[PART_COUNT];
    int count[PART_COUNT];
    void (*progress)(void *payload, uint64_t done, uint64_t total); // or NULL
    void *payload;
    uint64_t done, total; // bytes
};

static bool wanted(const struct synth *s, enum part part)
{
    return (unsigned)s->options->parts >> part & 1;
}

static bool ends(const char *name, const char *with)
{
    const size_t n = strlen(name), m = strlen(with);

    return n >= m && strcmp(name + n - m, with) == 0;
}

/* Mean and deviation of a tensor's values. Matrices keep the size of what they multiply; norms are
 * near one, biases and modulations small. */
static void distribution(const struct model_config *config, enum part part, struct synth_tensor *t)
{
    const int64_t count = tensor_count(t->shape), rows = t->shape.dim[0];
    const char *name = t->name;

    t->mean = 0;
    if (ends(name, ".bias") || ends(name, "padding_tokens") || ends(name, "emb_pos")) {
        t->std = 0.02f;
    } else if (ends(name, "gamma") || t->shape.ndim == 1 || ends(name, "encoder.weights")) {
        t->mean = 1;
        t->std = 0.05f;
    } else if (ends(name, "modulation")) {
        t->std = 1 / sqrtf((float)t->shape.dim[t->shape.ndim - 1]);
    } else if (ends(name, ".kernel")) { // a blur, which sums to one
        t->mean = 1 / (float)count;
        t->std = 0;
    } else if (ends(name, "token_embedding.weight")) {
        t->std = 1;
    } else if (ends(name, "pos_embedding.embedding.weight")) {
        t->std = 0.3f;
    } else {
        t->std = 1 / sqrtf((float)(count / rows));
        if (part == PART_T5 && ends(name, "attn.q.weight")) // T5 does not scale its logits
            t->std /= sqrtf((float)(config->t5.attn_dim / config->t5.heads));
        if (part == PART_VAE && ends(name, "decoder.head.2.weight")) // pictures stay within [-1, 1]
            t->std *= 0.5f;
    }
}

/* FNV-1a of the official name: the same values in every layout. */
static uint64_t key_of(const char *name, uint64_t seed)
{
    uint64_t hash = 0xcbf29ce484222325u;

    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
    return hash + seed * 0xd1342543de82ef95u;
}

static status list_part(struct synth *s, enum part part)
{
    const struct synth_options *o = s->options;
    const enum dtype dt = part == PART_DIT  ? o->dit_dtype
                          : part == PART_T5 ? o->t5_dtype
                                            : o->vae_dtype;
    struct spec spec = { 0 };
    status st = ST_OK;

    assert(dt == DT_F32 || dt == DT_BF16 || dt == DT_F16);
    TRY_OUT(spec_part(&spec, &o->config, part));
    s->tensors[part] = calloc((size_t)spec.count, sizeof(struct synth_tensor));
    if (s->tensors[part] == NULL) {
        st = fail(ST_MEMORY, "no memory for a list of %d tensors", spec.count);
        goto out;
    }
    s->count[part] = spec.count;
    for (int i = 0; i < spec.count; i++) {
        struct synth_tensor *t = &s->tensors[part][i];

        memcpy(t->name, spec.tensors[i].name, sizeof(t->name));
        t->shape = tensor_dims(NULL, dt, spec.tensors[i].ndim, spec.tensors[i].dim);
        t->key = key_of(t->name, o->seed);
        distribution(&o->config, part, t);
        if (o->diffusers && !name_from_official(part, spec.tensors[i].name, t->name, 120)) {
            st = fail(ST_USAGE, "diffusers has no name for %s; leave the official layout",
                      spec.tensors[i].name);
            goto out;
        }
        s->total += tensor_bytes(t->shape);
    }
out:
    spec_done(&spec);
    return st;
}

/* "folder/sub/name", malloc'ed; the folder is made. */
static status path_in(const struct synth *s, const char *sub, const char *name, char **path)
{
    char *slash;

    if (asprintf(path, "%s/%s%s%s", s->folder, sub, *sub ? "/" : "", name) < 0) {
        *path = NULL;
        return fail(ST_MEMORY, "no memory for a file's name");
    }
    for (slash = *path + strlen(s->folder); slash != NULL; slash = strchr(slash + 1, '/')) {
        int made;

        *slash = '\0';
        made = mkdir(*path, 0777);
        if (made != 0 && errno != EEXIST) {
            fail(ST_IO, "%s: %s", *path, strerror(errno));
            free(*path);
            *path = NULL;
            return ST_IO;
        }
        *slash = '/';
    }
    return ST_OK;
}

static status write_small(const struct synth *s, const char *sub, const char *name,
                          const char *text, size_t size)
{
    char *path = NULL;
    FILE *file;
    status st = ST_OK;

    TRY(path_in(s, sub, name, &path));
    file = fopen(path, "wbe");
    if (file == NULL || fwrite(text, 1, size, file) != size)
        st = fail(ST_IO, "%s: %s", path, strerror(errno));
    if (file != NULL && fclose(file) != 0 && st == ST_OK)
        st = fail(ST_IO, "%s: %s", path, strerror(errno));
    free(path);
    return st;
}

/* A run of a part's tensors, which one file holds. */
struct run {
    struct synth *s;
    const struct synth_tensor *tensors;
};

static status fill(void *payload, int index, int64_t first, int64_t count, void *dst)
{
    const struct run *r = payload;
    const struct synth_tensor *t = &r->tensors[index];

    synth_values(t, first, count, dst);
#pragma omp critical
    {
        r->s->done += (uint64_t)count * dtype_size(t->shape.dtype);
        if (r->s->progress != NULL)
            r->s->progress(r->s->payload, r->s->done, r->s->total);
    }
    return ST_OK;
}

/* Tensors [first, end) of a part into one file. */
static status write_tensors(struct synth *s, enum part part, const char *path, int first, int end,
                            bool pth)
{
    struct run r = { s, s->tensors[part] + first };
    struct tensor_entry *entries = calloc((size_t)(end - first) + 1, sizeof(*entries));
    status st;

    if (entries == NULL)
        return fail(ST_MEMORY, "no memory for a list of %d tensors", end - first);
    for (int i = 0; i < end - first; i++)
        entries[i] = (struct tensor_entry){ r.tensors[i].name, r.tensors[i].shape };
    st = pth ? tensorwriter_pth(path, entries, end - first, fill, &r)
             : tensorwriter_safetensors(path, entries, end - first, fill, &r);
    free(entries);
    return st;
}

/* Which tensors go together: index of the first of every shard, `count` behind the last. */
static int shard_starts(const struct synth *s, enum part part, int *start)
{
    int shards = 1;
    int64_t bytes = 0;

    start[0] = 0;
    for (int i = 0; i < s->count[part]; i++) {
        const int64_t size = (int64_t)tensor_bytes(s->tensors[part][i].shape);

        if (s->options->shard_bytes > 0 && bytes > 0 && bytes + size > s->options->shard_bytes) {
            start[shards++] = i;
            bytes = 0;
        }
        bytes += size;
    }
    start[shards] = s->count[part];
    return shards;
}

static void shard_name(char *name, size_t size, const char *stem, int shard, int shards)
{
    if (shards == 1)
        snprintf(name, size, "%s.safetensors", stem);
    else
        snprintf(name, size, "%s-%05d-of-%05d.safetensors", stem, shard + 1, shards);
}

static status write_index(const struct synth *s, enum part part, const char *sub, const char *stem,
                          const int *start, int shards)
{
    char *text = NULL, name[80];
    size_t size = 0;
    uint64_t bytes = 0;
    FILE *m = open_memstream(&text, &size);
    status st;

    if (m == NULL)
        return fail(ST_MEMORY, "no memory for an index");
    for (int i = 0; i < s->count[part]; i++)
        bytes += tensor_bytes(s->tensors[part][i].shape);
    fprintf(m, "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n  \"weight_map\": {",
            (unsigned long long)bytes);
    for (int shard = 0; shard < shards; shard++) {
        shard_name(name, sizeof(name), stem, shard, shards);
        for (int i = start[shard]; i < start[shard + 1]; i++)
            fprintf(m, "%s\n    \"%s\": \"%s\"", i ? "," : "", s->tensors[part][i].name, name);
    }
    fprintf(m, "\n  }\n}\n");
    if (fclose(m) != 0)
        return fail(ST_MEMORY, "no memory for an index");
    snprintf(name, sizeof(name), "%s.safetensors.index.json", stem);
    st = write_small(s, sub, name, text, size);
    free(text);
    return st;
}

static status write_safetensors(struct synth *s, enum part part, const char *sub, const char *stem)
{
    int *start = calloc((size_t)s->count[part] + 2, sizeof(*start));
    char name[80], *path = NULL;
    int shards;
    status st = ST_OK;

    if (start == NULL)
        return fail(ST_MEMORY, "no memory for a list of shards");
    shards = shard_starts(s, part, start);
    for (int i = 0; i < shards; i++) {
        shard_name(name, sizeof(name), stem, i, shards);
        TRY_OUT(path_in(s, sub, name, &path));
        TRY_OUT(write_tensors(s, part, path, start[i], start[i + 1], false));
        free(path);
        path = NULL;
    }
    if (shards > 1)
        TRY_OUT(write_index(s, part, sub, stem, start, shards));
out:
    free(path);
    free(start);
    return st;
}

static status write_pth(struct synth *s, enum part part, const char *name)
{
    char *path = NULL;
    status st;

    TRY(path_in(s, "", name, &path));
    st = write_tensors(s, part, path, 0, s->count[part], true);
    free(path);
    return st;
}

/* The official config.json, which leaves out what all releases share. */
static void official_config(FILE *m, const struct dit_config *c)
{
    static const struct {
        const char *class, *type;
    } kinds[DIT_KIND_COUNT] = {
        [DIT_T2V] = { "WanModel", "t2v" },     [DIT_I2V] = { "WanModel", "i2v" },
        [DIT_FLF2V] = { "WanModel", "flf2v" }, [DIT_VACE] = { "VaceWanModel", "vace" },
        [DIT_S2V] = { "WanModel_S2V", "s2v" }, [DIT_ANIMATE] = { "WanAnimateModel", "animate" },
    };
    const char *type = kinds[c->kind].type;

    if (c->kind == DIT_T2V && c->in_dim != c->out_dim)
        type = "i2v";
    if (c->kind == DIT_T2V && c->in_dim == 48)
        type = "ti2v";
    fprintf(m,
            "{\n  \"_class_name\": \"%s\",\n  \"_diffusers_version\": \"0.30.0\",\n"
            "  \"dim\": %lld,\n  \"eps\": %g,\n  \"ffn_dim\": %lld,\n  \"freq_dim\": %lld,\n"
            "  \"in_dim\": %lld,\n  \"model_type\": \"%s\",\n  \"num_heads\": %d,\n"
            "  \"num_layers\": %d,\n  \"out_dim\": %lld,\n  \"text_len\": %lld",
            kinds[c->kind].class, (long long)c->dim, (double)c->eps, (long long)c->ffn_dim,
            (long long)c->freq_dim, (long long)c->in_dim, type, c->heads, c->layers,
            (long long)c->out_dim, (long long)c->text_len);
    if (c->text_dim != 4096)
        fprintf(m, ",\n  \"text_dim\": %lld", (long long)c->text_dim);
    if (c->kind == DIT_VACE && c->extra_layers > 0) {
        fprintf(m, ",\n  \"vace_in_dim\": 96,\n  \"vace_layers\": [");
        for (int i = 0; i < c->extra_layers; i++)
            fprintf(m, "%s%d", i ? ", " : "", i * (c->layers / c->extra_layers));
        fprintf(m, "]");
    }
    fprintf(m, "\n}\n");
}

static void diffusers_dit_config(FILE *m, const struct dit_config *c)
{
    const bool image = c->kind == DIT_I2V || c->kind == DIT_FLF2V;

    fprintf(m,
            "{\n  \"_class_name\": \"%s\",\n  \"_diffusers_version\": \"0.33.0\",\n"
            "  \"added_kv_proj_dim\": %s,\n  \"attention_head_dim\": %lld,\n"
            "  \"cross_attn_norm\": true,\n  \"eps\": %g,\n  \"ffn_dim\": %lld,\n"
            "  \"freq_dim\": %lld,\n  \"image_dim\": %s,\n  \"in_channels\": %lld,\n"
            "  \"num_attention_heads\": %d,\n  \"num_layers\": %d,\n  \"out_channels\": %lld,\n"
            "  \"patch_size\": [1, 2, 2],\n  \"qk_norm\": \"rms_norm_across_heads\",\n"
            "  \"rope_max_seq_len\": 1024,\n  \"text_dim\": %lld",
            c->kind == DIT_VACE ? "WanVACETransformer3DModel" : "WanTransformer3DModel",
            image ? "5120" : "null", (long long)(c->dim / c->heads), (double)c->eps,
            (long long)c->ffn_dim, (long long)c->freq_dim, image ? "1280" : "null",
            (long long)c->in_dim, c->heads, c->layers, (long long)c->out_dim,
            (long long)c->text_dim);
    if (c->kind == DIT_FLF2V)
        fprintf(m, ",\n  \"pos_embed_seq_len\": 514");
    if (c->kind == DIT_VACE && c->extra_layers > 0) {
        fprintf(m, ",\n  \"vace_in_channels\": 96,\n  \"vace_layers\": [");
        for (int i = 0; i < c->extra_layers; i++)
            fprintf(m, "%s%d", i ? ", " : "", i * (c->layers / c->extra_layers));
        fprintf(m, "]");
    }
    fprintf(m, "\n}\n");
}

static void diffusers_t5_config(FILE *m, const struct t5_config *c)
{
    fprintf(m,
            "{\n  \"architectures\": [\"UMT5EncoderModel\"],\n  \"d_ff\": %lld,\n"
            "  \"d_kv\": %lld,\n  \"d_model\": %lld,\n  \"dense_act_fn\": \"gelu_new\",\n"
            "  \"feed_forward_proj\": \"gated-gelu\",\n  \"is_gated_act\": true,\n"
            "  \"layer_norm_epsilon\": 1e-06,\n  \"model_type\": \"umt5\",\n  \"num_heads\": %d,\n"
            "  \"num_layers\": %d,\n  \"relative_attention_max_distance\": 128,\n"
            "  \"relative_attention_num_buckets\": %d,\n  \"vocab_size\": %lld\n}\n",
            (long long)c->ffn_dim, (long long)(c->attn_dim / c->heads), (long long)c->dim, c->heads,
            c->layers, c->buckets, (long long)c->vocab);
}

static void diffusers_vae_config(FILE *m, const struct vae_config *c)
{
    fprintf(m,
            "{\n  \"_class_name\": \"AutoencoderKLWan\",\n  \"_diffusers_version\": \"0.33.0\",\n"
            "  \"attn_scales\": [],\n  \"base_dim\": %lld,\n  \"dim_mult\": [1, 2, 4, 4],\n"
            "  \"dropout\": 0.0,\n  \"num_res_blocks\": %d,\n"
            "  \"temperal_downsample\": [false, true, true],\n  \"z_dim\": %lld,\n"
            "  \"latents_mean\": [",
            (long long)c->base, c->res_blocks, (long long)c->z);
    for (int i = 0; i < c->z; i++)
        fprintf(m, "%s%.9g", i ? ", " : "", (double)c->mean[i]);
    fprintf(m, "],\n  \"latents_std\": [");
    for (int i = 0; i < c->z; i++)
        fprintf(m, "%s%.9g", i ? ", " : "", (double)c->std[i]);
    fprintf(m, "]\n}\n");
}

static const char model_index[] =
    "{\n  \"_class_name\": \"WanPipeline\",\n  \"_diffusers_version\": \"0.33.0\",\n"
    "  \"scheduler\": [\"diffusers\", \"UniPCMultistepScheduler\"],\n"
    "  \"text_encoder\": [\"transformers\", \"UMT5EncoderModel\"],\n"
    "  \"tokenizer\": [\"transformers\", \"T5TokenizerFast\"],\n"
    "  \"transformer\": [\"diffusers\", \"WanTransformer3DModel\"],\n"
    "  \"vae\": [\"diffusers\", \"AutoencoderKLWan\"]\n}\n";
static const char scheduler_config[] =
    "{\n  \"_class_name\": \"UniPCMultistepScheduler\",\n  \"flow_shift\": 3.0,\n"
    "  \"num_train_timesteps\": 1000,\n  \"prediction_type\": \"flow_prediction\",\n"
    "  \"solver_order\": 2,\n  \"solver_type\": \"bh2\",\n  \"use_flow_sigmas\": true\n}\n";

static status write_config(const struct synth *s, enum part part, const char *sub)
{
    const struct model_config *c = &s->options->config;
    char *text = NULL;
    size_t size = 0;
    FILE *m = open_memstream(&text, &size);
    status st;

    if (m == NULL)
        return fail(ST_MEMORY, "no memory for a config.json");
    if (!s->options->diffusers)
        official_config(m, &c->dit);
    else if (part == PART_DIT)
        diffusers_dit_config(m, &c->dit);
    else if (part == PART_T5)
        diffusers_t5_config(m, &c->t5);
    else
        diffusers_vae_config(m, &c->vae);
    if (fclose(m) != 0)
        return fail(ST_MEMORY, "no memory for a config.json");
    st = write_small(s, sub, "config.json", text, size);
    free(text);
    return st;
}

static status write_tokenizer(const struct synth *s, const char *sub)
{
    char *bytes = NULL;
    size_t size = 0;
    status st;

    TRY(synth_tokenizer(s->options->config.t5.vocab, &bytes, &size));
    st = write_small(s, sub, "spiece.model", bytes, size);
    free(bytes);
    return st;
}

static status write_official(struct synth *s)
{
    const bool wan22 = s->options->config.vae.patch != 1;

    if (wanted(s, PART_DIT)) {
        TRY(write_config(s, PART_DIT, ""));
        TRY(write_safetensors(s, PART_DIT, "", "diffusion_pytorch_model"));
    }
    if (wanted(s, PART_T5)) {
        TRY(write_tokenizer(s, "google/umt5-xxl"));
        TRY(write_pth(s, PART_T5, "models_t5_umt5-xxl-enc-bf16.pth"));
    }
    return wanted(s, PART_VAE) ? write_pth(s, PART_VAE, wan22 ? "Wan2.2_VAE.pth" : "Wan2.1_VAE.pth")
                               : ST_OK;
}

static status write_diffusers(struct synth *s)
{
    TRY(write_small(s, "", "model_index.json", model_index, strlen(model_index)));
    TRY(write_small(s, "scheduler", "scheduler_config.json", scheduler_config,
                    strlen(scheduler_config)));
    if (wanted(s, PART_DIT)) {
        TRY(write_config(s, PART_DIT, "transformer"));
        TRY(write_safetensors(s, PART_DIT, "transformer", "diffusion_pytorch_model"));
    }
    if (wanted(s, PART_T5)) {
        TRY(write_tokenizer(s, "tokenizer"));
        TRY(write_config(s, PART_T5, "text_encoder"));
        TRY(write_safetensors(s, PART_T5, "text_encoder", "model"));
    }
    if (!wanted(s, PART_VAE))
        return ST_OK;
    TRY(write_config(s, PART_VAE, "vae"));
    return write_safetensors(s, PART_VAE, "vae", "diffusion_pytorch_model");
}

static status check_disk(const char *folder, uint64_t bytes)
{
    struct statvfs disk;
    uint64_t room;

    if (statvfs(folder, &disk) != 0)
        return fail(ST_IO, "%s: %s", folder, strerror(errno));
    room = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (bytes + ROOM_FOR_SMALL_FILES > room)
        return fail(ST_IO, "%s: %.2f GB are free, the checkpoint takes %.2f", folder,
                    (double)room * 1e-9, (double)bytes * 1e-9);
    return ST_OK;
}

/* Nothing of another's is written over. */
static status check_free(const char *dir)
{
    DIR *d = opendir(dir);
    const struct dirent *entry;
    int entries = 0;

    if (d == NULL && errno == ENOENT)
        return ST_OK;
    if (d == NULL)
        return fail(ST_USAGE, "%s: is there already; name a new folder", dir);
    while ((entry = readdir(d)) != NULL)
        entries += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(d);
    return entries == 0 ? ST_OK : fail(ST_USAGE, "%s: is not empty; name a new folder", dir);
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
    struct synth s = { .options = options, .progress = progress, .payload = payload };
    size_t length = strlen(dir);
    bool made = false;
    status st = ST_OK;

    while (length > 1 && dir[length - 1] == '/')
        length--;
    if (options->diffusers &&
        (options->config.vae.patch != 1 || options->config.vae.res_blocks != 2))
        return fail(ST_USAGE, "the -Diffusers layout is written for Wan2.1's VAE only; leave the "
                              "official one");
    TRY_OUT(check_free(dir));
    for (int part = 0; part < PART_COUNT; part++) {
        if (wanted(&s, (enum part)part))
            TRY_OUT(list_part(&s, (enum part)part));
    }
    if (asprintf(&s.folder, "%.*s.partial-%d", (int)length, dir, (int)getpid()) < 0) {
        s.folder = NULL;
        st = fail(ST_MEMORY, "no memory for a file's name");
        goto out;
    }
    if (mkdir(s.folder, 0777) != 0) {
        st = fail(ST_IO, "%s: %s", s.folder, strerror(errno));
        goto out;
    }
    made = true;
    TRY_OUT(check_disk(s.folder, s.total));
    TRY_OUT(options->diffusers ? write_diffusers(&s) : write_official(&s));
    if (rename(s.folder, dir) != 0) {
        st = fail(ST_IO, "%s: %s", dir, strerror(errno));
        goto out;
    }
    made = false;
out:
    if (made)
        nftw(s.folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    for (int part = 0; part < PART_COUNT; part++)
        free(s.tensors[part]);
    free(s.folder);
    return st;
}
