/* ops.h - what one device computes. Each op is specified here, once, for all backends.
 *
 * An op checks shapes and dtypes, counts its FLOPs and calls the device's table (kernels/table.h).
 * A wrong shape from our own code is an assert; the status reports errors of memory or device. Ops
 * are queued on the device in order. They allocate nothing and use only the device's workspace.
 *
 * Terms used below:
 *   rounded(v)   v rounded to the named dtype where PyTorch rounds an intermediate result.
 * Otherwise a formula is evaluated in f32 (f64 in the reference) and rounded once, to the dtype of
 * the output.
 *   strided      the last axis is dense, the outer axes have any stride (a view of a wider matrix,
 *                the interior of a padded frame). Where this is not said, tensors are contiguous.
 *   none         a zeroed struct tensor: the argument is left out.
 *
 * Each op's signature is declared once, as a function type (gemm_fn). The op itself (op_gemm), the
 * table's entries and every backend's variants (ref_gemm, plain_gemm) are declared through it.
 *
 * Outputs must not overlap inputs, except where "out may be x" is said. Source of the points where
 * values are rounded: Wan2.1 wan/modules/model.py under autocast(bf16) for the transformer,
 * wan/modules/t5.py for the text encoder. */
#ifndef KERNELS_OPS_H
#define KERNELS_OPS_H

#include "kernels/merge.h"
#include "runtime/device.h"
#include "runtime/stored.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- matrix products ---- */

/* ACT_GELU: x Phi(x), with erf; ACT_GELU_TANH: its approximation with tanh. ACT_RELU: max(x, 0),
 * NaN for NaN. */
enum act { ACT_NONE, ACT_GELU, ACT_GELU_TANH, ACT_SILU, ACT_RELU };

/* out[M,N] = act(rounded(a[M,K] w[N,K]^T + bias[N])), rounded to out's dtype before and after act.
 *   a     f32 or bf16, rows may be strided
 *   w     a's dtype, or bf16 with an f32 a (each weight is converted, products are f32); contiguous
 *   bias  w's dtype or f32, or none
 *   out   f32 or bf16, rows may be strided
 * A backend may leave out the rounding before a GELU, which is more exact. Sums in f32. The order
 * in which a row of out is summed depends on K and N alone, not on M. */
typedef status gemm_fn(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                       struct tensor bias, enum act act);
gemm_fn op_gemm;

/* sum += a w^T + bias, without intermediate rounding. sum f32 [M,N], rows may be strided; a, w and
 * bias as for op_gemm. */
typedef status gemm_add_fn(struct device *dev, struct tensor sum, struct tensor a, struct tensor w,
                           struct tensor bias);
gemm_add_fn op_gemm_add;

/* out = x + a product of two narrow matrices, of which the elements from `first` on are used: a
 * LoRA that is merged into a part of a weight. out, x  [n], f32 or bf16 each, contiguous; out may
 * be x up      f32 [R, K], down f32 [K, C], contiguous: element i is that of row (first + i) / C
 * and column (first + i) % C of the product; 0 <= first < C, first + n <= R C merge_product
 * (kernels/merge.h) says in which order and with which roundings it is summed: all backends give
 * the same bits. Rounded once, to out's dtype. */
typedef status add_product_fn(struct device *dev, struct tensor out, struct tensor x, int64_t first,
                              struct tensor up, struct tensor down);
add_product_fn op_add_product;

/* out = x + strength * C, for elements from `first` on of a matrix of `cols` columns, whose change
 * is described by struct weight_change (kernels/merge.h), with factors in the device's memory;
 * 0 <= first < cols. out, x [n], f32 or bf16 each, contiguous; out may be x. Rounded once, to out's
 * dtype: all backends give the same bits. */
typedef status add_change_fn(struct device *dev, struct tensor out, struct tensor x, int64_t first,
                             int64_t cols, const struct weight_change *change);
add_change_fn op_add_change;

