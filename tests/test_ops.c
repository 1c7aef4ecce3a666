/* Every op, of the reference and the CPU or of a GPU, compared with PyTorch's results for the same
 * small inputs (golden/make_ops.py). This also tests the reference, which checkops takes as
 * correct.
 *
 *     test_ops GOLDEN [cuda] */
#include "kernels/table.h"
#include "tests/check.h"
#include "tests/golden.h"
#include "tests/levels.h"

#include <string.h>

static struct golden golden;
static struct device dev;
static const char *level;
static const struct tensor none;

static struct tensor made[512]; // the tensors of one level, to be freed
static int count;

static struct tensor keep(struct tensor t)
{
    if (count == (int)COUNT(made)) {
        printf("more than %d tensors\n", (int)COUNT(made));
        exit(1);
    }
    made[count++] = t;
    return t;
}

static struct tensor fresh(enum dtype dt, struct tensor like)
{
    struct tensor t = tensor_dims(NULL, dt, like.ndim, like.dim);

    golden_need(device_host_alloc(&dev, &t.data, tensor_bytes(t))); // accessible to host and GPU
    memset(t.data, 0xff, tensor_bytes(t));
    return keep(t);
}

/* The recorded tensor CASE.ARGUMENT. */
static struct tensor recorded(const char *name, const char *argument)
{
    char full[128];
    const struct file_tensor *f;
    struct tensor t;

    snprintf(full, sizeof(full), "%s.%s", name, argument);
    f = tensorfile_find(&golden.file, full);
    if (f == NULL)
        golden_need(fail(ST_FORMAT, "no recorded tensor %s", full));
    t = fresh(f->shape.dtype, f->shape);
    golden_need(tensorfile_read(&golden.file, f, 0, tensor_count(t), t.dtype, t.data));
    return t;
}

static struct tensor in_f32(struct tensor t)
{
    const struct tensor f = fresh(DT_F32, t);

    CHECK(device_wait(&dev) == ST_OK, "%s", status_line());
    CHECK(table_ref.copy(&dev, f, t) == ST_OK, "%s", status_line());
    return f;
}

static void compare(const char *name, struct tensor got, struct tensor want, double tolerance)
{
    char what[128];

    snprintf(what, sizeof(what), "%s %s", level, name);
    check_near(what, in_f32(got).data, in_f32(want).data, tensor_count(want), tolerance);
}

#define IN(argument) recorded(name, argument)
/* Runs op, with the output as its first tensor, and compares it with CASE.want. */
#define OP(op, tolerance, ...)                                                                     \
    do {                                                                                           \
        const struct tensor want = IN("want"), out = fresh(want.dtype, want);                      \
        const status st = op(&dev, out, __VA_ARGS__);                                              \
        CHECK(st == ST_OK, "%s", status_line());                                                   \
        compare(name, out, want, tolerance);                                                       \
    } while (0)

#define F32 (levels_cuda ? 2e-6 : 2e-7) // sums of some dozen terms in another order
#define FLIPS 2e-3                      // bf16: a few values round to the neighbouring number

static void products(void)
{
    const struct {
        const char *name;
        enum act act;
        double tolerance;
    } gemms[] = {
        { "gemm", ACT_NONE, F32 },          { "gemm_gelu", ACT_GELU_TANH, F32 },
        { "gemm_gelu_erf", ACT_GELU, F32 }, { "gemm_silu", ACT_SILU, F32 },
        { "gemm_narrow", ACT_NONE, F32 },   { "gemm_bf16", ACT_GELU_TANH, FLIPS },
    };
    const char *name;

    for (size_t i = 0; i < COUNT(gemms); i++) {
        name = gemms[i].name;
        OP(op_gemm, gemms[i].tolerance, IN("a"), IN("w"), IN("bias"), gemms[i].act);
    }
    name = "conv3d";
    OP(op_conv3d, F32, IN("x"), none, IN("w"), IN("bias"), IN("residual"),
       (struct conv){ .stride_t = 1, .stride = 1, .left = 1, .right = 1 });
    name = "conv3d_down";
    OP(op_conv3d, F32, IN("x"), none, IN("w"), none, none,
       (struct conv){ .stride_t = 1, .stride = 2, .right = 1 });
    name = "conv3d_time";
    OP(op_conv3d, F32, IN("x"), none, IN("w"), none, none,
       (struct conv){ .stride_t = 2, .stride = 1 });
    name = "conv3d_twice";
    OP(op_conv3d, F32, IN("x"), none, IN("w"), IN("bias"), none,
       (struct conv){ .stride_t = 1, .stride = 1, .left = 1, .right = 1, .upsample2x = true });
}

