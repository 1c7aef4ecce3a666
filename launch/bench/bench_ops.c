/* Single ops at the sizes of a generation, and the ceilings that they are compared with. */
#include "launch/bench/bench.h"

#include <math.h>
#include <stdlib.h>

/* Arguments of one timed op. */
struct operands {
    struct bench *b;
    struct arena a;
    struct tensor out, x, w, bias, y, k, v, table;
    struct token_grid grid;
    enum act act;
    struct conv conv;
    void *host;
};

static const struct tensor none = { 0 };

/* Allocates memory for tensors of `bytes` in all, plus alignment. */
static status operands_open(struct operands *o, struct bench *b, double bytes)
{
    *o = (struct operands){ .b = b };
    return arena_init(&o->a, &b->dev, "bench", (size_t)bytes + ((size_t)1 << 16));
}

static void operands_close(struct operands *o)
{
    arena_done(&o->a);
}

#define TAKE(t, dt, ...)                                                                           \
    do {                                                                                           \
        TRY_OUT(arena_take(&o.a, &(t), dt, __VA_ARGS__));                                          \
        TRY_OUT(bench_fill(b, t, 1));                                                              \
    } while (0)

/* ---- products ---- */

#define FIRST_PRODUCTS 40

static status call_gemm(void *payload)
{
    const struct operands *o = payload;

    return op_gemm(&o->b->dev, o->out, o->x, o->w, o->bias, o->act);
}

static status gemm(struct bench *b, int64_t m, int64_t n, int64_t k, enum act act, const char *what)
{
    const double size = (double)dtype_size(b->cdt), flops = 2.0 * (double)m * (double)n * (double)k;
    const double bytes =
        size * ((double)m * (double)n + (double)m * (double)k + (double)n * (double)k + (double)n);
    struct operands o;
    status st;

    TRY_OUT(operands_open(&o, b, bytes));
    TAKE(o.out, b->cdt, m, n);
    TAKE(o.x, b->cdt, m, k);
    TAKE(o.w, b->cdt, n, k);
    TAKE(o.bias, b->cdt, n);
    o.act = act;
    // the first calls of a large product try several kernels (kernels/cuda/gemm.c)
    for (int i = 0; i < FIRST_PRODUCTS && b->dev.kind == DEVICE_CUDA; i++)
        TRY_OUT(call_gemm(&o));
    TRY_OUT(bench_time(b, "gemm",
                       (struct bench_work){ call_gemm, &o, flops, bytes, CEILING_GEMM, false },
                       "%s: %lld x %lld x %lld", what, (long long)m, (long long)n, (long long)k));
out:
    operands_close(&o);
    return st;
}

status bench_gemm(struct bench *b)
{
    const struct dit_config *c = model_dit(&b->plan.model);

    TRY(gemm(b, b->s_loc, 3 * c->dim, c->dim, ACT_NONE, "q k v"));
    TRY(gemm(b, b->s_loc, c->dim, c->dim, ACT_NONE, "o"));
    TRY(gemm(b, b->s_loc, c->ffn_dim, c->dim, ACT_GELU_TANH, "up, gelu"));
    TRY(gemm(b, b->s_loc, c->dim, c->ffn_dim, ACT_NONE, "down"));
    return gemm(b, c->text_len, 2 * c->dim, c->dim, ACT_NONE, "text k v");
}

/* ---- attention ---- */

static status call_attention(void *payload)
{
    const struct operands *o = payload;

    return op_attention(&o->b->dev, o->out, none, o->x, o->k, o->v, 1 / sqrtf((float)o->x.dim[2]));
}

static status attention(struct bench *b, int64_t sq, int64_t sk, int64_t n, int64_t d,
                        const char *what)
{
    const double bytes = (double)dtype_size(b->cdt) * 2 * (double)(sq + sk) * (double)(n * d);
    const double flops = 4.0 * (double)sq * (double)sk * (double)(n * d);
    struct operands o;
    status st;

    TRY_OUT(operands_open(&o, b, bytes));
    TAKE(o.out, b->cdt, sq, n, d);
    TAKE(o.x, b->cdt, sq, n, d);
    TAKE(o.k, b->cdt, sk, n, d);
    TAKE(o.v, b->cdt, sk, n, d);
    TRY_OUT(bench_time(b, "attention",
                       (struct bench_work){ call_attention, &o, flops, bytes, CEILING_GEMM, false },
                       "%s: %lld x %lld, %lld heads", what, (long long)sq, (long long)sk,
                       (long long)n));
out:
    operands_close(&o);
    return st;
}

status bench_attention(struct bench *b)
{
    const struct dit_config *c = model_dit(&b->plan.model);
    const struct mesh_shape m = b->plan.mesh;
    const int64_t shard = (b->tokens + m.ring - 1) / m.ring; // tokens
    const int64_t heads = (c->heads + m.ulysses - 1) / m.ulysses;

    TRY(attention(b, shard, shard, heads, c->dim / c->heads, "self"));
    return attention(b, b->s_loc, c->text_len, c->heads, c->dim / c->heads, "cross");
}

