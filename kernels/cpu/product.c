#include "kernels/cpu/cpu.h"
#include "runtime/alive.h"

#include <assert.h>
#include <math.h>

/* Matrix products and convolution: out[m, n] = sum over k of A[m, k] w[n, k], where row m of A
 * consists of `segments` segments of `len` dense elements of x: one for a matrix product, one for
 * each tap (pixel of the window) of a convolution.
 *
 * The columns n are processed in batches, as many at a time as the workspace can hold packed.
 * Within a batch a task is BLOCK_ROWS rows x BLOCK_COLS columns. It walks over K in steps, so small
 * that the part of w in use stays in the L2 cache, and keeps its sums in f32 in its thread's slab.
 *
 * workspace: | slab of thread 0 | ... | packed w of a batch | */
#define BLOCK_ROWS (TILE_ROWS * 8)
#define BLOCK_COLS 128
#define STEP 384    // elements of K in one step
#define SEGMENTS 32 // segments in one step, at most

struct slab {
    float sums[BLOCK_ROWS * BLOCK_COLS];
    float converted[TILE_ROWS * STEP]; // rows of bf16 or f16 as f32
    float add[BLOCK_COLS];
    int64_t at[BLOCK_ROWS]; // matrix product: element offset of a row in x
    // convolution: where a row's window starts in the padded input
    int64_t frame[BLOCK_ROWS], line[BLOCK_ROWS], col[BLOCK_ROWS];
};

struct product {
    struct tensor out, x, past, w, bias, residual; // none or as in ops.h
    enum act act;
    struct conv conv;
    bool window; // a convolution, not a matrix product
    int64_t m, n, segments, len;
    enum unit unit;
    int64_t batch; // columns packed at once
    char *packed;  // their panels
};

static const float zeros[STEP];

/* K. */
static int64_t depth(const struct product *p)
{
    return p->segments * p->len;
}

/* Bytes of one packed panel. */
static size_t panel_bytes(const struct product *p)
{
    return (size_t)depth(p) * TILE_COLS * (p->unit == UNIT_PAIR ? 2 : 4);
}

/* The element offset of row m in t, which has out's shape. */
static int64_t out_at(const struct product *p, struct tensor t, int64_t m)
{
    if (!p->window)
        return m * t.stride[0];

    const int64_t w = p->out.dim[2], h = p->out.dim[1];

    return m / w / h * t.stride[0] + m / w % h * t.stride[1] + m % w * t.stride[2];
}

/* Fills slab->at, or frame, line and col, for rows [first, first + count). */
static void find_rows(const struct product *p, struct slab *slab, int64_t first, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        const int64_t m = first + i;

        slab->at[i] = m * p->x.stride[0];
        if (p->window) {
            const int64_t w = p->out.dim[2], h = p->out.dim[1];

            slab->col[i] = m % w * p->conv.stride;
            slab->line[i] = m / w % h * p->conv.stride;
            slab->frame[i] = m / w / h * p->conv.stride_t;
        }
    }
}

/* The position of a segment in the window. */
struct tap {
    int64_t frame, line, col;
};

static struct tap tap_of(const struct product *p, int64_t s)
{
    const int64_t kw = p->w.dim[3], kh = p->w.dim[2];

    return (struct tap){ .frame = s / kw / kh, .line = s / kw % kh, .col = s % kw };
}

/* The pixel at a tap of a row's window: returns the tensor that holds it, past or x, and its
 * element offset in *at; NULL when the pixel is padding. */
static const struct tensor *pixel_of(const struct product *p, const struct slab *slab, int64_t row,
                                     struct tap tap, int64_t *at)
{
    const int64_t frame = slab->frame[row] + tap.frame;
    const bool before = frame < p->conv.front;
    const struct tensor *x = before ? &p->past : &p->x;
    int64_t line = slab->line[row] + tap.line, col = slab->col[row] + tap.col - p->conv.left;

    if (p->conv.upsample2x) {
        line = (line + 1) >> 1;
        col >>= 1;
    }
    line -= p->conv.top;
    if (x->data == NULL || line < 0 || line >= x->dim[1] || col < 0 || col >= x->dim[2])
        return NULL;
    *at = (before ? frame : frame - p->conv.front) * x->stride[0] + line * x->stride[1] +
          col * x->stride[2];
    return x;
}

