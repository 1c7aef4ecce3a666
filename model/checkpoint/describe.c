/* A part's numbers, from its tensors' shapes; config.json adds what shapes do not tell (heads, eps)
 * and must agree on the rest. */
#include "model/checkpoint/checkpoint_internal.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_BYTES_MAX ((size_t)1 << 20)
#define SIZE_MAX_SANE ((int64_t)1 << 20) // more than any width or vocabulary
#define HEAD_DIM 128                     // of every released transformer

struct describing {
    const struct tensorfile *f;
    const char *file;   // the first of its files, for error lines
    const char *config; // the path of config.json, or NULL
    const cJSON *json;  // its contents, or NULL
};

/* Size of one axis of a tensor that must be there with `ndim` axes. */
static status axis_of(const struct describing *d, const char *name, int ndim, int axis,
                      int64_t *size)
{
    const struct file_tensor *t = tensorfile_find(d->f, name);

    if (t == NULL)
        return fail(ST_FORMAT, "%s: has no tensor %s", d->file, name);
    if (t->shape.ndim != ndim)
        return fail(ST_FORMAT, "%s: tensor %s is %s; %d axes are wanted", d->file, name,
                    tensor_text(t->shape), ndim);
    if (t->shape.dim[axis] < 1 || t->shape.dim[axis] > SIZE_MAX_SANE)
        return fail(ST_FORMAT, "%s: tensor %s is %s; no size may be 0 or beyond %lld", d->file,
                    name, tensor_text(t->shape), (long long)SIZE_MAX_SANE);
    *size = t->shape.dim[axis];
    return ST_OK;
}

/* One more than the largest N of the names that begin with "list.N."; 0 when there is none. */
static status count_of(const struct describing *d, const char *list, int *count)
{
    const size_t length = strlen(list);
    long most = 0;

    for (int i = 0; i < d->f->count; i++) {
        const char *name = d->f->tensors[i].name;
        char *end;
        long n;

        if (strncmp(name, list, length) != 0 || name[length] < '0' || name[length] > '9')
            continue;
        n = strtol(name + length, &end, 10);
        if (*end != '.')
            continue;
        if (n >= d->f->count)
            return fail(ST_FORMAT, "%s: has tensor %.100s, but only %d tensors in all", d->file,
                        name, d->f->count);
        most = n + 1 > most ? n + 1 : most;
    }
    *count = (int)most;
    return ST_OK;
}

static status json_number(const struct describing *d, const char *key, double *value, bool *there)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(d->json, key);

    *there = item != NULL && !cJSON_IsNull(item);
    if (!*there)
        return ST_OK;
    if (!cJSON_IsNumber(item))
        return fail(ST_FORMAT, "%s: %s is no number", d->config, key);
    *value = item->valuedouble;
    return ST_OK;
}

/* config.json may leave a size out, but must not contradict the tensors. */
static status agree_on(const struct describing *d, const char *key, int64_t size,
                       const char *tensor)
{
    const struct file_tensor *t = tensorfile_find(d->f, tensor);
    double said = 0;
    bool there = false;

    TRY(json_number(d, key, &said, &there));
    if (!there || said == (double)size)
        return ST_OK;
    return fail(ST_FORMAT, "%s: %s is %.15g, but by tensor %s %s it is %lld", d->config, key, said,
                tensor, t ? tensor_text(t->shape) : "", (long long)size);
}

/* A whole number that only config.json knows. */
static status from_json(const struct describing *d, const char *key, int64_t *value)
{
    double said = 0;
    bool there = false;

    TRY(json_number(d, key, &said, &there));
    if (!there)
        return ST_OK;
    if (!(said >= 1) || said > (double)SIZE_MAX_SANE || said != (double)(int64_t)said)
        return fail(ST_FORMAT, "%s: %s is %.15g, which is no size", d->config, key, said);
    *value = (int64_t)said;
    return ST_OK;
}

