/* The tensors of each released architecture, by name and shape. Proven complete by fingerprint: the
 * lists for the released sizes hash to what DiffSynth-Studio records of the real files. */
#include "model/checkpoint/checkpoint_internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* dims: as many as there are before the first 0. */
static status add(struct spec *s, const int64_t *dim, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static status add(struct spec *s, const int64_t *dim, const char *format, ...)
{
    struct spec_tensor t = { .ndim = 0 };
    va_list args;
    int length;

    if (s->count == s->room) {
        const int room = s->room ? 2 * s->room : 256;
        struct spec_tensor *more = realloc(s->tensors, (size_t)room * sizeof(*more));

        if (more == NULL)
            return fail(ST_MEMORY, "no memory for a list of %d tensors", room);
        s->tensors = more;
        s->room = room;
    }
    va_start(args, format);
    length = vsnprintf(t.name, sizeof(t.name), format, args);
    va_end(args);
    assert(length > 0 && length < (int)sizeof(t.name));
    while (t.ndim < TENSOR_AXES && dim[t.ndim] != 0) {
        t.dim[t.ndim] = dim[t.ndim];
        t.ndim++;
    }
    s->tensors[s->count++] = t;
    return ST_OK;
}

#define DIMS(...) ((const int64_t[TENSOR_AXES + 1]){ __VA_ARGS__ })

/* weight [dims] and bias [first dim] */
static status layer(struct spec *s, const int64_t *dim, const char *name)
{
    TRY(add(s, dim, "%s.weight", name));
    return add(s, DIMS(dim[0]), "%s.bias", name);
}

/* An attention's four matrices and two norms. */
static status attention(struct spec *s, int64_t dim, const char *prefix)
{
    static const char *const matrices[] = { "q", "k", "v", "o" };
    char name[100];

    for (size_t i = 0; i < COUNT(matrices); i++) {
        snprintf(name, sizeof(name), "%s.%s", prefix, matrices[i]);
        TRY(layer(s, DIMS(dim, dim), name));
    }
    TRY(add(s, DIMS(dim), "%s.norm_q.weight", prefix));
    return add(s, DIMS(dim), "%s.norm_k.weight", prefix);
}

static status dit_block(struct spec *s, const struct dit_config *c, const char *blocks, int index,
                        bool image)
{
    char name[80];

#define IN_BLOCK(rest) (snprintf(name, sizeof(name), "%s.%d." rest, blocks, index), name)
    TRY(add(s, DIMS(1, 6, c->dim), "%s", IN_BLOCK("modulation")));
    TRY(attention(s, c->dim, IN_BLOCK("self_attn")));
    TRY(attention(s, c->dim, IN_BLOCK("cross_attn")));
    if (image) {
        TRY(layer(s, DIMS(c->dim, c->dim), IN_BLOCK("cross_attn.k_img")));
        TRY(layer(s, DIMS(c->dim, c->dim), IN_BLOCK("cross_attn.v_img")));
        TRY(add(s, DIMS(c->dim), "%s", IN_BLOCK("cross_attn.norm_k_img.weight")));
    }
    TRY(layer(s, DIMS(c->dim), IN_BLOCK("norm3")));
    TRY(layer(s, DIMS(c->ffn_dim, c->dim), IN_BLOCK("ffn.0")));
    return layer(s, DIMS(c->dim, c->ffn_dim), IN_BLOCK("ffn.2"));
#undef IN_BLOCK
}

#define CLIP_DIM 1280
#define CLIP_TOKENS 257

static status dit_image(struct spec *s, const struct dit_config *c)
{
    TRY(layer(s, DIMS(CLIP_DIM), "img_emb.proj.0"));
    TRY(layer(s, DIMS(CLIP_DIM, CLIP_DIM), "img_emb.proj.1"));
    TRY(layer(s, DIMS(c->dim, CLIP_DIM), "img_emb.proj.3"));
    TRY(layer(s, DIMS(c->dim), "img_emb.proj.4"));
    if (c->kind == DIT_FLF2V)
        TRY(add(s, DIMS(1, 2 * CLIP_TOKENS, CLIP_DIM), "img_emb.emb_pos"));
    return ST_OK;
}

static status dit_vace(struct spec *s, const struct dit_config *c)
{
    TRY(layer(s, DIMS(c->dim, 96, 1, 2, 2), "vace_patch_embedding"));
    for (int i = 0; i < c->extra_layers; i++) {
        char name[80];

        TRY(dit_block(s, c, "vace_blocks", i, false));
        if (i == 0)
            TRY(layer(s, DIMS(c->dim, c->dim), "vace_blocks.0.before_proj"));
        snprintf(name, sizeof(name), "vace_blocks.%d.after_proj", i);
        TRY(layer(s, DIMS(c->dim, c->dim), name));
    }
    return ST_OK;
}

/* Wan2.2 wan/modules/s2v: audio_dim 1024 from 25 layers, 4 tokens a frame. */
static status dit_s2v(struct spec *s, const struct dit_config *c)
{
    const int64_t dim = c->dim, audio = 1024;
#define AUDIO "casual_audio_encoder."

    TRY(layer(s, DIMS(dim, 16, 1, 2, 2), "cond_encoder"));
    TRY(add(s, DIMS(3, dim), "trainable_cond_mask.weight"));
    TRY(add(s, DIMS(1, 25, 1, 1), AUDIO "weights"));
    TRY(layer(s, DIMS(dim, audio, 3), AUDIO "encoder.conv1_local.conv"));
    TRY(layer(s, DIMS(dim / 4, audio, 3), AUDIO "encoder.conv1_global.conv"));
    TRY(layer(s, DIMS(dim / 2, dim / 4, 3), AUDIO "encoder.conv2.conv"));
    TRY(layer(s, DIMS(dim, dim / 2, 3), AUDIO "encoder.conv3.conv"));
    TRY(layer(s, DIMS(dim, dim), AUDIO "encoder.final_linear"));
    TRY(add(s, DIMS(1, 1, 1, dim), AUDIO "encoder.padding_tokens"));
    for (int i = 0; i < c->extra_layers; i++) {
        char name[80];

        snprintf(name, sizeof(name), "audio_injector.injector.%d", i);
        TRY(attention(s, dim, name));
        snprintf(name, sizeof(name), "audio_injector.injector_adain_layers.%d.linear", i);
        TRY(layer(s, DIMS(2 * dim, dim), name));
    }
    TRY(layer(s, DIMS(dim, 16, 1, 2, 2), "frame_packer.proj"));
    TRY(layer(s, DIMS(dim, 16, 2, 4, 4), "frame_packer.proj_2x"));
    return layer(s, DIMS(dim, 16, 4, 8, 8), "frame_packer.proj_4x");
#undef AUDIO
}

/* Wan2.2 wan/modules/animate: a motion encoder of StyleGAN2 layers, a face encoder, adapters. */
static status dit_animate(struct spec *s, const struct dit_config *c)
{
    static const int64_t widths[] = { 32, 64, 128, 256, 512, 512, 512, 512 };
    const int64_t dim = c->dim, motion = 512, face = 1024;
#define CONVS "motion_encoder.enc.net_app.convs."

    TRY(layer(s, DIMS(dim, 16, 1, 2, 2), "pose_patch_embedding"));
    TRY(add(s, DIMS(32, 3, 1, 1), CONVS "0.0.weight"));
    TRY(add(s, DIMS(1, 32, 1, 1), CONVS "0.1.bias"));
    for (int i = 1; i < (int)COUNT(widths); i++) {
        const int64_t in = widths[i - 1], out = widths[i];

        TRY(add(s, DIMS(in, in, 3, 3), CONVS "%d.conv1.0.weight", i));
        TRY(add(s, DIMS(1, in, 1, 1), CONVS "%d.conv1.1.bias", i));
        TRY(add(s, DIMS(4, 4), CONVS "%d.conv2.0.kernel", i));
        TRY(add(s, DIMS(out, in, 3, 3), CONVS "%d.conv2.1.weight", i));
        TRY(add(s, DIMS(1, out, 1, 1), CONVS "%d.conv2.2.bias", i));
        TRY(add(s, DIMS(4, 4), CONVS "%d.skip.0.kernel", i));
        TRY(add(s, DIMS(out, in, 1, 1), CONVS "%d.skip.1.weight", i));
    }
    TRY(add(s, DIMS(motion, motion, 4, 4), CONVS "8.weight"));
    for (int i = 0; i < 5; i++) {
        char name[80];

        snprintf(name, sizeof(name), "motion_encoder.enc.fc.%d", i);
        TRY(layer(s, DIMS(i < 4 ? motion : 20, motion), name));
    }
    TRY(add(s, DIMS(motion, 20), "motion_encoder.dec.direction.weight"));
    TRY(layer(s, DIMS(4 * face, motion, 3), "face_encoder.conv1_local.conv"));
    TRY(layer(s, DIMS(face, face, 3), "face_encoder.conv2.conv"));
    TRY(layer(s, DIMS(face, face, 3), "face_encoder.conv3.conv"));
    TRY(layer(s, DIMS(dim, face), "face_encoder.out_proj"));
    TRY(add(s, DIMS(1, 1, 1, dim), "face_encoder.padding_tokens"));
    for (int i = 0; i < c->extra_layers; i++) {
        char name[80];

#define ADAPTER(rest) (snprintf(name, sizeof(name), "face_adapter.fuser_blocks.%d." rest, i), name)
        TRY(layer(s, DIMS(2 * dim, dim), ADAPTER("linear1_kv")));
        TRY(layer(s, DIMS(dim, dim), ADAPTER("linear1_q")));
        TRY(layer(s, DIMS(dim, dim), ADAPTER("linear2")));
        TRY(add(s, DIMS(dim / c->heads), "%s", ADAPTER("q_norm.weight")));
        TRY(add(s, DIMS(dim / c->heads), "%s", ADAPTER("k_norm.weight")));
#undef ADAPTER
    }
    return ST_OK;
#undef CONVS
}

status spec_dit(struct spec *s, const struct dit_config *c)
{
    const bool image = c->kind == DIT_I2V || c->kind == DIT_FLF2V || c->kind == DIT_ANIMATE;

    TRY(layer(s, DIMS(c->dim, c->in_dim, 1, 2, 2), "patch_embedding"));
    TRY(layer(s, DIMS(c->dim, c->text_dim), "text_embedding.0"));
    TRY(layer(s, DIMS(c->dim, c->dim), "text_embedding.2"));
    TRY(layer(s, DIMS(c->dim, c->freq_dim), "time_embedding.0"));
    TRY(layer(s, DIMS(c->dim, c->dim), "time_embedding.2"));
    TRY(layer(s, DIMS(6 * c->dim, c->dim), "time_projection.1"));
    if (image)
        TRY(dit_image(s, c));
    for (int i = 0; i < c->layers; i++)
        TRY(dit_block(s, c, "blocks", i, image));
    TRY(layer(s, DIMS(4 * c->out_dim, c->dim), "head.head"));
    TRY(add(s, DIMS(1, 2, c->dim), "head.modulation"));
    if (c->kind == DIT_VACE)
        TRY(dit_vace(s, c));
    if (c->kind == DIT_S2V)
        TRY(dit_s2v(s, c));
    if (c->kind == DIT_ANIMATE)
        TRY(dit_animate(s, c));
    return ST_OK;
}

status spec_t5(struct spec *s, const struct t5_config *c)
{
    TRY(add(s, DIMS(c->vocab, c->dim), "token_embedding.weight"));
    for (int i = 0; i < c->layers; i++) {
        TRY(add(s, DIMS(c->dim), "blocks.%d.norm1.weight", i));
        TRY(add(s, DIMS(c->attn_dim, c->dim), "blocks.%d.attn.q.weight", i));
        TRY(add(s, DIMS(c->attn_dim, c->dim), "blocks.%d.attn.k.weight", i));
        TRY(add(s, DIMS(c->attn_dim, c->dim), "blocks.%d.attn.v.weight", i));
        TRY(add(s, DIMS(c->dim, c->attn_dim), "blocks.%d.attn.o.weight", i));
        TRY(add(s, DIMS(c->buckets, c->heads), "blocks.%d.pos_embedding.embedding.weight", i));
        TRY(add(s, DIMS(c->dim), "blocks.%d.norm2.weight", i));
        TRY(add(s, DIMS(c->ffn_dim, c->dim), "blocks.%d.ffn.gate.0.weight", i));
        TRY(add(s, DIMS(c->ffn_dim, c->dim), "blocks.%d.ffn.fc1.weight", i));
        TRY(add(s, DIMS(c->dim, c->ffn_dim), "blocks.%d.ffn.fc2.weight", i));
    }
    return add(s, DIMS(c->dim), "norm.weight");
}

static status vae_res(struct spec *s, const char *prefix, int64_t in, int64_t out)
{
    char name[100];

    TRY(add(s, DIMS(in, 1, 1, 1), "%s.residual.0.gamma", prefix));
    snprintf(name, sizeof(name), "%s.residual.2", prefix);
    TRY(layer(s, DIMS(out, in, 3, 3, 3), name));
    TRY(add(s, DIMS(out, 1, 1, 1), "%s.residual.3.gamma", prefix));
    snprintf(name, sizeof(name), "%s.residual.6", prefix);
    TRY(layer(s, DIMS(out, out, 3, 3, 3), name));
    snprintf(name, sizeof(name), "%s.shortcut", prefix);
    return in == out ? ST_OK : layer(s, DIMS(out, in, 1, 1, 1), name);
}

/* A 3x3 convolution from `in` to `out`; with `time`, one over three frames from `in` to it. */
static status vae_resample(struct spec *s, const char *prefix, int64_t in, int64_t out,
                           int64_t time)
{
    char name[100];

    snprintf(name, sizeof(name), "%s.resample.1", prefix);
    TRY(layer(s, DIMS(out, in, 3, 3), name));
    snprintf(name, sizeof(name), "%s.time_conv", prefix);
    return time ? layer(s, DIMS(time, in, 3, 1, 1), name) : ST_OK;
}

/* middle.0-2 and head of one half */
static status vae_ends(struct spec *s, const char *half, int64_t middle, int64_t last, int64_t out)
{
    char name[100];

    snprintf(name, sizeof(name), "%s.middle.0", half);
    TRY(vae_res(s, name, middle, middle));
    TRY(add(s, DIMS(middle, 1, 1), "%s.middle.1.norm.gamma", half));
    snprintf(name, sizeof(name), "%s.middle.1.to_qkv", half);
    TRY(layer(s, DIMS(3 * middle, middle, 1, 1), name));
    snprintf(name, sizeof(name), "%s.middle.1.proj", half);
    TRY(layer(s, DIMS(middle, middle, 1, 1), name));
    snprintf(name, sizeof(name), "%s.middle.2", half);
    TRY(vae_res(s, name, middle, middle));
    TRY(add(s, DIMS(last, 1, 1, 1), "%s.head.0.gamma", half));
    snprintf(name, sizeof(name), "%s.head.2", half);
    return layer(s, DIMS(out, last, 3, 3, 3), name);
}

#define LEVELS 4

/* The name of entry `j` of level `i`: one flat list in Wan2.1, a list per level in Wan2.2. */
static const char *vae_entry(char *name, size_t size, const char *list, bool flat, int per_level,
                             int i, int j)
{
    if (flat)
        snprintf(name, size, "%s.%d", list, i * per_level + j);
    else
        snprintf(name, size, "%s.%d.%s.%d", list, i, strchr(list, '.') + 1, j);
    return name;
}

static status vae_encoder(struct spec *s, const struct vae_config *c)
{
    static const int widths[LEVELS] = { 1, 2, 4, 4 };
    const bool flat = c->patch == 1;
    int64_t in = c->base;
    char name[80];

    TRY(layer(s, DIMS(in, 3 * c->patch * c->patch, 3, 3, 3), "encoder.conv1"));
    for (int i = 0; i < LEVELS; i++) {
        const int64_t out = c->base * widths[i];

        for (int j = 0; j < c->res_blocks; j++, in = out)
            TRY(vae_res(
                s,
                vae_entry(name, sizeof(name), "encoder.downsamples", flat, c->res_blocks + 1, i, j),
                in, out));
        if (i < LEVELS - 1)
            TRY(vae_resample(s,
                             vae_entry(name, sizeof(name), "encoder.downsamples", flat,
                                       c->res_blocks + 1, i, c->res_blocks),
                             out, out, i > 0 ? out : 0));
    }
    TRY(vae_ends(s, "encoder", in, in, 2 * c->z));
    return layer(s, DIMS(2 * c->z, 2 * c->z, 1, 1, 1), "conv1");
}

/* In Wan2.1 a spatial up halves the channels, in Wan2.2 the next level's first block does. */
static status vae_decoder(struct spec *s, const struct vae_config *c)
{
    static const int widths[LEVELS] = { 4, 4, 2, 1 };
    const bool flat = c->patch == 1;
    int64_t in = 4 * c->decoder_base;
    char name[80];

    TRY(layer(s, DIMS(c->z, c->z, 1, 1, 1), "conv2"));
    TRY(layer(s, DIMS(in, c->z, 3, 3, 3), "decoder.conv1"));
    for (int i = 0; i < LEVELS; i++) {
        const int64_t out = c->decoder_base * widths[i];

        for (int j = 0; j < c->res_blocks + 1; j++, in = out)
            TRY(vae_res(
                s,
                vae_entry(name, sizeof(name), "decoder.upsamples", flat, c->res_blocks + 2, i, j),
                in, out));
        if (i < LEVELS - 1) {
            TRY(vae_resample(s,
                             vae_entry(name, sizeof(name), "decoder.upsamples", flat,
                                       c->res_blocks + 2, i, c->res_blocks + 1),
                             out, flat ? out / 2 : out, i < 2 ? 2 * out : 0));
            in = flat ? out / 2 : out;
        }
    }
    return vae_ends(s, "decoder", 4 * c->decoder_base, in, 3 * c->patch * c->patch);
}

status spec_vae(struct spec *s, const struct vae_config *c, bool encoder, bool decoder)
{
    if (encoder)
        TRY(vae_encoder(s, c));
    return decoder ? vae_decoder(s, c) : ST_OK;
}

status spec_part(struct spec *s, const struct model_config *config, enum part part)
{
    return part == PART_DIT  ? spec_dit(s, &config->dit)
           : part == PART_T5 ? spec_t5(s, &config->t5)
                             : spec_vae(s, &config->vae, true, true);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct spec_tensor *)a)->name, ((const struct spec_tensor *)b)->name);
}