/* ---- convolutions ---- */

static status call_conv(void *payload)
{
    const struct operands *o = payload;

    return op_conv3d(&o->b->dev, o->out, o->x, none, o->w, o->bias, none, o->conv);
}

static status conv(struct bench *b, int64_t t, int64_t h, int64_t w, int64_t c_in, int64_t c_out)
{
    const double pixels = (double)t * (double)h * (double)w;
    const double in = (double)(t + 2) * (double)h * (double)w * (double)c_in;
    const double bytes = (double)dtype_size(b->cdt) *
                         (pixels * (double)c_out + in + 27 * (double)c_in * (double)c_out);
    const double flops = 2 * 27 * pixels * (double)c_in * (double)c_out;
    struct operands o;
    status st;

    TRY_OUT(operands_open(&o, b, bytes + 4 * (double)c_out));
    TAKE(o.out, b->cdt, t, h, w, c_out);
    TAKE(o.x, b->cdt, t + 2, h, w, c_in);
    TAKE(o.w, b->cdt, c_out, 3, 3, 3, c_in);
    TAKE(o.bias, DT_F32, c_out);
    o.conv = (struct conv){ 1, 1, 0, 1, 1, 1, 1, false };
    TRY_OUT(bench_time(b, "conv",
                       (struct bench_work){ call_conv, &o, flops, bytes, CEILING_GEMM, false },
                       "%lld x %lld x %lld, %lld to %lld", (long long)t, (long long)h, (long long)w,
                       (long long)c_in, (long long)c_out));
out:
    operands_close(&o);
    return st;
}

/* The levels of the decoder, for one latent frame. */
status bench_conv(struct bench *b)
{
    const struct latent_shape s = b->plan.latent;
    const int64_t c = model_vae(&b->plan.model)->decoder_base;

    TRY(conv(b, 1, s.h, s.w, 4 * c, 4 * c));
    TRY(conv(b, 2, 2 * s.h, 2 * s.w, 4 * c, 4 * c));
    TRY(conv(b, 4, 4 * s.h, 4 * s.w, 2 * c, 2 * c));
    return conv(b, 4, 8 * s.h, 8 * s.w, c, c);
}

/* ---- ops limited by memory bandwidth ---- */

static status call_norm_modulate(void *payload)
{
    const struct operands *o = payload;

    return op_norm_modulate(&o->b->dev, o->out, o->x, o->w, o->bias, 1e-6f);
}

static status call_layer_norm(void *payload)
{
    const struct operands *o = payload;

    return op_layer_norm(&o->b->dev, o->out, o->x, o->w, o->bias, 1e-6f);
}

static status call_rms_norm(void *payload)
{
    const struct operands *o = payload;

    return op_rms_norm(&o->b->dev, o->out, o->out, o->w, 1e-6f);
}

static status call_norm_rope(void *payload)
{
    const struct operands *o = payload;

    return op_norm_rope(&o->b->dev, tensor_split(o->k, 1, 2 * o->table.dim[1]), o->k, o->w, 1e-6f,
                        o->table, o->grid);
}

static status call_gate_add(void *payload)
{
    const struct operands *o = payload;

    return op_gate_add(&o->b->dev, o->x, o->x, o->out, o->w);
}

static status call_copy(void *payload)
{
    const struct operands *o = payload;

    return op_copy(&o->b->dev, o->out, o->k);
}

status bench_fused(struct bench *b)
{
    const struct dit_config *c = model_dit(&b->plan.model);
    const int64_t s = b->s_loc, dim = c->dim, pairs = dim / c->heads / 2;
    const struct latent_shape l = b->plan.latent;
    const int64_t axis = l.t > l.h ? (l.t > l.w ? l.t : l.w) : (l.h > l.w ? l.h : l.w);
    const double narrow = (double)s * (double)dim * (double)dtype_size(b->cdt);
    const double wide = (double)s * (double)dim * 4;
    struct operands o;
    struct tensor qkv;
    status st;

    TRY_OUT(operands_open(&o, b, 4 * narrow + wide + 8 * (double)(dim + axis * pairs)));
    TAKE(o.x, DT_F32, s, dim);
    TAKE(o.out, b->cdt, s, dim);
    TAKE(qkv, b->cdt, s, 3 * dim);
    TAKE(o.w, DT_F32, dim);
    TAKE(o.bias, DT_F32, dim);
    TAKE(o.table, DT_F32, axis, pairs, 2);
    o.k = tensor_slice(qkv, 1, 0, dim);
    o.v = tensor_slice(qkv, 1, dim, dim);
    o.grid = (struct token_grid){ l.t, l.h / 2, l.w / 2, 0 };

    const struct {
        const char *name;
        status (*call)(void *payload);
        double bytes;
    } cases[] = {
        { "norm, modulate", call_norm_modulate, wide + narrow },
        { "layer norm", call_layer_norm, wide + narrow },
        { "rms norm", call_rms_norm, 2 * narrow },
        { "norm, rope", call_norm_rope, 2 * narrow },
        { "gate, add", call_gate_add, 2 * wide + narrow },
        { "copy out of q k v", call_copy, 2 * narrow },
    };

    for (size_t i = 0; i < COUNT(cases); i++)
        TRY_OUT(bench_time(
            b, "fused",
            (struct bench_work){ cases[i].call, &o, 0, cases[i].bytes, CEILING_COPY, false },
            "%s: %lld x %lld", cases[i].name, (long long)s, (long long)dim));
out:
    operands_close(&o);
    return st;
}

