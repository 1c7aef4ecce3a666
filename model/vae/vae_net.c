/* The layers of encoder and decoder, with their tensors, each listed once.
 *
 * Source: Wan2.1 wan/modules/vae.py, Encoder3d and Decoder3d with the released settings: widths
 * base * {1, 2, 4, 4}; two of the three up- or downsampling layers also change the frame count.
 * Wan2.2 wan/modules/vae2_2.py: patches of pixels as channels, a list of layers per level with a
 * shortcut around it, and upsampling that keeps the channels. */
#include "model/vae/vae_internal.h"

#include <stdio.h>
#include <string.h>

#define LEVELS 4
#define NAME_BYTES 80
#define ALIGN 8 // the first convolution's channels are a multiple of it, for kernels on GPUs

static const int64_t width[LEVELS] = { 1, 2, 4, 4 };

struct builder {
    struct tensor_list *list;
    const struct vae_config *config;
    enum dtype dtype;     // of the matrices
    struct layer *layers; // NULL: tensors only
    struct layer dummy;   // the layer then
    int count, slots;
};

/* Where the layers have this tensor or struct linear, for weights_acquire. */
static size_t slot_of(const struct builder *b, const void *member)
{
    return b->layers != NULL ? (size_t)((const char *)member - (const char *)b->layers)
                             : TENSORS_NO_SLOT;
}

/* ---- layers ---- */

static struct layer *add_layer(struct builder *b, enum layer_kind kind, int64_t in, int64_t out,
                               int slots)
{
    struct layer *l = b->layers != NULL ? &b->layers[b->count++] : &b->dummy;

    *l = (struct layer){ .kind = kind, .in = in, .out = out, .scale = 1, .slot = b->slots };
    b->slots += slots;
    return l;
}

static const char *join(char full[WEIGHT_NAME_BYTES], const char *prefix, const char *name)
{
    snprintf(full, WEIGHT_NAME_BYTES, "%.60s%.50s", prefix, name);
    return full;
}

/* A norm's gamma [C, 1, 1, 1] in the file (axes 3: [C, 1, 1]), [C] in memory. */
static void add_norm(struct builder *b, const char *prefix, const char *name, struct tensor *to,
                     int64_t c, int axes)
{
    char full[WEIGHT_NAME_BYTES];
    struct weight_spec *t = tensors_add(b->list, join(full, prefix, name), slot_of(b, to), DT_F32,
                                        axes == 3 ? TENSOR_DIMS(c, 1, 1) : TENSOR_DIMS(c, 1, 1, 1));

    t->ndim = 1;
}

/* kt 0: a convolution over frames one by one, which has no such axis in the file. */
static void add_conv(struct builder *b, const char *prefix, const char *name, struct linear *to,
                     int64_t in, int64_t out, int64_t kt, int64_t k)
{
    char full[WEIGHT_NAME_BYTES];

    tensors_conv(b->list, join(full, prefix, name), slot_of(b, to), out, in, kt, k, b->dtype);
}

static struct layer *add_point(struct builder *b, const char *name, int64_t c)
{
    struct layer *l = add_layer(b, LAYER_POINT, c, c, 0);

    add_conv(b, "", name, &l->conv1, c, c, 1, 1);
    return l;
}

/* A layer without parameters. */
static void add_plain(struct builder *b, enum layer_kind kind, int64_t in, int64_t out, bool time,
                      int64_t scale)
{
    struct layer *l = add_layer(b, kind, in, out, 0);

    l->time = time;
    l->scale = (int)scale;
}

/* `in` channels, of which the file has `stored`. */
static void add_first(struct builder *b, const char *prefix, int64_t in, int64_t stored,
                      int64_t out)
{
    struct layer *l = add_layer(b, LAYER_CONV, in, out, 1);

    add_conv(b, prefix, "conv1", &l->conv1, stored, out, 3, 3);
}

static void add_residual(struct builder *b, const char *prefix, int64_t in, int64_t out)
{
    struct layer *l = add_layer(b, LAYER_RESIDUAL, in, out, 2);

    add_norm(b, prefix, "residual.0.gamma", &l->norm1, in, 4);
    add_conv(b, prefix, "residual.2", &l->conv1, in, out, 3, 3);
    add_norm(b, prefix, "residual.3.gamma", &l->norm2, out, 4);
    add_conv(b, prefix, "residual.6", &l->conv2, out, out, 3, 3);
    if (in != out)
        add_conv(b, prefix, "shortcut", &l->shortcut, in, out, 1, 1);
}

static void add_middle(struct builder *b, const char *prefix, int64_t c)
{
    char name[NAME_BYTES];
    struct layer *l;

    snprintf(name, sizeof(name), "%smiddle.0.", prefix);
    add_residual(b, name, c, c);
    snprintf(name, sizeof(name), "%smiddle.1.", prefix);
    l = add_layer(b, LAYER_ATTENTION, c, c, 0);
    add_norm(b, name, "norm.gamma", &l->norm1, c, 3);
    add_conv(b, name, "to_qkv", &l->qkv, c, 3 * c, 0, 1);
    add_conv(b, name, "proj", &l->proj, c, c, 0, 1);
    snprintf(name, sizeof(name), "%smiddle.2.", prefix);
    add_residual(b, name, c, c);
}

