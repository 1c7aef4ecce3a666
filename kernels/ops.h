/* ops.h - what one device computes. Each op is specified here, once, for all backends.
 *
 * An op checks shapes and dtypes, counts its FLOPs and calls the device's table (kernels/table.h).
 * Wrong shapes from our own code are asserts; a status is a fault of memory or device. Ops are
 * queued on the device in order; they allocate nothing and use only the device's fixed workspace.
 *
 * Words used below:
 *   cdt          the compute dtype of a run, F32 or BF16. A formula is evaluated in f32 (f64 in the
 *                reference) from the given inputs, and rounded once to the output's dtype, except
 *                where "rounded" stands in the formula: there PyTorch rounds an intermediate value.
 *   rows may be strided: the last axis is dense, the outer ones have any stride (a view of a wider
 *                matrix, the inside of a padded frame). Elsewhere tensors are contiguous.
 *   none         a zeroed tensor.
 * Outputs may not overlap inputs unless said. Source of the transformer's rounding points: Wan2.1
 * wan/modules/model.py under autocast(bf16); of the text encoder's: wan/modules/t5.py. */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include "runtime/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- matrix products ---- */

enum act { ACT_NONE, ACT_GELU_TANH, ACT_SILU };

/* out[M,N] = act(rounded(a[M,K] w[N,K]^T + bias[N])), rounded to out's dtype before and after act.
 *   a     f32 or bf16, rows may be strided
 *   w     a's dtype, or bf16 under an f32 a (weights kept narrow, products in f32); contiguous
 *   bias  w's dtype or f32, or none
 *   out   f32 or bf16, rows may be strided
 * The rounding before a GELU may be left out, which is nearer to the exact value. Sums in f32.
 * Every row of out is computed in an order that depends on K and N alone, not on M. */
status op_gemm(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
               struct tensor bias, enum act act);

/* sum += a w^T + bias, with nothing rounded on the way. sum f32 [M,N], rows may be strided; the
 * rest as for op_gemm. */
status op_gemm_add(struct device *dev, struct tensor sum, struct tensor a, struct tensor w,
                   struct tensor bias);

/* ---- norms: x [S,C], out [S,C], f32 or bf16 each, rows may be strided ---- */

/* out = rounded(LN(x)) * (1 + scale) + shift, with LN over C without weights and "rounded" to x's
 * dtype. scale, shift: f32 [C]. out may be x when the dtypes agree. */
status op_norm_modulate(struct device *dev, struct tensor out, struct tensor x, struct tensor scale,
                        struct tensor shift, float eps);

/* out = LN(x) * w + b, with w, b f32 [C]. */
status op_layer_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                     struct tensor b, float eps);

/* sum = x + rounded(y) * gate, which is op_gate_add, then op_norm_modulate or op_layer_norm of it,
 * with one look at each row and the same bits as from the two. sum f32; gate f32 [C] or none for 1.
 * sum may be x. */
status op_add_norm_modulate(struct device *dev, struct tensor out, struct tensor sum,
                            struct tensor x, struct tensor y, struct tensor gate,
                            struct tensor scale, struct tensor shift, float eps);
status op_add_layer_norm(struct device *dev, struct tensor out, struct tensor sum, struct tensor x,
                         struct tensor y, struct tensor gate, struct tensor w, struct tensor b,
                         float eps);

/* out = rounded(x * rsqrt(mean(x^2) + eps)) * w, "rounded" to x's dtype. w: f32 or bf16 [C].
 * out may be x. */
status op_rms_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                   float eps);

/* The token grid, row-major in (f, h, w), and which of its tokens the rows at hand are. */
struct token_grid {
    int64_t f, h, w;
    int64_t first; // row 0 is this token
};

/* In place: op_rms_norm over all of C with w f32 [C], not rounded after the weight, then the rotary
 * embedding of each head, then rounded.
 *   x      [S, C], rows may be strided, C = heads * D
 *   table  f32 [G, D/2, 2]: (cos, sin) of pair i at position g; pair i belongs to the frame axis
 * for i < D/2 - 2*(D/2/3), then D/2/3 pairs each to rows and columns; G covers every axis. Elements
 * (2i, 2i+1) of a head are rotated as one complex number. */
status op_norm_rope(struct device *dev, struct tensor x, struct tensor w, float eps,
                    struct tensor table, struct token_grid grid);

/* ---- attention ---- */

/* out = softmax(scale * q k^T) v for each head.
 *   q    [Sq, N, D], k, v [Sk, N, D], out [Sq, N, D]: one dtype; the outer two axes may be strided
 *   lse  none, or f32 [Sq, N]: the natural log of the sum of exp(scale * q k^T)
 * out may be q. Sk >= 1; Sq may be 0. Softmax in f32. A row's result depends on its own q, and on k
 * and v in their order, not on Sq. */
status op_attention(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                    struct tensor k, struct tensor v, float scale);