void spec_sort(struct spec *s)
{
    if (s->count > 0)
        qsort(s->tensors, (size_t)s->count, sizeof(*s->tensors), by_name);
}

void spec_done(struct spec *s)
{
    free(s->tensors);
    *s = (struct spec){ 0 };
}

int64_t spec_parameters(const struct spec *s)
{
    int64_t sum = 0;

    for (int i = 0; i < s->count; i++) {
        int64_t n = 1;

        for (int axis = 0; axis < s->tensors[i].ndim; axis++)
            n *= s->tensors[i].dim[axis];
        sum += n;
    }
    return sum;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

status spec_fingerprint(const struct spec *s, char *hex)
{
    const size_t room = 256; // a name and five dims
    const size_t lines = 2 * (size_t)s->count;
    char *text = calloc(lines + 1, room), *joined = malloc(lines * room + 1);
    const char **line = calloc(lines + 1, sizeof(char *));
    size_t length = 0;
    status st = ST_OK;

    if (text == NULL || joined == NULL || line == NULL) {
        st = fail(ST_MEMORY, "no memory for the fingerprint of %d tensors", s->count);
        goto out;
    }
    for (int i = 0; i < s->count; i++) {
        const struct spec_tensor *t = &s->tensors[i];
        char *plain = text + 2 * (size_t)i * room, *shaped = plain + room;
        int n = snprintf(shaped, room, "%s:", t->name);

        snprintf(plain, room, "%s", t->name);
        for (int axis = 0; axis < t->ndim; axis++)
            n += snprintf(shaped + n, room - (size_t)n, "%s%lld", axis ? "_" : "",
                          (long long)t->dim[axis]);
        line[2 * i] = plain;
        line[2 * i + 1] = shaped;
    }
    qsort(line, lines, sizeof(*line), by_text);
    for (size_t i = 0; i < lines; i++) {
        const size_t n = strlen(line[i]);

        if (i > 0)
            joined[length++] = ',';
        memcpy(joined + length, line[i], n);
        length += n;
    }
    md5_hex(joined, length, hex);
out:
    free(text);
    free(joined);
    free(line);
    return st;
}