static void add_resample(struct builder *b, enum layer_kind kind, const char *prefix, int64_t in,
                         int64_t out, bool time)
{
    struct layer *l = add_layer(b, kind, in, out, time ? 1 : 0);

    l->time = time;
    l->scale = 2;
    add_conv(b, prefix, "resample.1", &l->conv1, in, out, 0, 3);
    if (time)
        add_conv(b, prefix, "time_conv", &l->time_conv, in, kind == LAYER_UP ? 2 * in : in, 3, 1);
}

static void add_head(struct builder *b, const char *prefix, int64_t in, int64_t out)
{
    struct layer *l = add_layer(b, LAYER_HEAD, in, out, 1);

    add_norm(b, prefix, "head.0.gamma", &l->norm1, in, 4);
    add_conv(b, prefix, "head.2", &l->conv1, in, out, 3, 3);
}

/* Whether a level is a list of its own, with a shortcut around its layers: Wan2.2. */
static bool nested(const struct vae_config *c)
{
    return c->patch > 1;
}

/* Prefix of entry `j` of level `i`: one flat list, or a list per level. */
static const char *entry(char *name, const struct vae_config *c, const char *list, int per_level,
                         int i, int j)
{
    if (nested(c))
        snprintf(name, NAME_BYTES, "%s.%d.%s.%d.", list, i, strchr(list, '.') + 1, j);
    else
        snprintf(name, NAME_BYTES, "%s.%d.", list, i * per_level + j);
    return name;
}

static struct layer *build_encoder(struct builder *b)
{
    static const char list[] = "encoder.downsamples";
    const struct vae_config *config = b->config;
    const int64_t colours = 3 * config->patch * config->patch;
    const int64_t first = (colours + ALIGN - 1) / ALIGN * ALIGN;
    const int blocks = config->res_blocks;
    int64_t c = config->base;
    char name[NAME_BYTES];

    add_plain(b, LAYER_PATCHES, 3, first, false, config->patch);
    add_first(b, "encoder.", first, colours, c);
    for (int i = 0; i < LEVELS; i++) {
        const bool down = i < LEVELS - 1, time = down && i > 0;
        const int64_t out = config->base * width[i];

        if (nested(config))
            add_plain(b, LAYER_FORK, c, out, time, down ? 2 : 1);
        for (int j = 0; j < blocks; j++, c = out)
            add_residual(b, entry(name, config, list, blocks + 1, i, j), c, out);
        if (down)
            add_resample(b, LAYER_DOWN, entry(name, config, list, blocks + 1, i, blocks), c, c,
                         time);
        if (nested(config))
            add_plain(b, LAYER_JOIN, c, c, false, 1);
    }
    add_middle(b, "encoder.", c);
    add_head(b, "encoder.", c, 2 * config->z);
    return add_point(b, "conv1", 2 * config->z);
}

static struct layer *build_decoder(struct builder *b)
{
    static const char list[] = "decoder.upsamples";
    const struct vae_config *config = b->config;
    const int64_t base = config->decoder_base, colours = 3 * config->patch * config->patch;
    const int blocks = config->res_blocks + 1;
    int64_t c = base * width[LEVELS - 1];
    struct layer *point = add_point(b, "conv2", config->z);
    char name[NAME_BYTES];

    add_first(b, "decoder.", config->z, config->z, c);
    add_middle(b, "decoder.", c);
    for (int i = 0; i < LEVELS; i++) {
        const bool up = i < LEVELS - 1, time = i < 2;
        const int64_t in = c, out = base * width[LEVELS - 1 - i];

        if (nested(config) && up)
            add_plain(b, LAYER_FORK, in, in, false, 1);
        for (int j = 0; j < blocks; j++, c = out)
            add_residual(b, entry(name, config, list, blocks + 1, i, j), c, out);
        if (!up)
            break;
        c = nested(config) ? out : out / 2; // the next level's first block halves them, if not here
        add_resample(b, LAYER_UP, entry(name, config, list, blocks + 1, i, blocks), out, c, time);
        if (nested(config))
            add_plain(b, LAYER_JOIN, in, c, time, 2);
    }
    add_head(b, "decoder.", c, colours);
    if (config->patch > 1)
        add_plain(b, LAYER_PIXELS, colours, 3, false, config->patch);
    return point;
}

int vae_layers_max(const struct vae_config *config)
{
    // per level its blocks, a resampling, fork and join; middle, first and last
    return 2 * (LEVELS * (config->res_blocks + 4) + 7);
}

void vae_build(struct tensor_list *l, const struct vae_config *config, enum dtype dtype,
               bool encoder, bool decoder, struct layer *layers, struct vae_net nets[2])
{
    struct builder b = { .list = l, .config = config, .dtype = dtype, .layers = layers };

    tensors_stack(l, "vae", "", 1, TENSORS_LOCAL);
    for (int half = 0; half < 2; half++) {
        const int first = b.count;
        struct layer *point;

        if (!(half == 0 ? encoder : decoder))
            continue;
        b.slots = 0;
        point = half == 0 ? build_encoder(&b) : build_decoder(&b);
        if (layers == NULL)
            continue;
        nets[half] =
            (struct vae_net){ .point = point, .layers = b.count - first - 1, .slots = b.slots };
        nets[half].layer = &layers[half == 0 ? first : first + 1];
    }
}

void vae_tensors(struct tensor_list *l, const struct vae_config *config, enum dtype dtype,
                 bool encoder, bool decoder)
{
    vae_build(l, config, dtype, encoder, decoder, NULL, NULL);
}