/* Joins attention over two sets of keys: (acc, lse) over one, (part, part_lse) over the other.
 *   acc   [S, N, D] f32 and lse [S, N] f32, contiguous, in place
 *   part  [S, N, D] f32 or bf16, rows may be strided; part_lse [S, N] f32, contiguous
 * acc = acc * e^(lse - l) + part * e^(part_lse - l), lse = l = log(e^lse + e^part_lse). An lse of
 * -inf is that of no keys; what it belongs to is not read. */
status op_attention_merge(struct device *dev, struct tensor acc, struct tensor lse,
                          struct tensor part, struct tensor part_lse);

/* umT5's attention: no scale; logits = rounded(rounded(q k^T) + bias), softmax in f32 then rounded,
 * times v; rounded to q's dtype. bias[n][query][key] = table[bucket(key - query)][n], the buckets
 * of wan-text-vision: 32, bidirectional, distances up to 128. q, k, v, out [S, N, D] one dtype,
 * rows may be strided; table [32, N] same dtype or f32 */
status op_relative_attention(struct device *dev, struct tensor out, struct tensor q,
                             struct tensor k, struct tensor v, struct tensor table);

/* ---- element by element ---- */

/* out = x + rounded(y) * gate, gate f32 [C] or none for 1. x, y, out [S, C], f32 or bf16 each, rows
 * may be strided; out may be x. */
status op_gate_add(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                   struct tensor gate);

/* out[i] = a[i] + b for each row; f32; a, out [R, C], b [C]. */
status op_add_rows(struct device *dev, struct tensor out, struct tensor a, struct tensor b);

/* out = x / (1 + e^-x); one shape; f32 or bf16 each; contiguous. out may be x. */
status op_silu(struct device *dev, struct tensor out, struct tensor x);

/* umT5's gated product: out = up * g(gate), g the tanh GELU as separate steps, each rounded to the
 * dtype: s = x x, p = s x, a = 0.044715 p, b = x + a, c = sqrt(2/pi) b, d = tanh c, e = 1 + d, f =
 * 0.5 x, g = f e. One dtype, one shape; contiguous. out may be gate or up. */
status op_gated_gelu(struct device *dev, struct tensor out, struct tensor gate, struct tensor up);

/* out = sum over i < count of coef[i] * x[i], f32, one shape, contiguous, 1 <= count <= 6. Terms
 * are added in order; a term with coef 0 is not read. out may be any of x. */
#define LINCOMB_TERMS 6
status op_lincomb(struct device *dev, struct tensor out, int count, const float *coef,
                  const struct tensor *x);

/* out = x, converted where the dtypes differ (f32, bf16). Same dims, up to five axes, any strides:
 * packs, unpacks and permutes. */
status op_copy(struct device *dev, struct tensor out, struct tensor x);

/* ---- the VAE: frames are [T, H, W, C], channels innermost and dense, outer axes any stride ----
 */

struct conv {
    int stride_t;    // along T
    int stride;      // along H and W
    int front;       // frames before x's first: those of `past`, else zeros; less than kt
    int top, bottom; // zero rows beside x's, less than kh
    int left, right; // zero columns, less than kw
    bool twice;      // pixels count twice along H and W, as if upsampled before
};

/* out = conv(x, w) + bias + residual. With what is around it x is [front + T, top + H + bottom,
 * left + W + right], and along each of these out has (in - k) / stride + 1.
 *   x         [T, H, W, Cin]
 *   past      [front, H, W, Cin], x's dtype, or none
 *   w         [Cout, kt, kh, kw, Cin], contiguous, x's dtype
 *   bias      f32 [Cout] or none
 *   residual  out's shape and dtype, or none; may be out
 *   twice     for 3x3 windows with stride 1 and a column of zeros each side: pixel (y, x) of the
 *             picture stands at (2y, 2x) and the three beside it; the first and last of the top + H
 *             + bottom rows are those beyond the picture, so that out has 2 (top + H + bottom - 2)
 *             rows and 2 W columns
 *
 * out is f32 or bf16. Sums in f32; a GPU takes an f32 factor as the sum of two bf16, 2^-17 off.
 * A pixel's result does not depend on T, H, W. */
status op_conv3d(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                 struct tensor w, struct tensor bias, struct tensor residual, struct conv conv);

/* out = act(x / max(|x|_2, 1e-12) * sqrt(C) * gamma), the norm over the C channels of a pixel;
 * gamma f32 [C]; act ACT_NONE or ACT_SILU. out may be x. */
status op_channel_norm(struct device *dev, struct tensor out, struct tensor x, struct tensor gamma,
                       enum act act);

/* out = x * scale + shift, by channel; f32 [C] each; x, out [..., C] f32 or bf16, rows strided. */
status op_channel_affine(struct device *dev, struct tensor out, struct tensor x,
                         struct tensor scale, struct tensor shift);

/* Pixels for a file: out u8 = trunc((clamp(x, -1, 1) + 1) / 2 * 255), one shape [T, H, W, C]. */
status op_to_u8(struct device *dev, struct tensor out, struct tensor x);

#ifdef __cplusplus
}
#endif
#endif
