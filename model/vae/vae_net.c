#include "model/vae/vae_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

/* Source: Wan2.1 wan/modules/vae.py, Encoder3d and Decoder3d with the released settings: widths
 * base * {1, 2, 4, 4}, two of the three changes of scale also along time. */
#define LEVELS 4
#define NAME_BYTES 80
#define LAYER_TENSORS 8 // at most

static const int64_t width[LEVELS] = { 1, 2, 4, 4 };

struct builder {
    const struct vae_config *config;
    enum dtype dtype; // of the matrices
    struct vae_net *net;
    struct weight_spec *specs;
    char (*names)[NAME_BYTES];
    int count;
};

/* ---- parameters ---- */

static struct weight_spec *add_spec(struct builder *b, enum dtype dt, const char *mark,
                                    const char *prefix, const char *name)
{
    struct weight_spec *s = &b->specs[b->count];
    char *text = b->names[b->count++];
    const int n = snprintf(text, NAME_BYTES, "%s%s%s", mark, prefix, name);

    assert(n < NAME_BYTES);
    *s = (struct weight_spec){ .name = text, .dtype = dt };
    return s;
}

static void add_vector(struct builder *b, const char *prefix, const char *name, int64_t n)
{
    struct weight_spec *s = add_spec(b, DT_F32, "", prefix, name);

    s->ndim = 1;
    s->dim[0] = n;
}

/* A convolution's kernel [out, kt, k, k, in] and bias. */
static void add_conv(struct builder *b, const char *prefix, const char *name, int64_t in,
                     int64_t out, int64_t kt, int64_t k)
{
    char full[NAME_BYTES];

    snprintf(full, sizeof(full), "%s%s.", prefix, name);

    struct weight_spec *s = add_spec(b, b->dtype, "conv:", full, "weight");

    s->ndim = 5;
    s->dim[0] = out, s->dim[1] = kt, s->dim[2] = k, s->dim[3] = k, s->dim[4] = in;
    add_vector(b, full, "bias", out);
}

/* A convolution of one pixel, which is a matrix [out, in], and its bias. */
static void add_matrix(struct builder *b, const char *prefix, const char *name, int64_t in,
                       int64_t out)
{
    struct weight_spec *s = &b->specs[b->count];

    add_conv(b, prefix, name, in, out, 1, 1);
    s->ndim = 2;
    s->dim[1] = in;
}

/* ---- layers ---- */

static struct layer *add_layer(struct builder *b, enum layer_kind kind, int64_t in, int64_t out,
                               int slots)
{
    struct layer *l = &b->net->layer[b->net->layers++];

    *l = (struct layer){
        .kind = kind, .in = in, .out = out, .tensor = b->count, .slot = b->net->slots
    };
    b->net->slots += slots;
    return l;
}

static void add_first(struct builder *b, const char *prefix, int64_t in, int64_t out)
{
    add_layer(b, LAYER_CONV, in, out, 1);
    add_conv(b, prefix, "conv1", in, out, 3, 3);
}

static void add_residual(struct builder *b, const char *prefix, int64_t in, int64_t out)
{
    add_layer(b, LAYER_RESIDUAL, in, out, 2);
    add_vector(b, prefix, "residual.0.gamma", in);
    add_conv(b, prefix, "residual.2", in, out, 3, 3);
    add_vector(b, prefix, "residual.3.gamma", out);
    add_conv(b, prefix, "residual.6", out, out, 3, 3);
    if (in != out)
        add_matrix(b, prefix, "shortcut", in, out);
}

static void add_middle(struct builder *b, const char *prefix, int64_t c)
{
    char name[NAME_BYTES];

    snprintf(name, sizeof(name), "%smiddle.0.", prefix);
    add_residual(b, name, c, c);
    snprintf(name, sizeof(name), "%smiddle.1.", prefix);
    add_layer(b, LAYER_ATTENTION, c, c, 0);
    add_vector(b, name, "norm.gamma", c);
    add_matrix(b, name, "to_qkv", c, 3 * c);
    add_matrix(b, name, "proj", c, c);
    snprintf(name, sizeof(name), "%smiddle.2.", prefix);
    add_residual(b, name, c, c);
}

