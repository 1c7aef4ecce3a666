/* Attention as two products by cuBLASLt, a slice of queries at a time, through the workspace:
 *
 *     logits [rows, keys] = q k^T      p = exp(scale * logits - largest)      part = p v
 *
 * The second product adds over all keys and has few outputs, so it is cut into stretches of keys
 * that run beside each other and are added up in order. How many queries a slice has follows from
 * the keys alone, and changes no row. */
#include "kernels/cuda/attention_wide.h"

#include "kernels/cuda/context.h"
#include "kernels/cuda/plain.h"

#include <math.h>

#define STRETCH 1024 // keys of a partial sum
#define ROWS_MOST 512
#define NARROW 256                // channels of a head that other kernels do
#define ALIGN 16                  // bytes that rows lie on
#define SCRATCH ((size_t)8 << 20) // of the workspace for cuBLASLt

/* A product out[n, m] = a b, column by column as cuBLASLt has it. All of 8 bytes: a plan's key. */
struct key {
    int64_t in, out; // dtypes
    int64_t a_transposed, m, n, k, lda, ldb, ldd;
    int64_t count, next_a, next_b, next_d; // so many at once, elements from one to the next
};

struct wide_plan {
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algo;
};

static void plan_done(void *entry)
{
    struct wide_plan *p = entry;

    if (p->product != NULL)
        cublasLtMatmulDescDestroy(p->product);
    if (p->a != NULL)
        cublasLtMatrixLayoutDestroy(p->a);
    if (p->b != NULL)
        cublasLtMatrixLayoutDestroy(p->b);
    if (p->d != NULL)
        cublasLtMatrixLayoutDestroy(p->d);
}

static status layout(cublasLtMatrixLayout_t *l, int64_t dt, int64_t rows, int64_t cols, int64_t ld,
                     int64_t count, int64_t next)
{
    const int32_t batch = (int32_t)count;

    TRY(lt_check(cublasLtMatrixLayoutCreate(l, dt == DT_BF16 ? CUDA_R_16BF : CUDA_R_32F,
                                            (uint64_t)rows, (uint64_t)cols, ld),
                 "attention"));
    TRY(lt_check(cublasLtMatrixLayoutSetAttribute(*l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch,
                                                  sizeof(batch)),
                 "attention"));
    return lt_check(cublasLtMatrixLayoutSetAttribute(
                        *l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &next, sizeof(next)),
                    "attention");
}

static status choose(cublasLtHandle_t lt, struct wide_plan *p, const struct key *key)
{
    const uint32_t no_split = CUBLASLT_REDUCTION_SCHEME_NONE;
    const size_t scratch = SCRATCH;
    cublasLtMatmulPreference_t like = NULL;
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    status st;

    TRY_OUT(lt_check(cublasLtMatmulPreferenceCreate(&like), "attention"));
    TRY_OUT(lt_check(cublasLtMatmulPreferenceSetAttribute(
                         like, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &scratch, sizeof(scratch)),
                     "attention"));
    TRY_OUT(
        lt_check(cublasLtMatmulPreferenceSetAttribute(
                     like, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_split, sizeof(no_split)),
                 "attention"));
    TRY_OUT(lt_check(cublasLtMatmulAlgoGetHeuristic(lt, p->product, p->a, p->b, p->d, p->d, like, 1,
                                                    &found, &count),
                     "attention"));
    if (count == 0)
        st = fail(ST_DEVICE, "cuBLASLt has no product of %lld x %lld x %lld", (long long)key->n,
                  (long long)key->m, (long long)key->k);
    else
        p->algo = found.algo;
out:
    if (like != NULL)
        cublasLtMatmulPreferenceDestroy(like);
    return st;
}