/* sums = the sums of squares of x's rows, or per_column of its columns; with `add`, of the columns
 * of rows before x too. x [R, C], f32 or bf16, contiguous; sums f64 [R] or [C]. In the order of
 * merge_squares: all backends give the same bits. */
typedef status add_squares_fn(struct device *dev, struct tensor sums, struct tensor x,
                              bool per_column, bool add);
add_squares_fn op_add_squares;

/* out = values [first, first + n) of a quantized weight that is in the device's memory as in its
 * file: `stored` has the bytes of `form` (runtime/stored.h), aligned to 256. out [n], f32 or bf16,
 * contiguous; first is a multiple of STORED_PASS. Rounded once, to out's dtype: the bits of
 * stored_values on all backends (of a NaN, only that it is one). */
typedef status expand_fn(struct device *dev, struct tensor out, const struct stored_form *form,
                         const void *stored, int64_t first);
expand_fn op_expand;

/* ---- products in fp8 (runtime/fp8.h) ---- */

/* A matrix [R, C] of e4m3 with one scale per row: element (r, c) is value * scale[r]. */
struct fp8_rows {
    struct tensor value; // e4m3 [R, C], rows may be strided
    struct tensor scale; // f32 [R], contiguous
};

/* out = act(x), rounded to x's dtype and then quantized row by row. x [S, C], f32 or bf16, rows may
 * be strided; act ACT_NONE or ACT_GELU_TANH. */
typedef status fp8_quantize_fn(struct device *dev, struct fp8_rows out, struct tensor x,
                               enum act act);
fp8_quantize_fn op_fp8_quantize;

/* out = n(sum), quantized row by row from f32; sum = x + y * gate, as op_add_norm_modulate
 * (modulate) or op_add_layer_norm, with mul and add for scale and shift, or w and b. y none: sum
 * and gate are none too, and out = n(x), as op_norm_modulate or op_layer_norm. */
typedef status fp8_norm_fn(struct device *dev, struct fp8_rows out, struct tensor sum,
                           struct tensor x, struct tensor y, struct tensor gate, struct tensor mul,
                           struct tensor add, bool modulate, float eps);
fp8_norm_fn op_fp8_norm;

/* out[M,N] = rounded(a[M,K] w[N,K]^T + bias[N]), with the scales of a and w. w contiguous; bias
 * f32 or bf16, or none; out f32 or bf16, rows may be strided. Sums in f32 of exact products;
 * a tensor core may keep fewer bits of a partial sum. The order in which a row of out is summed
 * depends on K and N alone, not on M. */
typedef status fp8_gemm_fn(struct device *dev, struct tensor out, struct fp8_rows a,
                           struct fp8_rows w, struct tensor bias);
fp8_gemm_fn op_fp8_gemm;

/* ---- norms: x [S,C], out [S,C], f32 or bf16 each, rows may be strided ---- */

/* out = rounded(LN(x)) * (1 + scale) + shift; LN is the layer norm over C without weights, rounded
 * to x's dtype. scale, shift f32 [C]. out may be x when the dtypes agree. */
typedef status norm_modulate_fn(struct device *dev, struct tensor out, struct tensor x,
                                struct tensor scale, struct tensor shift, float eps);
norm_modulate_fn op_norm_modulate;

/* out = LN(x) * w + b, with w, b f32 [C]. */
typedef status layer_norm_fn(struct device *dev, struct tensor out, struct tensor x,
                             struct tensor w, struct tensor b, float eps);
layer_norm_fn op_layer_norm;

/* sum = x + y * gate (op_gate_add), then out = the norm of sum (op_norm_modulate, op_layer_norm),
 * in one pass, bitwise equal to the two separate ops. sum f32; gate f32 [C], or none for 1. sum may
 * be x. */
typedef status add_norm_modulate_fn(struct device *dev, struct tensor out, struct tensor sum,
                                    struct tensor x, struct tensor y, struct tensor gate,
                                    struct tensor scale, struct tensor shift, float eps);
