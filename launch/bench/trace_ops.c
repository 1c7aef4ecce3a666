/* The ops of a table that records them. */
#include "launch/bench/trace_internal.h"

static double bytes_of(struct tensor t)
{
    return t.ndim > 0 ? (double)tensor_bytes(t) : 0;
}

/* One traced op: `family`, the real call, bytes read and written. `note` may use `span`. */
#define TRACED(family, call, moved, note)                                                          \
    do {                                                                                           \
        struct trace *t = trace_of(dev);                                                           \
        struct trace_span *span;                                                                   \
                                                                                                   \
        TRY(trace_begin(t, &span, LANE_OPS, family));                                              \
        TRY(t->real->call);                                                                        \
        if (span != NULL) {                                                                        \
            span->bytes = (moved);                                                                 \
            note;                                                                                  \
        }                                                                                          \
        return trace_end(t, span);                                                                 \
    } while (0)

static void note_gemm(struct trace_span *s, struct tensor a, struct tensor w, enum act act)
{
    static const char *const acts[] = { "", " gelu", " silu" };

    snprintf(s->what, sizeof(s->what), "%lld x %lld x %lld%s%s", (long long)a.dim[0],
             (long long)w.dim[0], (long long)w.dim[1], acts[act], a.dtype == DT_F32 ? " f32" : "");
    s->flops = 2.0 * (double)a.dim[0] * (double)w.dim[0] * (double)w.dim[1];
}

static void note_attention(struct trace_span *s, struct tensor q, struct tensor k)
{
    snprintf(s->what, sizeof(s->what), "%lld x %lld, %lld heads of %lld", (long long)q.dim[0],
             (long long)k.dim[0], (long long)q.dim[1], (long long)q.dim[2]);
    s->flops = 4.0 * (double)tensor_count(q) * (double)k.dim[0];
}

static void note_sparse_attention(struct trace_span *s, struct tensor q, struct tensor k,
                                  const struct tile_lists *lists)
{
    snprintf(s->what, sizeof(s->what), "%lld x %.0f of %lld, %lld heads of %lld",
             (long long)q.dim[0], lists->keys, (long long)k.dim[0], (long long)q.dim[1],
             (long long)q.dim[2]);
    s->flops = 4.0 * (double)tensor_count(q) * lists->keys;
}

static void note_conv(struct trace_span *s, struct tensor out, struct tensor x, struct tensor w)
{
    snprintf(s->what, sizeof(s->what), "%lldx%lldx%lld %lld to %lld, %lldx%lldx%lld",
             (long long)out.dim[0], (long long)out.dim[1], (long long)out.dim[2],
             (long long)w.dim[4], (long long)w.dim[0], (long long)w.dim[1], (long long)w.dim[2],
             (long long)w.dim[3]);
    s->flops = 2.0 * (double)tensor_count(out) * (double)(tensor_count(w) / w.dim[0]);
}

static status traced_gemm(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                          struct tensor bias, enum act act)
{
    TRACED("gemm", gemm(dev, out, a, w, bias, act), bytes_of(out) + bytes_of(a) + bytes_of(w),
           note_gemm(span, a, w, act));
}

static status traced_gemm_add(struct device *dev, struct tensor sum, struct tensor a,
                              struct tensor w, struct tensor bias)
{
    TRACED("gemm, add", gemm_add(dev, sum, a, w, bias),
           2 * bytes_of(sum) + bytes_of(a) + bytes_of(w), note_gemm(span, a, w, ACT_NONE));
}

static status traced_fp8_quantize(struct device *dev, struct fp8_rows out, struct tensor x,
                                  enum act act)
{
    TRACED("quantize", fp8_quantize(dev, out, x, act), bytes_of(out.value) + bytes_of(x), );
}

static status traced_fp8_norm(struct device *dev, struct fp8_rows out, struct tensor sum,
                              struct tensor x, struct tensor y, struct tensor gate,
                              struct tensor mul, struct tensor add, bool modulate, float eps)
{
    TRACED("norm, quantize", fp8_norm(dev, out, sum, x, y, gate, mul, add, modulate, eps),
           bytes_of(out.value) + bytes_of(sum) + bytes_of(x) + bytes_of(y), );
}