/* The addresses of elements [from, from + len) of segments [s0, s0 + segments) of a tile's rows, as
 * CPU(tile) takes them. bf16 and f16 are converted into the slab where the tile multiplies f32. */
static void find_segments(const struct product *p, struct slab *slab, const void **a, int64_t row,
                          int rows, int64_t s0, int64_t segments, int64_t from, int64_t len)
{
    const bool convert = p->x.dtype != DT_F32 && p->unit == UNIT_F32;
    float *converted = slab->converted;

    for (int64_t s = s0; s < s0 + segments; s++, a += TILE_ROWS) {
        const struct tap tap = p->window ? tap_of(p, s) : (struct tap){ 0 };

        for (int i = 0; i < rows; i++) {
            const struct tensor *x = &p->x;
            int64_t at = slab->at[row + i];

            if (p->window)
                x = pixel_of(p, slab, row + i, tap, &at);
            if (x == NULL) {
                a[i] = zeros;
            } else if (convert) {
                load_row(converted, *x, at + from, len);
                a[i] = converted;
                converted += len;
            } else {
                a[i] = element(*x, at + from);
            }
        }
    }
}

/* One step of a task over K: elements [from, from + len) of segments [s0, s0 + segments). */
static void run_step(const struct product *p, struct slab *slab, int64_t rows, int64_t col0,
                     int64_t cols, int64_t s0, int64_t segments, int64_t from, int64_t len)
{
    const void *a[SEGMENTS * TILE_ROWS];
    const int64_t k = s0 * p->len + from, width = p->unit == UNIT_PAIR ? 2 : 4;
    const int64_t units = p->unit == UNIT_PAIR ? len / 2 : len;

    for (int64_t row = 0; row < rows; row += TILE_ROWS) {
        const int count = (int)min_of(TILE_ROWS, rows - row);

        find_segments(p, slab, a, row, count, s0, segments, from, len);
        for (int64_t c = 0; c < cols; c += TILE_COLS)
            CPU(tile)
        (slab->sums + row * BLOCK_COLS + c, BLOCK_COLS, a, segments, units,
         p->packed + (size_t)((col0 + c) / TILE_COLS) * panel_bytes(p) + k * TILE_COLS * width,
         p->unit, count, cols - c, k > 0);
    }
}

/* Rows [row0, row0 + rows) x columns [col0, col0 + cols) of the batch that starts at `first`. */
static void run_task(const struct product *p, struct slab *slab, int64_t first, int64_t row0,
                     int64_t rows, int64_t col0, int64_t cols)
{
    const int64_t parts = div_up(p->len, STEP); // of a segment, of an even length
    const int64_t part = div_up(div_up(p->len, parts), 2) * 2;
    const int64_t group = parts > 1 ? 1 : min_of(SEGMENTS, STEP / p->len);

    const float power = ldexpf(1, -p->conv.exponent);

    find_rows(p, slab, row0, rows);
    for (int64_t s = 0; s < p->segments; s += group)
        for (int64_t from = 0; from < p->len; from += part)
            run_step(p, slab, rows, col0, cols, s, min_of(group, p->segments - s), from,
                     min_of(part, p->len - from));
    for (int64_t i = 0; i < rows; i++) {
        float *v = slab->sums + i * BLOCK_COLS;

        if (p->conv.exponent != 0)
            for (int64_t j = 0; j < cols; j++)
                v[j] *= power;
        if (p->bias.data != NULL) {
            load_row(slab->add, p->bias, first + col0, cols);
            for (int64_t j = 0; j < cols; j++)
                v[j] += slab->add[j];
        }
        if (p->act != ACT_NONE) {
            round_row(v, p->out.dtype, cols);
            act_row(v, p->act, cols);
        }
        if (p->residual.data != NULL) {
            load_row(slab->add, p->residual, out_at(p, p->residual, row0 + i) + first + col0, cols);
            for (int64_t j = 0; j < cols; j++)
                v[j] += slab->add[j];
        }
        store_row(p->out, out_at(p, p->out, row0 + i) + first + col0, v, cols);
    }
}