add_norm_modulate_fn op_add_norm_modulate;
typedef status add_layer_norm_fn(struct device *dev, struct tensor out, struct tensor sum,
                                 struct tensor x, struct tensor y, struct tensor gate,
                                 struct tensor w, struct tensor b, float eps);
add_layer_norm_fn op_add_layer_norm;

/* out = rounded(x * rsqrt(mean(x^2) + eps)) * w, rounded to x's dtype. w f32 or bf16 [C]. out may
 * be x. */
typedef status rms_norm_fn(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                           float eps);
rms_norm_fn op_rms_norm;

/* The token grid of the whole video, row-major in (f, h, w), and which of its tokens a shard holds.
 */
struct token_grid {
    int64_t f, h, w;
    int64_t first; // row 0 is this token
};

/* out = op_rms_norm of x over all of C with w f32 [C], not rounded after the weight, then the
 * rotary position embedding of each head, then rounded to x's dtype. x      [S, C], rows may be
 * strided, C = N * D out    [S, N, D], x's dtype, the outer two axes may be strided; may be x table
 * f32 [G, D/2, 2]: (cos, sin) of pair i at position g, G >= each of f, h, w Elements (2i, 2i+1) of
 * a head are pair i, rotated as one complex number. With n = D/2/3, the first D/2 - 2n pairs take
 * the token's position along f, the next n along h, the last n along w.
 */
typedef status norm_rope_fn(struct device *dev, struct tensor out, struct tensor x, struct tensor w,
                            float eps, struct tensor table, struct token_grid grid);
norm_rope_fn op_norm_rope;

/* ---- attention ---- */

/* out = softmax(scale * q k^T) v for each head.
 *   q    [Sq, N, D], k, v [Sk, N, D], out [Sq, N, D]: one dtype; the outer two axes may be strided
 *   lse  none, or f32 [Sq, N]: the natural log of the sum of exp(scale * q k^T)
 * out may be q. Sk >= 1; Sq may be 0. Softmax in f32. A row of out depends, to the bit, only on its
 * own q and on k and v in their order, not on Sq. */
typedef status attention_fn(struct device *dev, struct tensor out, struct tensor lse,
                            struct tensor q, struct tensor k, struct tensor v, float scale);
attention_fn op_attention;

/* The same, without lse, if the last `equal` keys are equal, and their values: a GPU computes them
 * as one key with log(equal) added to its logit. 1 <= equal <= Sk. */
typedef status attention_repeated_fn(struct device *dev, struct tensor out, struct tensor q,
                                     struct tensor k, struct tensor v, float scale, int64_t equal);
attention_repeated_fn op_attention_repeated;

/* A message that another GPU writes into this one's memory, as a kernel can wait for it. */
struct arrival {
    const volatile uint32_t *flag; // device memory; NULL: it is there already
    uint32_t value;                // it has arrived when (int32_t)(*flag - value) >= 0
};

/* Rows of q and out that belong to one rank. */
struct attention_part {
    int64_t first, count;   // rows of q
    struct tensor out;      // [count, N, D], the outer two axes may be strided; on any GPU
    struct arrival arrival; // of head 0 of these rows of q; head n arrives with value + n
};

/* op_attention whose inputs arrive and whose output leaves while it is computed, head by head.
 *   part  out and q are in `parts` parts, which are adjacent and cover q in order
 *   keys  `messages` messages with head 0 of k; head n arrives with value + n
 * Arrivals only where attention_waits. */
#define ATTENTION_PARTS 16 // of each at most
typedef status attention_parts_fn(struct device *dev, const struct attention_part *part, int parts,
                                  const struct arrival *keys, int messages, struct tensor q,
                                  struct tensor k, struct tensor v, float scale);
attention_parts_fn op_attention_parts;

/* Whether op_attention_parts can wait for arrivals, for q of this dtype and D = `depth`. */
bool attention_waits(const struct device *dev, enum dtype dt, int64_t depth);