static status traced_fp8_gemm(struct device *dev, struct tensor out, struct fp8_rows a,
                              struct fp8_rows w, struct tensor bias)
{
    TRACED("gemm, fp8", fp8_gemm(dev, out, a, w, bias),
           bytes_of(out) + bytes_of(a.value) + bytes_of(w.value),
           note_gemm(span, a.value, w.value, ACT_NONE));
}

static status traced_norm_modulate(struct device *dev, struct tensor out, struct tensor x,
                                   struct tensor scale, struct tensor shift, float eps)
{
    TRACED("norm, modulate", norm_modulate(dev, out, x, scale, shift, eps),
           bytes_of(out) + bytes_of(x), );
}

static status traced_layer_norm(struct device *dev, struct tensor out, struct tensor x,
                                struct tensor w, struct tensor b, float eps)
{
    TRACED("layer norm", layer_norm(dev, out, x, w, b, eps), bytes_of(out) + bytes_of(x), );
}

static status traced_add_norm_modulate(struct device *dev, struct tensor out, struct tensor sum,
                                       struct tensor x, struct tensor y, struct tensor gate,
                                       struct tensor scale, struct tensor shift, float eps)
{
    TRACED("add, norm, modulate", add_norm_modulate(dev, out, sum, x, y, gate, scale, shift, eps),
           bytes_of(out) + bytes_of(sum) + bytes_of(x) + bytes_of(y), );
}

static status traced_add_layer_norm(struct device *dev, struct tensor out, struct tensor sum,
                                    struct tensor x, struct tensor y, struct tensor gate,
                                    struct tensor w, struct tensor b, float eps)
{
    TRACED("add, layer norm", add_layer_norm(dev, out, sum, x, y, gate, w, b, eps),
           bytes_of(out) + bytes_of(sum) + bytes_of(x) + bytes_of(y), );
}

static status traced_rms_norm(struct device *dev, struct tensor out, struct tensor x,
                              struct tensor w, float eps)
{
    TRACED("rms norm", rms_norm(dev, out, x, w, eps), bytes_of(out) + bytes_of(x), );
}

static status traced_norm_rope(struct device *dev, struct tensor out, struct tensor x,
                               struct tensor w, float eps, struct tensor table,
                               struct token_grid grid)
{
    TRACED("norm, rope", norm_rope(dev, out, x, w, eps, table, grid), 2 * bytes_of(x), );
}

static status traced_attention(struct device *dev, struct tensor out, struct tensor lse,
                               struct tensor q, struct tensor k, struct tensor v, float scale)
{
    const bool cross = k.dim[0] == trace_of(dev)->text_len;

    TRACED(cross ? "cross attention" : "self attention", attention(dev, out, lse, q, k, v, scale),
           bytes_of(out) + bytes_of(q) + bytes_of(k) + bytes_of(v), note_attention(span, q, k));
}

static status traced_attention_repeated(struct device *dev, struct tensor out, struct tensor q,
                                        struct tensor k, struct tensor v, float scale,
                                        int64_t equal)
{
    TRACED("cross attention", attention_repeated(dev, out, q, k, v, scale, equal),
           bytes_of(out) + bytes_of(q) + bytes_of(k) + bytes_of(v), note_attention(span, q, k));
}

static status traced_attention_parts(struct device *dev, const struct attention_part *part,
                                     int parts, const struct arrival *keys, int messages,
                                     struct tensor q, struct tensor k, struct tensor v, float scale)
{
    TRACED("self attention", attention_parts(dev, part, parts, keys, messages, q, k, v, scale),
           2 * bytes_of(q) + bytes_of(k) + bytes_of(v), note_attention(span, q, k));
}

static status traced_attention8(struct device *dev, const struct attention_part *part, int parts,
                                struct tensor lse, struct tensor q, struct tensor k,
                                struct tensor v, float scale, struct tensor scratch)
{
    TRACED("self attention, 8-bit", attention8(dev, part, parts, lse, q, k, v, scale, scratch),
           2 * bytes_of(q) + bytes_of(k) + bytes_of(v), note_attention(span, q, k));
}

static status traced_sparse_attention(struct device *dev, struct tensor out, struct tensor lse,
                                      struct tensor q, struct tensor k, struct tensor v,
                                      float scale, const struct tile_lists *lists)
{
    TRACED("self attention, sparse", sparse_attention(dev, out, lse, q, k, v, scale, lists),
           2 * bytes_of(q) + bytes_of(k) + bytes_of(v), note_sparse_attention(span, q, k, lists));
}