static status multiply(struct device *dev, void *d, const void *a, const void *b, struct key key)
{
    const cublasOperation_t op = key.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const int64_t rows = key.a_transposed ? key.k : key.m, cols = key.a_transposed ? key.m : key.k;
    const float one = 1, zero = 0;
    struct cuda_context *c;
    struct wide_plan *p;
    bool made;
    status st = ST_OK;

    TRY(cuda_context(dev, &c));
    TRY(plan_find(&c->wide_attentions, &key, sizeof(key), sizeof(*p), plan_done, (void **)&p,
                  &made));
    if (made) {
        TRY_OUT(lt_check(cublasLtMatmulDescCreate(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                         "attention"));
        TRY_OUT(lt_check(cublasLtMatmulDescSetAttribute(p->product, CUBLASLT_MATMUL_DESC_TRANSA,
                                                        &op, sizeof(op)),
                         "attention"));
        TRY_OUT(layout(&p->a, key.in, rows, cols, key.lda, key.count, key.next_a));
        TRY_OUT(layout(&p->b, key.in, key.k, key.n, key.ldb, key.count, key.next_b));
        TRY_OUT(layout(&p->d, key.out, key.m, key.n, key.ldd, key.count, key.next_d));
        TRY_OUT(choose(c->lt, p, &key));
    }
    st = lt_check(cublasLtMatmul(c->lt, p->product, &one, a, p->a, b, p->b, &zero, d, p->d, d, p->d,
                                 &p->algo, dev->workspace, SCRATCH, cuda_stream(dev)),
                  "attention");
out:
    if (st != ST_OK && made)
        plan_forget(&c->wide_attentions, p);
    return st;
}

static int64_t div_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Where things lie in the workspace behind cuBLASLt's part. */
struct scratch {
    int64_t pitch, parts, rows; // elements of a row of logits, stretches, queries of a slice
    float *logits, *part, *sums;
    void *p;
};

static bool plan_scratch(struct scratch *s, struct device *dev, struct tensor q, struct tensor k)
{
    const size_t room = dev->table->workspace - SCRATCH;
    const bool narrow = q.dtype == DT_BF16; // then p does not overwrite the logits

    s->pitch = div_up(k.dim[0], 8) * 8;
    s->parts = div_up(k.dim[0], STRETCH);

    const int64_t row = s->pitch * (narrow ? 6 : 4) + (s->parts * q.dim[2] + 2) * 4;

    s->rows = (int64_t)room / row / 8 * 8; // keeps what follows on 16 bytes
    s->rows = s->rows > ROWS_MOST ? ROWS_MOST : s->rows;
    s->logits = (float *)((char *)dev->workspace + SCRATCH);
    s->part = s->logits + s->rows * s->pitch;
    s->sums = s->part + s->rows * s->parts * q.dim[2];
    s->p = narrow ? (void *)(s->sums + 2 * s->rows) : s->logits;
    return s->rows > 0;
}

/* part[j] = p[:, stretch j] v[stretch j], `count` stretches of `keys` from `first` on. */
static status add_values(struct device *dev, const struct scratch *s, struct tensor v, int64_t rows,
                         int64_t first, int64_t count, int64_t keys)
{
    const size_t size = dtype_size(v.dtype);
    const int64_t d = v.dim[2];

    if (count == 0 || keys == 0)
        return ST_OK;
    return multiply(dev, s->part + first * rows * d,
                    (const char *)v.data + (size_t)(first * STRETCH * v.stride[0]) * size,
                    (const char *)s->p + (size_t)(first * STRETCH) * size,
                    (struct key){ v.dtype, DT_F32, false, d, rows, keys, v.stride[0], s->pitch, d,
                                  count, STRETCH * v.stride[0], STRETCH, rows * d });
}

/* Queries q [rows, 1, D] of one head. */
static status attend(struct device *dev, const struct scratch *s, struct tensor out, float *lse,
                     int64_t lse_stride, struct tensor q, struct tensor k, struct tensor v,
                     float scale)
{
    const int64_t rows = q.dim[0], d = q.dim[2], keys = k.dim[0], whole = keys / STRETCH;
    struct tensor flat = tensor_of(out.data, out.dtype, rows, d);

    flat.stride[0] = out.stride[0];
    TRY(multiply(dev, s->logits, k.data, q.data,
                 (struct key){ q.dtype, DT_F32, true, keys, rows, d, k.stride[0], q.stride[0],
                               s->pitch, 1, 0, 0, 0 }));
    TRY(attention_wide_softmax(dev, s->p, q.dtype, s->sums, s->logits, rows, keys, s->pitch,
                               scale));
    TRY(add_values(dev, s, v, rows, 0, whole, STRETCH));
    TRY(add_values(dev, s, v, rows, whole, 1, keys % STRETCH));
    return attention_wide_join(dev, flat, lse, lse_stride, s->sums, s->part, s->parts);
}

static bool lies_well(struct tensor t)
{
    const int64_t e = ALIGN / (int64_t)dtype_size(t.dtype);

    return (uintptr_t)t.data % ALIGN == 0 && t.stride[0] % e == 0 &&
           (t.dim[1] == 1 || t.stride[1] % e == 0) && t.dim[2] % e == 0;
}

status attention_wide(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                      struct tensor k, struct tensor v, float scale)
{
    struct scratch s;

    if (q.dim[2] <= NARROW || !lies_well(q) || !lies_well(k) || !lies_well(v) ||
        !plan_scratch(&s, dev, q, k))
        return plain_attention(dev, out, lse, q, k, v, scale);
    for (int64_t head = 0; head < q.dim[1]; head++)
        for (int64_t first = 0; first < q.dim[0]; first += s.rows) {
            const int64_t rows = q.dim[0] - first < s.rows ? q.dim[0] - first : s.rows;
            float *l = lse.data != NULL ? (float *)lse.data + first * lse.dim[1] + head : NULL;

            TRY(attend(dev, &s, tensor_slice(tensor_slice(out, 0, first, rows), 1, head, 1), l,
                       lse.dim[1], tensor_slice(tensor_slice(q, 0, first, rows), 1, head, 1),
                       tensor_slice(k, 1, head, 1), tensor_slice(v, 1, head, 1), scale));
        }
    return ST_OK;
}