static void norms(void)
{
    const float eps = 1e-6f;

    for (int half = 0; half < 2; half++) {
        const double tolerance = half ? FLIPS : F32;
        const char *name = half ? "norm_modulate_bf16" : "norm_modulate";
        OP(op_norm_modulate, tolerance, IN("x"), IN("scale"), IN("shift"), eps);
        name = half ? "layer_norm_bf16" : "layer_norm";
        OP(op_layer_norm, F32, IN("x"), IN("w"), IN("b"), eps);
        name = half ? "rms_norm_bf16" : "rms_norm";
        OP(op_rms_norm, tolerance, IN("x"), IN("w"), eps);
    }

    const char *name = "qk_norm_rope";
    const struct token_grid grid = { 2, 3, 4, 5 };
    const struct tensor q = IN("q"), k = IN("k");

    const int64_t d = 2 * IN("table").dim[1];

    CHECK(op_norm_rope(&dev, tensor_split(q, 1, d), q, IN("wq"), eps, IN("table"), grid) == ST_OK &&
              op_norm_rope(&dev, tensor_split(k, 1, d), k, IN("wk"), eps, IN("table"), grid) ==
                  ST_OK,
          "%s", status_line());
    compare("qk_norm_rope q", q, IN("want_q"), F32);
    compare("qk_norm_rope k", k, IN("want_k"), F32);
}

static void attentions(void)
{
    const char *name = "attention";
    const struct tensor want = IN("want"), want_lse = IN("want_lse");
    const struct tensor out = fresh(DT_F32, want), out_lse = fresh(DT_F32, want_lse);

    CHECK(op_attention(&dev, out, out_lse, IN("q"), IN("k"), IN("v"), 0.7f) == ST_OK, "%s",
          status_line());
    compare(name, out, want, 2 * F32);
    compare("attention's lse", out_lse, want_lse, F32);

    name = "attention_merge";
    const struct tensor acc = IN("acc"), lse = IN("lse");

    CHECK(op_attention_merge(&dev, acc, lse, IN("part"), IN("part_lse")) == ST_OK, "%s",
          status_line());
    compare(name, acc, want, 2 * F32);
    compare("attention_merge's lse", lse, want_lse, F32);

    name = "relative_attention";
    OP(op_relative_attention, 1e-6, IN("q"), IN("k"), IN("v"), IN("table"));
    name = "relative_attention_bf16";
    OP(op_relative_attention, FLIPS, IN("q"), IN("k"), IN("v"), IN("table"));
}

static void elementwise(void)
{
    const char *name = "gate_add";

    OP(op_gate_add, F32, IN("x"), IN("y"), IN("gate"));
    name = "gate_add_plain";
    OP(op_gate_add, F32, IN("x"), IN("y"), none);
    name = "add_rows";
    OP(op_add_rows, 0, IN("a"), IN("b"));
    name = "silu";
    OP(op_silu, F32, IN("x"));
    name = "gated_gelu";
    OP(op_gated_gelu, F32, IN("gate"), IN("up"));
    name = "gated_gelu_bf16";
    OP(op_gated_gelu, FLIPS, IN("gate"), IN("up"));
    name = "lincomb";
    OP(op_lincomb, F32, 3, ((float[]){ 0.5f, 0, -2 }),
       ((struct tensor[]){ IN("x0"), IN("x1"), IN("x2") }));
    name = "copy";
    OP(op_copy, 0, tensor_permute(IN("x"), (int[]){ 3, 1, 0, 2 }));
    name = "channel_norm";
    OP(op_channel_norm, F32, IN("x"), IN("gamma"), ACT_NONE, 0);
    name = "channel_norm_silu";
    OP(op_channel_norm, F32, IN("x"), IN("gamma"), ACT_SILU, 0);
    name = "channel_affine";
    OP(op_channel_affine, F32, IN("x"), IN("scale"), IN("shift"));

    name = "to_u8";
    for (int rounded = 0; rounded < 2; rounded++) {
        const struct tensor want = IN(rounded ? "rounded" : "want"), out = fresh(DT_U8, want);

        CHECK(op_to_u8(&dev, out, IN("x"), rounded ? 0.5f : 0) == ST_OK, "%s", status_line());
        CHECK(device_wait(&dev) == ST_OK, "%s", status_line());
        CHECK(memcmp(out.data, want.data, tensor_bytes(want)) == 0, "%s to_u8 differs", level);
    }
}

int main(int argc, char **argv)
{
    struct table tables[LEVELS];

    levels_open(tables, &argc, argv);
    if (argc < 2)
        return 2;
    golden = golden_open(argv[1], "ops.safetensors");
    for (size_t i = 0; i < COUNT(tables); i++) {
        level = tables[i].name;
        golden_need(levels_device(&dev, 0, &tables[i]));
        products();
        norms();
        attentions();
        elementwise();
        while (count > 0)
            device_host_free(&dev, made[--count].data);
        device_close(&dev);
    }
    golden_close(&golden);
    return check_end("ops");
}