static status traced_tile_means(struct device *dev, struct tensor out, struct tensor x,
                                struct tensor first)
{
    TRACED("lists of tiles", tile_means(dev, out, x, first), bytes_of(out) + bytes_of(x), );
}

static status traced_tile_lists(struct device *dev, struct tensor count, struct tensor index,
                                struct tensor q, struct tensor k)
{
    TRACED("lists of tiles", tile_lists(dev, count, index, q, k), bytes_of(index), );
}

static status traced_linear_attention(struct device *dev, struct tensor sum, struct tensor q,
                                      struct tensor k, struct tensor v, struct tensor w,
                                      struct tensor b, struct tensor scratch)
{
    TRACED("linear attention", linear_attention(dev, sum, q, k, v, w, b, scratch),
           2 * bytes_of(sum) + bytes_of(q) + bytes_of(k) + bytes_of(v), );
}

static status traced_take_rows(struct device *dev, struct tensor out, struct tensor x,
                               struct tensor index)
{
    TRACED("order of tiles", take_rows(dev, out, x, index), 2 * bytes_of(out), );
}

static status traced_add_gated_rows(struct device *dev, struct tensor sum, struct tensor rows,
                                    struct tensor index, struct tensor gate)
{
    TRACED("gate of tiles", add_gated_rows(dev, sum, rows, index, gate),
           2 * bytes_of(sum) + bytes_of(gate), );
}

static status traced_attention_merge(struct device *dev, struct tensor acc, struct tensor lse,
                                     struct tensor part, struct tensor part_lse)
{
    TRACED("attention merge", attention_merge(dev, acc, lse, part, part_lse),
           2 * bytes_of(acc) + bytes_of(part), );
}

static status traced_relative_attention(struct device *dev, struct tensor out, struct tensor q,
                                        struct tensor k, struct tensor v, struct tensor table)
{
    TRACED("text attention", relative_attention(dev, out, q, k, v, table),
           bytes_of(out) + bytes_of(q) + bytes_of(k) + bytes_of(v), note_attention(span, q, k));
}

static status traced_gate_add(struct device *dev, struct tensor out, struct tensor x,
                              struct tensor y, struct tensor gate)
{
    TRACED("gate, add", gate_add(dev, out, x, y, gate),
           bytes_of(out) + bytes_of(x) + bytes_of(y), );
}

static status traced_add_rows(struct device *dev, struct tensor out, struct tensor a,
                              struct tensor b)
{
    TRACED("add rows", add_rows(dev, out, a, b), bytes_of(out) + bytes_of(a), );
}

static status traced_silu(struct device *dev, struct tensor out, struct tensor x)
{
    TRACED("silu", silu(dev, out, x), bytes_of(out) + bytes_of(x), );
}

static status traced_gelu(struct device *dev, struct tensor out, struct tensor x)
{
    TRACED("gelu", gelu(dev, out, x), bytes_of(out) + bytes_of(x), );
}

static status traced_gated_gelu(struct device *dev, struct tensor out, struct tensor gate,
                                struct tensor up)
{
    TRACED("gated gelu", gated_gelu(dev, out, gate, up),
           bytes_of(out) + bytes_of(gate) + bytes_of(up), );
}

static status traced_lincomb(struct device *dev, struct tensor out, int count, const float *coef,
                             const struct tensor *x)
{
    TRACED("solver", lincomb(dev, out, count, coef, x), (count + 1) * bytes_of(out), );
}

static status traced_row_dots(struct device *dev, struct tensor dots, struct tensor a,
                              struct tensor b)
{
    TRACED("guidance", row_dots(dev, dots, a, b), bytes_of(a) + bytes_of(b), );
}

static status traced_subtract_projection(struct device *dev, struct tensor out, struct tensor c,
                                         struct tensor u, struct tensor dots)
{
    TRACED("guidance", subtract_projection(dev, out, c, u, dots), 3 * bytes_of(out), );
}

static status traced_copy(struct device *dev, struct tensor out, struct tensor x)
{
    TRACED("copy", copy(dev, out, x), bytes_of(out) + bytes_of(x), );
}

