/* Products by cuBLASLt.
 *
 * Its matrices are column by column, so the rows of out are its columns: it is asked for
 * out^T [N, M] = w [N, K] a^T [K, M], and its "bias by row" is ours by column.
 *
 * One order of the sum for every M. For bf16 all of the library's Hopper kernels that split no sum
 * add along K in one order, whatever their tile, as was seen by comparing all that it offers for
 * our shapes (bench/LOG.md): a plan may take any of them. Its f32 kernels do not, and for a few
 * rows it would take others, so there M has no say in which kernel runs. */
#include "kernels/cuda/gemm.h"

#include "kernels/cuda/context.h"
#include "kernels/cuda/plain.h"

#define ALIGN 16 // bytes that rows lie on

/* What a plan is made for. All of 8 bytes: keys are compared as bytes. */
struct key {
    int64_t a, w, out, bias, act; // dtypes, DT_NONE without bias
    int64_t m, n, k, lda, ldd;
};

struct gemm_plan {
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, w, out;
    cublasLtMatmulAlgo_t algo;
    bool missing; // the library has none: plain_gemm
};

static void plan_done(void *entry)
{
    struct gemm_plan *p = entry;

    if (p->product != NULL)
        cublasLtMatmulDescDestroy(p->product);
    if (p->a != NULL)
        cublasLtMatrixLayoutDestroy(p->a);
    if (p->w != NULL)
        cublasLtMatrixLayoutDestroy(p->w);
    if (p->out != NULL)
        cublasLtMatrixLayoutDestroy(p->out);
}