static status run(struct device *dev, struct product *p)
{
    const int threads = cpu_threads(dev);
    const size_t slabs = sizeof(struct slab) * (size_t)threads;
    const size_t wanted = BATCH_BYTES * (size_t)div_up(threads, 4);
    const size_t available = CPU_WORKSPACE - slabs;
    struct slab *slab = dev->workspace;
    int64_t panels = (int64_t)((wanted < available ? wanted : available) / panel_bytes(p));

    if (panel_bytes(p) > available)
        return fail(ST_MEMORY,
                    "a matrix product with K = %lld does not fit the workspace of %zu MiB",
                    (long long)depth(p), CPU_WORKSPACE >> 20);
    // whole blocks of columns, so that only the last task of a row can be narrower
    if (panels > BLOCK_COLS / TILE_COLS)
        panels -= panels % (BLOCK_COLS / TILE_COLS);
    p->batch = min_of(panels > 0 ? panels : 1, div_up(p->n, TILE_COLS)) * TILE_COLS;
    p->packed = (char *)dev->workspace + slabs;

#pragma omp parallel num_threads(threads)
    for (int64_t first = 0; first < p->n; first += p->batch) {
        const int64_t cols = min_of(p->batch, p->n - first);
        const int64_t blocks = div_up(cols, BLOCK_COLS);

#pragma omp for
        for (int64_t c = 0; c < cols; c += TILE_COLS)
            CPU(pack)
        (p->packed + (size_t)(c / TILE_COLS) * panel_bytes(p),
         element(p->w, (first + c) * depth(p)), p->w.dtype, depth(p), min_of(TILE_COLS, cols - c),
         depth(p), p->unit);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < div_up(p->m, BLOCK_ROWS) * blocks; task++) {
            const int64_t row = task / blocks * BLOCK_ROWS, col = task % blocks * BLOCK_COLS;

            alive();
            run_task(p, slab + cpu_thread(), first, row, min_of(BLOCK_ROWS, p->m - row), col,
                     min_of(BLOCK_COLS, cols - col));
        }
    }
    return ST_OK;
}

/* Pairs of bf16 where the level supports them and no segment ends in the middle of a pair. */
static enum unit unit_of(struct tensor x, struct tensor w, int64_t len)
{
    return CPU(has_pairs)() && x.dtype == DT_BF16 && w.dtype == DT_BF16 && len % 2 == 0 &&
                   (uintptr_t)w.data % 4 == 0
               ? UNIT_PAIR
               : UNIT_F32;
}

status CPU(gemm)(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                 struct tensor bias, enum act act)
{
    struct product p = { .out = out,
                         .x = a,
                         .w = w,
                         .bias = bias,
                         .act = act,
                         .m = a.dim[0],
                         .n = w.dim[0],
                         .segments = 1,
                         .len = w.dim[1],
                         .unit = unit_of(a, w, w.dim[1]) };

    return run(dev, &p);
}

status CPU(gemm_add)(struct device *dev, struct tensor sum, struct tensor a, struct tensor w,
                     struct tensor bias)
{
    struct product p = { .out = sum,
                         .x = a,
                         .w = w,
                         .bias = bias,
                         .residual = sum,
                         .m = a.dim[0],
                         .n = w.dim[0],
                         .segments = 1,
                         .len = w.dim[1],
                         .unit = unit_of(a, w, w.dim[1]) };

    return run(dev, &p);
}

status CPU(conv3d)(struct device *dev, struct tensor out, struct tensor x, struct tensor past,
                   struct tensor w, struct tensor bias, struct tensor residual, struct conv conv)
{
    struct product p = { .out = out,
                         .x = x,
                         .past = past,
                         .w = w,
                         .bias = bias,
                         .residual = residual,
                         .conv = conv,
                         .window = true,
                         .m = out.dim[0] * out.dim[1] * out.dim[2],
                         .n = w.dim[0],
                         .segments = w.dim[1] * w.dim[2] * w.dim[3],
                         .len = w.dim[4],
                         .unit = unit_of(x, w, w.dim[4]) };

    return run(dev, &p);
}