/* ---- copies ---- */

static status call_device_copy(void *payload)
{
    const struct operands *o = payload;

    return device_copy(&o->b->dev, o->out, o->x);
}

static status call_upload(void *payload)
{
    const struct operands *o = payload;

    return device_upload(&o->b->dev, o->out, o->host);
}

static status call_download(void *payload)
{
    const struct operands *o = payload;

    return device_download(&o->b->dev, o->host, o->out);
}

status bench_load(struct bench *b)
{
    const int64_t bytes = b->dev.kind == DEVICE_CUDA ? (int64_t)1 << 30 : (int64_t)1 << 27;
    struct operands o;
    void *pinned = NULL, *plain = NULL;
    status st;

    TRY_OUT(operands_open(&o, b, (double)bytes));
    TRY_OUT(arena_take(&o.a, &o.out, DT_U8, bytes));
    TRY_OUT(device_host_alloc(&b->dev, &pinned, (size_t)bytes));
    plain = malloc((size_t)bytes);
    if (plain == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for %lld bytes", (long long)bytes));
    for (int64_t i = 0; i < bytes; i += 4096)
        ((char *)plain)[i] = ((char *)pinned)[i] = (char)i;

    const struct {
        const char *name;
        status (*call)(void *payload);
        void *host;
    } cases[] = {
        { "pinned memory to device", call_upload, pinned },
        { "device to pinned memory", call_download, pinned },
        { "pageable memory to device", call_upload, plain },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        o.host = cases[i].host;
        TRY_OUT(bench_time(
            b, "load",
            (struct bench_work){ cases[i].call, &o, 0, (double)bytes, CEILING_HOST, false },
            "%s, %lld MB", cases[i].name, (long long)(bytes / 1000000)));
    }
out:
    device_host_free(&b->dev, pinned);
    free(plain);
    operands_close(&o);
    return st;
}

/* ---- ceilings ---- */

/* Sets a ceiling from the last row. */
static void set_ceiling(struct bench *b, enum ceiling c)
{
    const struct bench_row *r = &b->rows[b->count - 1];

    b->ceilings[c] = (c == CEILING_GEMM ? r->flops : r->bytes) / r->median_s;
}

static status ceiling_gemm(struct bench *b)
{
    const int64_t n = b->dev.kind == DEVICE_CUDA ? 8192 : 1024;

    TRY(gemm(b, n, n, n, ACT_NONE, "ceiling"));
    set_ceiling(b, CEILING_GEMM);
    return ST_OK;
}

static status ceiling_copy(struct bench *b)
{
    const int64_t bytes = b->dev.kind == DEVICE_CUDA ? (int64_t)1 << 31 : (int64_t)1 << 27;
    struct operands o;
    status st;

    TRY_OUT(operands_open(&o, b, 2 * (double)bytes));
    TAKE(o.out, DT_F32, bytes / 4);
    TAKE(o.x, DT_F32, bytes / 4);
    TRY_OUT(bench_time(
        b, "copy",
        (struct bench_work){ call_device_copy, &o, 0, 2 * (double)bytes, CEILING_NONE, false },
        "ceiling: within the device, read and written"));
    set_ceiling(b, CEILING_COPY);
out:
    operands_close(&o);
    return st;
}

static status ceiling_host(struct bench *b)
{
    const int64_t bytes = (int64_t)1 << 28;
    struct operands o;
    status st;

    TRY_OUT(operands_open(&o, b, (double)bytes));
    TRY_OUT(arena_take(&o.a, &o.out, DT_U8, bytes));
    TRY_OUT(device_host_alloc(&b->dev, &o.host, (size_t)bytes));
    TRY_OUT(
        bench_time(b, "host copy",
                   (struct bench_work){ call_upload, &o, 0, (double)bytes, CEILING_NONE, false },
                   "ceiling: from pinned memory"));
    set_ceiling(b, CEILING_HOST);
out:
    device_host_free(&b->dev, o.host);
    operands_close(&o);
    return st;
}

status bench_ceilings(struct bench *b)
{
    TRY(ceiling_gemm(b));
    TRY(ceiling_copy(b));
    return b->dev.kind == DEVICE_CUDA ? ceiling_host(b) : ST_OK;
}