static void add_scale(struct builder *b, enum layer_kind kind, const char *prefix, int64_t in,
                      int64_t out, bool time)
{
    struct layer *l = add_layer(b, kind, in, out, time ? 1 : 0);

    l->time = time;
    add_conv(b, prefix, "resample.1", in, out, 1, 3);
    if (time)
        add_conv(b, prefix, "time_conv", in, kind == LAYER_UP ? 2 * in : in, 3, 1);
}

static void add_head(struct builder *b, const char *prefix, int64_t in, int64_t out)
{
    add_layer(b, LAYER_HEAD, in, out, 1);
    add_vector(b, prefix, "head.0.gamma", in);
    add_conv(b, prefix, "head.2", in, out, 3, 3);
}

static void build_encoder(struct builder *b)
{
    const int64_t base = b->config->base, z = b->config->z;
    int64_t c = base;
    char name[NAME_BYTES];
    int index = 0;

    add_first(b, "encoder.", 3, c);
    for (int level = 0; level < LEVELS; level++) {
        for (int i = 0; i < b->config->res_blocks; i++, c = base * width[level]) {
            snprintf(name, sizeof(name), "encoder.downsamples.%d.", index++);
            add_residual(b, name, c, base * width[level]);
        }
        if (level == LEVELS - 1)
            break;
        snprintf(name, sizeof(name), "encoder.downsamples.%d.", index++);
        add_scale(b, LAYER_DOWN, name, c, c, level > 0);
    }
    add_middle(b, "encoder.", c);
    add_head(b, "encoder.", c, 2 * z);
    b->net->latent = b->count;
    add_matrix(b, "", "conv1", 2 * z, 2 * z);
}

static void build_decoder(struct builder *b)
{
    const int64_t base = b->config->decoder_base, z = b->config->z;
    int64_t c = base * width[LEVELS - 1];
    char name[NAME_BYTES];
    int index = 0;

    b->net->latent = b->count;
    add_matrix(b, "", "conv2", z, z);
    add_first(b, "decoder.", z, c);
    add_middle(b, "decoder.", c);
    for (int level = LEVELS - 1; level >= 0; level--) {
        for (int i = 0; i < b->config->res_blocks + 1; i++, c = base * width[level]) {
            snprintf(name, sizeof(name), "decoder.upsamples.%d.", index++);
            add_residual(b, name, c, base * width[level]);
        }
        if (level == 0)
            break;
        snprintf(name, sizeof(name), "decoder.upsamples.%d.", index++);
        add_scale(b, LAYER_UP, name, c, c / 2, level > 1);
        c /= 2;
    }
    add_head(b, "decoder.", c, 3);
}

/* Starts a list of at most `layers` layers. */
static status start(struct vae_net **net, int layers)
{
    *net = calloc(1, sizeof(**net));
    if (*net != NULL)
        (*net)->layer = calloc((size_t)layers, sizeof((*net)->layer[0]));
    if (*net == NULL || (*net)->layer == NULL)
        return fail(ST_MEMORY, "no host memory for the VAE's %d layers", layers);
    return ST_OK;
}

status vae_net_build(const struct vae_config *config, enum dtype dtype, struct vae_net **encoder,
                     struct vae_net **decoder, struct weight_spec **specs, char **names, int *count)
{
    const int layers = LEVELS * (config->res_blocks + 1) + (LEVELS - 1) + 5;
    const size_t most = 2 * ((size_t)layers * LAYER_TENSORS + 2);
    struct builder b = { .config = config, .dtype = dtype };
    status st = ST_OK;

    b.specs = calloc(most, sizeof(b.specs[0]));
    b.names = calloc(most, sizeof(b.names[0]));
    *specs = b.specs;
    *names = (char *)b.names;
    if (b.specs == NULL || b.names == NULL)
        return fail(ST_MEMORY, "no host memory for the names of the VAE's tensors");
    if (encoder != NULL) {
        TRY_OUT(start(encoder, layers));
        b.net = *encoder;
        build_encoder(&b);
    }
    if (decoder != NULL) {
        TRY_OUT(start(decoder, layers));
        b.net = *decoder;
        build_decoder(&b);
    }
    *count = b.count;
out:
    return st;
}

void vae_net_free(struct vae_net *net)
{
    if (net != NULL)
        free(net->layer);
    free(net);
}