static status dit_kind_of(const struct describing *d, struct dit_config *c)
{
    static const struct {
        const char *tensor;
        enum dit_kind kind;
        const char *extra; // list of its additional layers
    } kinds[] = {
        { "casual_audio_encoder.weights", DIT_S2V, "audio_injector.injector." },
        { "motion_encoder.dec.direction.weight", DIT_ANIMATE, "face_adapter.fuser_blocks." },
        { "vace_patch_embedding.weight", DIT_VACE, "vace_blocks." },
        { "img_emb.emb_pos", DIT_FLF2V, NULL },
        { "img_emb.proj.1.weight", DIT_I2V, NULL },
    };

    for (size_t i = 0; i < COUNT(kinds); i++) {
        if (tensorfile_find(d->f, kinds[i].tensor) == NULL)
            continue;
        c->kind = kinds[i].kind;
        return kinds[i].extra ? count_of(d, kinds[i].extra, &c->extra_layers) : ST_OK;
    }
    return ST_OK;
}

static status dit_heads(const struct describing *d, struct dit_config *c)
{
    int64_t heads = 0, head_dim = 0;

    TRY(from_json(d, "num_heads", &heads));
    TRY(from_json(d, "num_attention_heads", &heads));
    TRY(from_json(d, "attention_head_dim", &head_dim));
    if (heads == 0)
        heads = c->dim / (head_dim ? head_dim : HEAD_DIM);
    if (heads == 0 || c->dim % heads != 0 || c->dim / heads % 2 != 0 ||
        (head_dim != 0 && head_dim * heads != c->dim))
        return fail(ST_FORMAT, "%s: %lld heads%s do not split a width of %lld",
                    d->config ? d->config : d->file, (long long)heads,
                    head_dim ? " of the size it says" : "", (long long)c->dim);
    c->heads = (int)heads;
    return ST_OK;
}

static status describe_dit(const struct describing *d, struct dit_config *out)
{
    struct dit_config c = { .text_len = 512, .eps = 1e-6f };
    const cJSON *patch = cJSON_GetObjectItemCaseSensitive(d->json, "patch_size");
    double eps = 1e-6;
    bool there = false;
    int64_t four_out;

    TRY(axis_of(d, "patch_embedding.weight", 5, 0, &c.dim));
    TRY(axis_of(d, "patch_embedding.weight", 5, 1, &c.in_dim));
    TRY(axis_of(d, "text_embedding.0.weight", 2, 1, &c.text_dim));
    TRY(axis_of(d, "time_embedding.0.weight", 2, 1, &c.freq_dim));
    TRY(axis_of(d, "blocks.0.ffn.0.weight", 2, 0, &c.ffn_dim));
    TRY(axis_of(d, "head.head.weight", 2, 0, &four_out));
    c.out_dim = four_out / 4;
    if (four_out % 4 != 0 || c.freq_dim % 2 != 0)
        return fail(ST_FORMAT,
                    "%s: %lld outputs of the head, %lld of the time's sines; patches "
                    "have 4 places, sines come in pairs",
                    d->file, (long long)four_out, (long long)c.freq_dim);
    TRY(count_of(d, "blocks.", &c.layers));
    TRY(dit_kind_of(d, &c));
    TRY(dit_heads(d, &c));
    TRY(from_json(d, "text_len", &c.text_len));
    TRY(json_number(d, "eps", &eps, &there));
    if (!(eps > 0 && eps < 1))
        return fail(ST_FORMAT, "%s: eps is %g", d->config, eps);
    c.eps = (float)eps;

    TRY(agree_on(d, "dim", c.dim, "patch_embedding.weight"));
    TRY(agree_on(d, "in_dim", c.in_dim, "patch_embedding.weight"));
    TRY(agree_on(d, "in_channels", c.in_dim, "patch_embedding.weight"));
    TRY(agree_on(d, "out_dim", c.out_dim, "head.head.weight"));
    TRY(agree_on(d, "out_channels", c.out_dim, "head.head.weight"));
    TRY(agree_on(d, "ffn_dim", c.ffn_dim, "blocks.0.ffn.0.weight"));
    TRY(agree_on(d, "freq_dim", c.freq_dim, "time_embedding.0.weight"));
    TRY(agree_on(d, "text_dim", c.text_dim, "text_embedding.0.weight"));
    TRY(agree_on(d, "num_layers", c.layers, "blocks.N"));
    if (patch != NULL && !cJSON_IsNull(patch)) {
        static const int sides[] = { 1, 2, 2 };

        for (int i = 0; i < 3; i++) {
            const cJSON *side = cJSON_GetArrayItem(patch, i);

            if (!cJSON_IsNumber(side) || side->valuedouble != sides[i])
                return fail(ST_FORMAT, "%s: patch_size is not [1, 2, 2]", d->config);
        }
    }
    *out = c;
    return ST_OK;
}