/* Attention in 8-bit integers: lossy. out, in parts, and lse as in op_attention and
 * op_attention_parts, without arrivals; out may be q. For each head:
 *
 *     q8 = round(127 q / a), a = max |q| of the row
 *     k8 = round(127 (k - mean) / a), a = the maximum over 32 keys: of each 128 keys those whose
 *          index modulo 8 is 2t or 2t + 1, for t = 0 to 3
 *     v8 = round(127 x / a), x = (v - mean) / c, c = max |v - mean| of the channel, a = max |x| of
 * a tile of ATTENTION8_KEYS keys p8 = round(255 * 2^(s - m)), s = the logits of q8 and k8 in powers
 * of two, m = their maximum in the tile, but not less than that of all tiles so far minus 30 out =
 * sum(p8 v8) / sum(p8), over the keys, with all scales, + mean of v
 *
 * Means are over the keys, of each channel, and rounded to bf16; that of k changes no weight. Sums
 * within a tile are exact, those of tiles are in f32. So a row depends, to the bit, only on its q,
 * and on all k and v of its head; in a ring of messages, where each chunk of keys is quantized for
 * itself, also on the chunks.
 *   scratch  bytes in device memory, for at least one head: as attention8_scratch says, or any part
 *            of that for fewer heads at a time
 * On GPUs bf16 and D = 128 only: ST_USAGE. */
#define ATTENTION8_KEYS 256
typedef status attention8_fn(struct device *dev, const struct attention_part *part, int parts,
                             struct tensor lse, struct tensor q, struct tensor k, struct tensor v,
                             float scale, struct tensor scratch);
attention8_fn op_attention8;

/* Bytes of scratch for op_attention8: for all heads, or for a fraction of them if that is large. */
size_t attention8_scratch(int64_t sq, int64_t sk, int64_t heads, int64_t depth);

/* ---- sparse attention: each tile of queries attends to the tiles of keys in its list ---- */

/* A tile is a range of adjacent rows, at least one; tiles cover all rows in order. The tensors are
 * i32, contiguous, in the device's memory. */
struct tile_lists {
    struct tensor q_first; // [Tq + 1]: tile i of queries is rows [q_first[i], q_first[i + 1]) of q
    struct tensor k_first; // [Tk + 1]: the same of k and v
    struct tensor count;   // [N, Tq]: tiles of keys in the list, 1 to M
    struct tensor index;   // [N, Tq, M]: the list, in increasing order; the rest is not read
    int q_rows, k_rows;    // most rows of a tile: 64 or 128 each
    double keys;           // of a query, on average: for the FLOPs and plan's time
};

/* out = softmax(scale * q k^T) v for each head, over the keys in the list of the query's tile. q,
 * k, v, out and lse as for op_attention; out may be q. Softmax in f32. A row of out depends, to the
 * bit, only on its own q, on k and v of its list in their order, and on the list of the tile beside
 * its own (2i and 2i + 1 are neighbours). */
typedef status sparse_attention_fn(struct device *dev, struct tensor out, struct tensor lse,
                                   struct tensor q, struct tensor k, struct tensor v, float scale,
                                   const struct tile_lists *lists);
sparse_attention_fn op_sparse_attention;

/* out[t] = the mean of rows [first[t], first[t + 1]) of x, of each head and channel, summed in f32.
 *   x      [S, N, D], f32 or bf16, the outer two axes may be strided
 *   out    [T, N, D], f32 or bf16, contiguous
 *   first  i32 [T + 1], contiguous */
typedef status tile_means_fn(struct device *dev, struct tensor out, struct tensor x,
                             struct tensor first);
tile_means_fn op_tile_means;

/* Lists the M tiles of keys of the largest q k^T, in increasing order of their index; of equal ones
 * the first. Products are summed in f32.
 *   count  i32 [N, Tq], set to M, and index, i32 [N, Tq, M], as in struct tile_lists
 *   q      [Tq, N, D], k [Tk, N, D], one dtype, contiguous: means of tiles; 1 <= M <= Tk */
typedef status tile_lists_fn(struct device *dev, struct tensor count, struct tensor index,
                             struct tensor q, struct tensor k);