static status traced_conv3d(struct device *dev, struct tensor out, struct tensor x,
                            struct tensor past, struct tensor w, struct tensor bias,
                            struct tensor residual, struct conv conv)
{
    TRACED("conv", conv3d(dev, out, x, past, w, bias, residual, conv),
           bytes_of(out) + bytes_of(x) + bytes_of(past) + bytes_of(w) + bytes_of(residual),
           note_conv(span, out, x, w));
}

static status traced_channel_norm(struct device *dev, struct tensor out, struct tensor x,
                                  struct tensor gamma, enum act act, int exponent)
{
    TRACED("channel norm", channel_norm(dev, out, x, gamma, act, exponent),
           bytes_of(out) + bytes_of(x), );
}

static status traced_channel_affine(struct device *dev, struct tensor out, struct tensor x,
                                    struct tensor scale, struct tensor shift)
{
    TRACED("channel affine", channel_affine(dev, out, x, scale, shift),
           bytes_of(out) + bytes_of(x), );
}

static status traced_average_down(struct device *dev, struct tensor out, struct tensor x,
                                  int frames)
{
    TRACED("average down", average_down(dev, out, x, frames), bytes_of(out) + bytes_of(x), );
}

static status traced_repeat_up(struct device *dev, struct tensor out, struct tensor x,
                               struct tensor y, int frames)
{
    TRACED("repeat up", repeat_up(dev, out, x, y, frames),
           bytes_of(out) + bytes_of(x) + bytes_of(y), );
}

static status traced_to_u8(struct device *dev, struct tensor out, struct tensor x, float add)
{
    TRACED("pixels", to_u8(dev, out, x, add), bytes_of(out) + bytes_of(x), );
}

static status traced_find_nonfinite(struct device *dev, struct tensor mark, struct tensor x,
                                    float value)
{
    TRACED("check", find_nonfinite(dev, mark, x, value), bytes_of(x), );
}

static status traced_expand(struct device *dev, struct tensor out, const struct stored_form *form,
                            const void *stored, int64_t first)
{
    const double share = (double)tensor_count(out) / (double)form->count;

    TRACED("expand", expand(dev, out, form, stored, first),
           bytes_of(out) + share * (double)stored_bytes(form), );
}

static status traced_row_sums(struct device *dev, struct tensor out, struct tensor a,
                              struct tensor b)
{
    TRACED("row sums", row_sums(dev, out, a, b), bytes_of(a) + bytes_of(b), );
}

/* Ops not listed here are called directly and not recorded. */
void trace_ops(struct table *t)
{
    t->gemm = traced_gemm;
    t->gemm_add = traced_gemm_add;
    t->expand = traced_expand;
    t->fp8_quantize = traced_fp8_quantize;
    t->fp8_norm = traced_fp8_norm;
    t->fp8_gemm = traced_fp8_gemm;
    t->norm_modulate = traced_norm_modulate;
    t->layer_norm = traced_layer_norm;
    t->add_norm_modulate = traced_add_norm_modulate;
    t->add_layer_norm = traced_add_layer_norm;
    t->rms_norm = traced_rms_norm;
    t->norm_rope = traced_norm_rope;
    t->attention = traced_attention;
    t->attention_repeated = traced_attention_repeated;
    t->attention_parts = traced_attention_parts;
    t->attention8 = traced_attention8;
    t->sparse_attention = traced_sparse_attention;
    t->tile_means = traced_tile_means;
    t->tile_lists = traced_tile_lists;
    t->linear_attention = traced_linear_attention;
    t->take_rows = traced_take_rows;
    t->add_gated_rows = traced_add_gated_rows;
    t->attention_merge = traced_attention_merge;
    t->relative_attention = traced_relative_attention;
    t->gate_add = traced_gate_add;
    t->add_rows = traced_add_rows;
    t->silu = traced_silu;
    t->gelu = traced_gelu;
    t->gated_gelu = traced_gated_gelu;
    t->lincomb = traced_lincomb;
    t->row_dots = traced_row_dots;
    t->subtract_projection = traced_subtract_projection;
    t->copy = traced_copy;
    t->conv3d = traced_conv3d;
    t->channel_norm = traced_channel_norm;
    t->channel_affine = traced_channel_affine;
    t->average_down = traced_average_down;
    t->repeat_up = traced_repeat_up;
    t->to_u8 = traced_to_u8;
    t->find_nonfinite = traced_find_nonfinite;
    t->row_sums = traced_row_sums;
}