static status describe_t5(const struct describing *d, struct t5_config *out)
{
    struct t5_config c = { 0 };
    int64_t heads = 0, buckets = 0, head_dim = 0;
    const char *bias = "blocks.0.pos_embedding.embedding.weight";

    TRY(axis_of(d, "token_embedding.weight", 2, 0, &c.vocab));
    TRY(axis_of(d, "token_embedding.weight", 2, 1, &c.dim));
    TRY(axis_of(d, "blocks.0.attn.q.weight", 2, 0, &c.attn_dim));
    TRY(axis_of(d, "blocks.0.ffn.fc1.weight", 2, 0, &c.ffn_dim));
    TRY(axis_of(d, bias, 2, 0, &buckets));
    TRY(axis_of(d, bias, 2, 1, &heads));
    TRY(count_of(d, "blocks.", &c.layers));
    c.heads = (int)heads;
    c.buckets = (int)buckets;
    if (c.attn_dim % heads != 0)
        return fail(ST_FORMAT, "%s: %lld heads do not split an attention of %lld", d->file,
                    (long long)heads, (long long)c.attn_dim);
    TRY(from_json(d, "d_kv", &head_dim));
    if (head_dim != 0 && head_dim * heads != c.attn_dim)
        return fail(ST_FORMAT, "%s: d_kv is %lld, but by tensor blocks.0.attn.q.weight it is %lld",
                    d->config, (long long)head_dim, (long long)(c.attn_dim / heads));
    TRY(agree_on(d, "vocab_size", c.vocab, "token_embedding.weight"));
    TRY(agree_on(d, "d_model", c.dim, "token_embedding.weight"));
    TRY(agree_on(d, "d_ff", c.ffn_dim, "blocks.0.ffn.fc1.weight"));
    TRY(agree_on(d, "num_heads", heads, bias));
    TRY(agree_on(d, "num_layers", c.layers, "blocks.N"));
    TRY(agree_on(d, "relative_attention_num_buckets", buckets, bias));
    *out = c;
    return ST_OK;
}

/* latents_mean or latents_std of config.json, z of them. */
static status latent_constants(const struct describing *d, const char *key, int64_t z, float *out)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(d->json, key), *number;
    int n = 0;

    if (list == NULL || cJSON_IsNull(list))
        return ST_OK;
    cJSON_ArrayForEach(number, list)
    {
        const bool deviation = strcmp(key, "latents_std") == 0;

        if (!cJSON_IsNumber(number) || n == z || (deviation && !(number->valuedouble > 0)))
            return fail(ST_FORMAT, "%s: %s is no list of %lld usable numbers", d->config, key,
                        (long long)z);
        out[n++] = (float)number->valuedouble;
    }
    if (n != z)
        return fail(ST_FORMAT, "%s: %s has %d numbers for %lld channels", d->config, key, n,
                    (long long)z);
    return ST_OK;
}