tile_lists_fn op_tile_lists;

/* sum += w o + b of each row and head, o = phi(q) kv / (LINEAR_ATTENTION_EPS + phi(q) total), where
 * phi is the softmax over the channels of a head, kv the sum of phi(k) v^T over the keys, and total
 * that of phi(k). A GPU rounds phi, and kv times w^T, to bf16 in bf16.
 *   sum, q   [Sq, N, D], k, v [Sk, N, D]: one dtype; the outer two axes may be strided
 *   w, b     f32 [D, D], [D], contiguous
 *   scratch  bytes in device memory, at least linear_attention_scratch
 * A row depends, to the bit, only on its own q and sum and on k and v in their order. */
#define LINEAR_ATTENTION_EPS 1e-5f
#define LINEAR_ATTENTION_CHUNK 2048 // keys that a GPU sums at a time
typedef status linear_attention_fn(struct device *dev, struct tensor sum, struct tensor q,
                                   struct tensor k, struct tensor v, struct tensor w,
                                   struct tensor b, struct tensor scratch);
linear_attention_fn op_linear_attention;
size_t linear_attention_scratch(int64_t keys, int64_t heads, int64_t depth);

/* out[r] = x[index[r]]. x [R', N, D] and out [R, N, D] of one dtype, the outer two axes may be
 * strided; index i32 [R], contiguous. */
typedef status take_rows_fn(struct device *dev, struct tensor out, struct tensor x,
                            struct tensor index);
take_rows_fn op_take_rows;

/* sum[r] += rows[index[r]] * gate[r]. sum, gate [R, C], rows [R', C], f32 or bf16 each, rows may be
 * strided; index i32 [R], contiguous. */
typedef status add_gated_rows_fn(struct device *dev, struct tensor sum, struct tensor rows,
                                 struct tensor index, struct tensor gate);
add_gated_rows_fn op_add_gated_rows;

/* Merges attention over two sets of keys: (acc, lse) over one, (part, part_lse) over the other.
 *   acc   [S, N, D] f32 and lse [S, N] f32, contiguous, in place
 *   part  [S, N, D] f32 or bf16, rows may be strided; part_lse [S, N] f32, contiguous
 * acc = acc * e^(lse - l) + part * e^(part_lse - l), lse = l = log(e^lse + e^part_lse). An lse of
 * -inf means no keys; the values that belong to it are not read. */
typedef status attention_merge_fn(struct device *dev, struct tensor acc, struct tensor lse,
                                  struct tensor part, struct tensor part_lse);
attention_merge_fn op_attention_merge;

/* umT5's attention with relative position bias: out = rounded(softmax(logits)) v, with logits =
 * rounded(rounded(q k^T) + bias), not scaled, softmax in f32; rounded to q's dtype.
 *   q, k, v, out  [S, N, D] of one dtype; the outer two axes may be strided
 *   table         [32, N], q's dtype or f32
 * bias[n][query][key] = table[bucket(key - query)][n]: 32 buckets, bidirectional, distances up to
 * 128. Source: wan/modules/t5.py, T5RelativeEmbedding. */
typedef status relative_attention_fn(struct device *dev, struct tensor out, struct tensor q,
                                     struct tensor k, struct tensor v, struct tensor table);
relative_attention_fn op_relative_attention;

/* ---- elementwise ---- */

/* out = x + y * gate. gate f32 [C], or none for 1. x, y, out [S, C], f32 or bf16 each, rows may be
 * strided; out may be x. */
typedef status gate_add_fn(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                           struct tensor gate);
gate_add_fn op_gate_add;

/* out[r] = a[r] + b for each row r. f32; a, out [R, C], rows may be strided; b [C]. */
typedef status add_rows_fn(struct device *dev, struct tensor out, struct tensor a, struct tensor b);
add_rows_fn op_add_rows;

/* out = x / (1 + e^-x). x, out: one shape, f32 or bf16 each, contiguous. out may be x. */
typedef status silu_fn(struct device *dev, struct tensor out, struct tensor x);
silu_fn op_silu;