static cudaDataType_t type_of(int64_t dt)
{
    return dt == DT_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cublasLtEpilogue_t epilogue(const struct key *key)
{
    if (key->act == ACT_GELU_TANH)
        return key->bias == DT_NONE ? CUBLASLT_EPILOGUE_GELU : CUBLASLT_EPILOGUE_GELU_BIAS;
    return key->bias == DT_NONE ? CUBLASLT_EPILOGUE_DEFAULT : CUBLASLT_EPILOGUE_BIAS;
}

#define SET(handle, kind, name, value)                                                             \
    lt_check(cublasLtMatmul##kind##SetAttribute(handle, name, &(value), sizeof(value)), "gemm")

static status describe(struct gemm_plan *p, const struct key *key)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cublasLtEpilogue_t end = epilogue(key);
    const cudaDataType_t bias = type_of(key->bias);

    TRY(lt_check(cublasLtMatmulDescCreate(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "gemm"));
    TRY(SET(p->product, Desc, CUBLASLT_MATMUL_DESC_TRANSA, transposed));
    TRY(SET(p->product, Desc, CUBLASLT_MATMUL_DESC_EPILOGUE, end));
    if (key->bias != DT_NONE)
        TRY(SET(p->product, Desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, bias));
    TRY(lt_check(cublasLtMatrixLayoutCreate(&p->w, type_of(key->w), (uint64_t)key->k,
                                            (uint64_t)key->n, key->k),
                 "gemm"));
    TRY(lt_check(cublasLtMatrixLayoutCreate(&p->a, type_of(key->a), (uint64_t)key->k,
                                            (uint64_t)key->m, key->lda),
                 "gemm"));
    return lt_check(cublasLtMatrixLayoutCreate(&p->out, type_of(key->out), (uint64_t)key->n,
                                               (uint64_t)key->m, key->ldd),
                    "gemm");
}

#define CANDIDATES 8
#define MANY_ROWS 8192 // of the product that stands for all of its N and K

/* What the library proposes among what splits no sum, best first. */
static status ask(struct device *dev, cublasLtHandle_t lt, const struct gemm_plan *p,
                  cublasLtMatmulHeuristicResult_t found[CANDIDATES], int *count)
{
    const uint32_t align = ALIGN, no_split = CUBLASLT_REDUCTION_SCHEME_NONE;
    const size_t workspace = dev->table->workspace;
    cublasLtMatmulPreference_t like = NULL;
    status st;

    TRY_OUT(lt_check(cublasLtMatmulPreferenceCreate(&like), "gemm"));
    TRY_OUT(SET(like, Preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace));
    TRY_OUT(SET(like, Preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, no_split));
    TRY_OUT(SET(like, Preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align));
    TRY_OUT(SET(like, Preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align));
    TRY_OUT(SET(like, Preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align));
    TRY_OUT(SET(like, Preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align));
    if (cublasLtMatmulAlgoGetHeuristic(lt, p->product, p->w, p->a, p->out, p->out, like, CANDIDATES,
                                       found, count) != CUBLAS_STATUS_SUCCESS)
        *count = 0;
out:
    if (like != NULL)
        cublasLtMatmulPreferenceDestroy(like);
    return st;
}

/* The kernel's family. */
static int family(const cublasLtMatmulAlgo_t *algo)
{
    int32_t id = -1;

    cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_ID, &id, sizeof(id), NULL);
    return id;
}

/* For bf16 the first proposal out of the family that many rows are given, for f32 the very kernel.
 */
static status choose(struct device *dev, cublasLtHandle_t lt, struct gemm_plan *p,
                     const struct key *key)
{
    struct key many = *key;
    struct gemm_plan all = { 0 };
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int count = 0;
    status st;

    many.m = MANY_ROWS;
    TRY_OUT(describe(&all, &many));
    TRY_OUT(ask(dev, lt, &all, found, &count));
    p->missing = count == 0;
    if (p->missing)
        goto out;
    p->algo = found[0].algo;
    if (key->w == DT_F32)
        goto out;
    TRY_OUT(ask(dev, lt, p, found, &count));
    for (int i = 0; i < count; i++)
        if (family(&found[i].algo) == family(&p->algo)) {
            p->algo = found[i].algo;
            break;
        }
out:
    if (st == ST_OK && !p->missing)
        p->missing = cublasLtMatmulAlgoCheck(lt, p->product, p->w, p->a, p->out, p->out, &p->algo,
                                             found) != CUBLAS_STATUS_SUCCESS;
    plan_done(&all);
    return st;
}

/* Rows on 16 bytes. */
static bool lies_well(struct tensor t)
{
    const int64_t e = ALIGN / (int64_t)dtype_size(t.dtype);

    return t.data == NULL ||
           ((uintptr_t)t.data % ALIGN == 0 && t.dim[t.ndim - 1] % e == 0 && t.stride[0] >= 1 &&
            (t.ndim == 1 || t.dim[0] == 1 || t.stride[0] % e == 0));
}

/* Types that go together in the library: bf16 to bf16 with a bf16 bias, and what ends in f32 with
 * an f32 bias. */
static bool suits(struct tensor out, struct tensor a, struct tensor w, struct tensor bias)
{
    if (a.dtype != w.dtype || (a.dtype == DT_F32 && out.dtype != DT_F32))
        return false;
    if (bias.data != NULL && bias.dtype != out.dtype)
        return false;
    return lies_well(out) && lies_well(a) && lies_well(w) && lies_well(bias);
}

/* A row alone may have any stride. */
static int64_t row_stride(struct tensor t)
{
    return t.dim[0] == 1 ? t.dim[1] : t.stride[0];
}

static status product(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                      struct tensor bias, enum act act, bool add)
{
    const struct key key = {
        .a = a.dtype,
        .w = w.dtype,
        .out = out.dtype,
        .bias = bias.data != NULL ? bias.dtype : DT_NONE,
        .act = act,
        .m = a.dim[0],
        .n = w.dim[0],
        .k = w.dim[1],
        .lda = row_stride(a),
        .ldd = row_stride(out),
    };
    const float one = 1, keep = add ? 1 : 0;
    struct cuda_context *c;
    struct gemm_plan *p;
    bool made;
    status st = ST_OK;

    TRY(cuda_context(dev, &c));
    TRY(plan_find(&c->gemms, &key, sizeof(key), sizeof(*p), plan_done, (void **)&p, &made));
    if (made) {
        TRY_OUT(describe(p, &key));
        TRY_OUT(choose(dev, c->lt, p, &key));
    }
    if (p->missing)
        return add ? plain_gemm_add(dev, out, a, w, bias) : plain_gemm(dev, out, a, w, bias, act);
    if (bias.data != NULL)
        TRY_OUT(SET(p->product, Desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.data));
    TRY_OUT(lt_check(cublasLtMatmul(c->lt, p->product, &one, w.data, p->w, a.data, p->a, &keep,
                                    out.data, p->out, out.data, p->out, &p->algo, dev->workspace,
                                    dev->table->workspace, cuda_stream(dev)),
                     "gemm"));
    device_cuda_written(dev->stream, out);
out:
    if (st != ST_OK && made)
        plan_forget(&c->gemms, p);
    return st;
}

status gemm_cublaslt(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                     struct tensor bias, enum act act)
{
    if (!suits(out, a, w, bias) || (act == ACT_SILU && !tensor_contiguous(out)))
        return plain_gemm(dev, out, a, w, bias, act);
    if (act != ACT_SILU)
        return product(dev, out, a, w, bias, act, false);
    TRY(product(dev, out, a, w, bias, ACT_NONE, false));
    return plain_silu(dev, out, out);
}

status gemm_add_cublaslt(struct device *dev, struct tensor sum, struct tensor a, struct tensor w,
                         struct tensor bias)
{
    if (!suits(sum, a, w, bias))
        return plain_gemm_add(dev, sum, a, w, bias);
    return product(dev, sum, a, w, bias, ACT_NONE, true);
}