static status describe_vae(const struct describing *d, struct vae_config *out)
{
    const bool encoder = tensorfile_find(d->f, "encoder.conv1.weight") != NULL;
    const bool decoder = tensorfile_find(d->f, "decoder.conv1.weight") != NULL;
    struct vae_config c = { .patch = 1, .res_blocks = 2, .stride_t = 4 };
    int64_t colours = 0;
    int entries = 0;

    if (!encoder && !decoder)
        return fail(ST_FORMAT, "%s: has neither encoder.conv1 nor decoder.conv1, so it is no VAE",
                    d->file);
    if (encoder) {
        TRY(axis_of(d, "encoder.conv1.weight", 5, 0, &c.base));
        TRY(axis_of(d, "encoder.conv1.weight", 5, 1, &colours));
        TRY(axis_of(d, "conv1.weight", 5, 0, &c.z));
        TRY(count_of(d, "encoder.downsamples.", &entries));
        c.z /= 2;
    }
    if (decoder) {
        TRY(axis_of(d, "decoder.conv1.weight", 5, 0, &c.decoder_base));
        TRY(axis_of(d, "decoder.head.2.weight", 5, 0, &colours));
        TRY(axis_of(d, "conv2.weight", 5, 0, &c.z));
        c.decoder_base /= 4;
    }
    if (colours != 3 && colours != 12)
        return fail(ST_FORMAT, "%s: its pictures have %lld channels; 3 or 12 are known", d->file,
                    (long long)colours);
    c.patch = colours == 3 ? 1 : 2;
    c.stride = 8 * c.patch;
    if (c.patch == 1 && encoder) // four levels of res_blocks, three resamplings between
        c.res_blocks = (entries - 3) / 4;
    else if (c.patch == 1) {
        TRY(count_of(d, "decoder.upsamples.", &entries));
        c.res_blocks = (entries - 3) / 4 - 1;
    }
    c.base = encoder ? c.base : c.decoder_base;
    c.decoder_base = decoder ? c.decoder_base : c.base;
    if (c.res_blocks < 1 || c.base < 2 || c.base % 2 != 0 || c.decoder_base < 2 ||
        (c.patch == 1 && c.base != c.decoder_base))
        return fail(ST_FORMAT,
                    "%s: an encoder of width %lld, a decoder of %lld and %d blocks per level are "
                    "no VAE that is known",
                    d->file, (long long)c.base, (long long)c.decoder_base, c.res_blocks);
    if (c.z < 1 || c.z > VAE_CHANNELS_MAX)
        return fail(ST_FORMAT, "%s: %lld latent channels; 1 to %d are possible", d->file,
                    (long long)c.z, VAE_CHANNELS_MAX);
    if (!vae_latent_constants(&c) &&
        (cJSON_GetObjectItemCaseSensitive(d->json, "latents_mean") == NULL ||
         cJSON_GetObjectItemCaseSensitive(d->json, "latents_std") == NULL))
        return fail(ST_FORMAT,
                    "%s: %lld latent channels, whose mean and deviation only a config.json with "
                    "latents_mean and latents_std could tell",
                    d->file, (long long)c.z);
    TRY(latent_constants(d, "latents_mean", c.z, c.mean));
    TRY(latent_constants(d, "latents_std", c.z, c.std));
    TRY(agree_on(d, "z_dim", c.z, decoder ? "conv2.weight" : "conv1.weight"));
    TRY(agree_on(d, "base_dim", c.base, encoder ? "encoder.conv1.weight" : "decoder.conv1.weight"));
    TRY(agree_on(d, "num_res_blocks", c.res_blocks, "encoder.downsamples.N"));
    *out = c;
    return ST_OK;
}

status describe_part(struct checkpoint *c, enum part part)
{
    struct describing d = { .f = &c->part[part], .file = tensorfile_path(&c->part[part], 0) };
    char *config = layout_config(c, part), *text = NULL;
    cJSON *json = NULL;
    status st = ST_OK;

    if (config != NULL) {
        TRY_OUT(read_text(config, CONFIG_BYTES_MAX, &text));
        json = cJSON_Parse(text);
        if (!cJSON_IsObject(json)) {
            st = fail(ST_FORMAT, "%s: is no JSON object", config);
            goto out;
        }
        d.config = config;
        d.json = json;
    }
    switch (part) {
    case PART_DIT:
        TRY_OUT(describe_dit(&d, &c->config.dit));
        break;
    case PART_T5:
        TRY_OUT(describe_t5(&d, &c->config.t5));
        break;
    default:
        TRY_OUT(describe_vae(&d, &c->config.vae));
        break;
    }
out:
    cJSON_Delete(json);
    free(text);
    free(config);
    return st;
}