/* out = x Phi(x), with erf. x, out as of op_silu. */
typedef status gelu_fn(struct device *dev, struct tensor out, struct tensor x);
gelu_fn op_gelu;

/* umT5's gated activation: out = up * g(gate), where g is the tanh GELU of x in steps that are each
 * rounded to the dtype: s = x x, p = s x, a = 0.044715 p, b = x + a, c = sqrt(2/pi) b, d = tanh c,
 * e = 1 + d, f = 0.5 x, g = f e. One dtype, one shape, contiguous. out may be gate or up. */
typedef status gated_gelu_fn(struct device *dev, struct tensor out, struct tensor gate,
                             struct tensor up);
gated_gelu_fn op_gated_gelu;

/* out = sum over i < count of coef[i] * x[i]. f32, one shape, contiguous, 1 <= count <= 6. Terms
 * are added in order; where coef[i] is 0, x[i] is not read. out may be any of x. */
#define LINCOMB_TERMS 6
typedef status lincomb_fn(struct device *dev, struct tensor out, int count, const float *coef,
                          const struct tensor *x);
lincomb_fn op_lincomb;

/* Of each row r: dots[r] = (<a_r, b_r>, <b_r, b_r>). a, b f32 [rows, C], dots f32 [rows, 2], all
 * contiguous. A row's result does not depend on the number of rows. */
typedef status row_dots_fn(struct device *dev, struct tensor dots, struct tensor a,
                           struct tensor b);
row_dots_fn op_row_dots;

/* out = c - s u, s = sum of dots[:, 0] / (sum of dots[:, 1] + 1e-8), summed in double. f32,
 * contiguous; out, c, u of one shape, dots [n, 2]. out may be c or u. */
typedef status subtract_projection_fn(struct device *dev, struct tensor out, struct tensor c,
                                      struct tensor u, struct tensor dots);
subtract_projection_fn op_subtract_projection;

/* out = x, converted where the dtypes differ (f32, bf16). Same dims, up to five axes, any strides;
 * so it packs, unpacks and permutes. */
typedef status copy_fn(struct device *dev, struct tensor out, struct tensor x);
copy_fn op_copy;

/* ---- the VAE: frames [T, H, W, C], channels innermost and dense, outer axes of any stride ---- */

struct conv {
    int stride_t;    // along T
    int stride;      // along H and W
    int front;       // frames before x's first: `past`, or zeros without it; less than kt
    int top, bottom; // rows of zeros before and after x's, each less than kh
    int left, right; // columns of zeros, each less than kw
    bool upsample2x; // x is first upsampled by 2 along H and W, nearest neighbour
    bool tf32;       // f32 factors may be rounded to the 10 bits of mantissa that TF32 has
    int exponent;    // x and past hold 2^exponent times their values
    // messages with the first and the last row of x in all frames, which the op waits for. Only on
    // GPUs, with top = 0 and bottom = 0 respectively.
    struct arrival first_row, last_row;
};

/* out = conv(x, w) + bias + residual. The padded input is [front + T, top + H + bottom,
 * left + W + right]; along each of these axes of size n, out has (n - k) / stride + 1.
 *   x         [T, H, W, Cin] f32, bf16 or f16
 *   past      [front, H, W, Cin], x's dtype, or none
 *   w         [Cout, kt, kh, kw, Cin], contiguous, x's dtype; with x in f16 f32, of which each
 *             output's may be rounded to f16 after a scaling by a power of two
 *   bias      f32 [Cout] or none
 *   residual  out's shape and dtype, or none; may be out
 *
 * upsample2x takes 3x3 windows with stride 1 and left = right = 1. Pixel (y, x) of the source then
 * stands at (2y, 2x), (2y, 2x + 1), (2y + 1, 2x) and (2y + 1, 2x + 1). Windows read the first and
 * the last of the top + H + bottom rows, but no row of out is centred on them: out has
 * 2 (top + H + bottom - 2) rows and 2 W columns.
 *
 * out is f32 or bf16. Sums in f32; a GPU splits each f32 factor into two bf16, with a relative
 * error of 2^-17, unless conv.tf32 allows one product; and with upsample2x in bf16 or TF32 it adds
 * up to four weights, which read the same pixel, and rounds them. A pixel's result does not depend,
 * to the bit, on T, H or W, nor on what the op waits for: pixels that read neither the first nor
 * the last row of x are computed before. */
typedef status conv3d_fn(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                         struct tensor w, struct tensor bias, struct tensor residual,
                         struct conv conv);
conv3d_fn op_conv3d;

/* out = act(x / max(|x|_2, 1e-12) * sqrt(C) * gamma) * 2^exponent, |x|_2 over the C channels of a
 * pixel. x f32 or bf16, out f32, bf16 or f16; gamma f32 [C]; act ACT_NONE or ACT_SILU. out may be
 * x. |out| is at most sqrt(C) * max |gamma| * 2^exponent. */
typedef status channel_norm_fn(struct device *dev, struct tensor out, struct tensor x,
                               struct tensor gamma, enum act act, int exponent);
channel_norm_fn op_channel_norm;

/* out = x * scale + shift, per channel. scale, shift f32 [C]; x, out [..., C], f32 or bf16 each,
 * rows may be strided; out may be x. */
typedef status channel_affine_fn(struct device *dev, struct tensor out, struct tensor x,
                                 struct tensor scale, struct tensor shift);
channel_affine_fn op_channel_affine;

/* Between frames of cells and of single elements: a cell is `frames` frames x s rows x s columns of
 * pixels, its elements are numbered (c, frame, row, column), columns fastest. Source: Wan2.2
 * wan/modules/vae2_2.py, AvgDown3D and DupUp3D.
 *
 * average_down: out[i] = the mean of the n elements from i n of the cell of x; out [t, h, w, C'],
 * x [T, s h, s w, C], n = C s s frames / C'. Before x come frames * t - T frames of zeros.
 * repeat_up: out = x + up, element k of the cell of `up` = y[k / n]; out, x [T, s h, s w, C],
 * y [t, h, w, C'], n = C s s frames / C'. The first frames * t - T frames of `up` are left out. out
 * may be x.
 * f32 or bf16 each; n is a whole number; at most CELL_PIXELS pixels per cell. */
#define CELL_PIXELS 64
typedef status average_down_fn(struct device *dev, struct tensor out, struct tensor x, int frames);
average_down_fn op_average_down;
typedef status repeat_up_fn(struct device *dev, struct tensor out, struct tensor x, struct tensor y,
                            int frames);
repeat_up_fn op_repeat_up;

/* Pixels as a file stores them: out u8 = trunc((clamp(x, -1, 1) + 1) / 2 * 255 + add), at most 255.
 * add: 0 as in the official videos, 0.5 (rounded) as in its images. x f32 or bf16; one shape
 * [T, H, W, C], outer axes of any stride. */
typedef status to_u8_fn(struct device *dev, struct tensor out, struct tensor x, float add);
to_u8_fn op_to_u8;

/* mark = value if x has a NaN or an infinity and mark is 0: the first such x is named. mark [1]
 * f32; value is not 0; x f32 or bf16, contiguous, of any shape. */
typedef status find_nonfinite_fn(struct device *dev, struct tensor mark, struct tensor x,
                                 float value);
find_nonfinite_fn op_find_nonfinite;

/* Three sums of each row r: out[r] = (sum of |a - b|, sum of |b|, sum of a^2). a, b f32 [R, C],
 * contiguous; out f32 [R, 3], rows may be strided. Sums in f32; their order depends on C alone. b
 * may be a. */
#define ROW_SUMS 3
typedef status row_sums_fn(struct device *dev, struct tensor out, struct tensor a, struct tensor b);
row_sums_fn op_row_sums;

#ifdef __cplusplus
}
#endif
#endif
