/* Matrix products by cuBLASLt.
 *
 * cuBLASLt's matrices are column-major, so the rows of out are its columns: the call computes
 * out^T [N, M] = w [N, K] a^T [K, M], and its bias per row is ours per column.
 *
 * op_gemm demands one order of summation for every M. In bf16 all of the library's Hopper kernels
 * without split K add along K in the same order, for any tile size; a comparison of every kernel
 * it offers for our shapes showed this (bench/LOG.md). So any of them may be used, and the first
 * calls of a large product use several in turn and time them, to find the fastest one for this M
 * on this GPU. In f32 the order differs between kernels, so the kernel is chosen without regard to
 * M.
 *
 * In fp8 the library has one kernel for scales per row, in variants that add in the same order. */
#include "kernels/cuda/gemm.h"

#include "kernels/cuda/context.h"
#include "kernels/cuda/plain.h"

#include <stdlib.h>

#define ALIGN 16 // rows start at multiples of so many bytes

/* Key of the descriptor cache. Every member has 8 bytes, so that there is no padding: keys are
 * compared as bytes. */
struct key {
    int64_t a, w, out, bias, act; // dtypes, DT_NONE without bias
    int64_t m, n, k, lda, ldw, ldd;
    int64_t w_by_depth; // w is [K, N] instead of [N, K]
    int64_t row_scales; // a and w are e4m3 with one scale per row
    int64_t workspace;  // bytes that a kernel may use
};

// the tensor cores' sums over all of K have 14 bits: an error of 1.3e-3 (K = 5120) to 2.6e-3
// (13824), beside 3.7e-2 of quantizing; 1.3 times as fast as with partial sums
#define FP8_FAST_SUMS 1
#define TRIALS 6         // kernels that are timed
#define TRIAL_ROUNDS 5   // times each
#define TRIAL_FLOPS 2e10 // of the smallest product that is timed: 30 us on an H100

/* The kernels among which the first calls of a product choose. Nothing waits for the GPU: each of
 * the first count * TRIAL_ROUNDS calls records two events, and a later call that finds them all
 * done chooses. */
struct trials {
    cublasLtMatmulAlgo_t algo[TRIALS];
    cudaEvent_t event[TRIALS][TRIAL_ROUNDS][2], last;
    int count; // 0 when the choice is made
    int calls;
};

struct gemm_descriptors {
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, w, out;
    cublasLtMatmulAlgo_t algo;
    bool missing; // the library has no kernel: use plain_gemm
    struct trials trials;
};

static void trials_done(struct trials *t)
{
    for (int i = 0; i < TRIALS; i++)
        for (int r = 0; r < TRIAL_ROUNDS; r++)
            for (int end = 0; end < 2; end++)
                if (t->event[i][r][end] != NULL)
                    cudaEventDestroy(t->event[i][r][end]);
    *t = (struct trials){ 0 };
}

static void descriptors_done(void *entry)
{
    struct gemm_descriptors *p = entry;

    if (p->product != NULL)
        cublasLtMatmulDescDestroy(p->product);
    if (p->a != NULL)
        cublasLtMatrixLayoutDestroy(p->a);
    if (p->w != NULL)
        cublasLtMatrixLayoutDestroy(p->w);
    if (p->out != NULL)
        cublasLtMatrixLayoutDestroy(p->out);
    trials_done(&p->trials);
}

static cudaDataType_t type_of(int64_t dt)
{
    return dt == DT_F8_E4M3 ? CUDA_R_8F_E4M3 : dt == DT_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cublasLtEpilogue_t epilogue(const struct key *key)
{
    if (key->act == ACT_GELU_TANH)
        return key->bias == DT_NONE ? CUBLASLT_EPILOGUE_GELU : CUBLASLT_EPILOGUE_GELU_BIAS;
    return key->bias == DT_NONE ? CUBLASLT_EPILOGUE_DEFAULT : CUBLASLT_EPILOGUE_BIAS;
}

#define SET(handle, kind, name, value)                                                             \
    lt_status(cublasLtMatmul##kind##SetAttribute(handle, name, &(value), sizeof(value)), "gemm")

/* Pointers that a call sets: the bias, and the scales of the rows of w and a; NULL: none. Without
 * the scales the library proposes no kernel for them. */
struct vectors {
    const void *bias, *scale_w, *scale_a;
};

static status set_vectors(struct gemm_descriptors *p, struct vectors v)
{
    if (v.bias != NULL)
        TRY(SET(p->product, Desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, v.bias));
    if (v.scale_w != NULL)
        TRY(SET(p->product, Desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, v.scale_w));
    if (v.scale_a != NULL)
        TRY(SET(p->product, Desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, v.scale_a));
    return ST_OK;
}

static status describe(struct gemm_descriptors *p, const struct key *key, struct vectors vectors)
{
    const cublasOperation_t transposed = key->w_by_depth ? CUBLAS_OP_N : CUBLAS_OP_T;
    const uint64_t rows = (uint64_t)(key->w_by_depth ? key->n : key->k);
    const uint64_t cols = (uint64_t)(key->w_by_depth ? key->k : key->n);
    const cublasLtEpilogue_t end = epilogue(key);
    const cudaDataType_t bias = type_of(key->bias);
    const int32_t per_row = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    const int8_t fast = FP8_FAST_SUMS;

    TRY(lt_status(cublasLtMatmulDescCreate(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "gemm"));
    TRY(SET(p->product, Desc, CUBLASLT_MATMUL_DESC_TRANSA, transposed));
    TRY(SET(p->product, Desc, CUBLASLT_MATMUL_DESC_EPILOGUE, end));
    if (key->bias != DT_NONE)
        TRY(SET(p->product, Desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, bias));
    if (key->row_scales) {
        TRY(SET(p->product, Desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, per_row));
        TRY(SET(p->product, Desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, per_row));
        TRY(SET(p->product, Desc, CUBLASLT_MATMUL_DESC_FAST_ACCUM, fast));
    }
    TRY(set_vectors(p, vectors));
    TRY(lt_status(cublasLtMatrixLayoutCreate(&p->w, type_of(key->w), rows, cols, key->ldw),
                  "gemm"));
    TRY(lt_status(cublasLtMatrixLayoutCreate(&p->a, type_of(key->a), (uint64_t)key->k,
                                             (uint64_t)key->m, key->lda),
                  "gemm"));
    return lt_status(cublasLtMatrixLayoutCreate(&p->out, type_of(key->out), (uint64_t)key->n,
                                                (uint64_t)key->m, key->ldd),
                     "gemm");
}

#define CANDIDATES 8
#define MANY_ROWS 8192 // M of the product whose kernel decides for all M with the same N and K

/* The library's proposals without split K, best first. */
static status propose(cublasLtHandle_t lt, const struct gemm_descriptors *p, int64_t bytes,
                      cublasLtMatmulHeuristicResult_t found[CANDIDATES], int *count)
{
    const uint32_t align = ALIGN, no_split = CUBLASLT_REDUCTION_SCHEME_NONE;
    const size_t workspace = (size_t)bytes;
    cublasLtMatmulPreference_t preference = NULL;
    status st;

    TRY_OUT(lt_status(cublasLtMatmulPreferenceCreate(&preference), "gemm"));
    TRY_OUT(SET(preference, Preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace));
    TRY_OUT(SET(preference, Preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, no_split));
    TRY_OUT(SET(preference, Preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align));
    TRY_OUT(SET(preference, Preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align));
    TRY_OUT(SET(preference, Preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align));
    TRY_OUT(SET(preference, Preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align));
    if (cublasLtMatmulAlgoGetHeuristic(lt, p->product, p->w, p->a, p->out, p->out, preference,
                                       CANDIDATES, found, count) != CUBLAS_STATUS_SUCCESS)
        *count = 0;
out:
    if (preference != NULL)
        cublasLtMatmulPreferenceDestroy(preference);
    return st;
}

/* The library's number for the kernel family of an algorithm. */
static int family(const cublasLtMatmulAlgo_t *algo)
{
    int32_t id = -1;

    cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_ID, &id, sizeof(id), NULL);
    return id;
}

static bool is_usable(cublasLtHandle_t lt, const struct gemm_descriptors *p,
                      const cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulHeuristicResult_t result;

    return cublasLtMatmulAlgoCheck(lt, p->product, p->w, p->a, p->out, p->out, algo, &result) ==
           CUBLAS_STATUS_SUCCESS;
}

/* Sets p->algo, and p->trials where several kernels are to be timed. f32: the kernel proposed for
 * MANY_ROWS. bf16: the proposals for this M from the family of the kernel proposed for MANY_ROWS,
 * or that kernel itself. */
static status choose(cublasLtHandle_t lt, struct gemm_descriptors *p, const struct key *key,
                     struct vectors vectors)
{
    const bool is_large = 2 * (double)key->m * (double)key->n * (double)key->k >= TRIAL_FLOPS;
    struct key many = *key;
    struct gemm_descriptors all = { 0 };
    struct trials *t = &p->trials;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int count = 0;
    status st;

    many.m = MANY_ROWS;
    TRY_OUT(describe(&all, &many, vectors));
    TRY_OUT(propose(lt, &all, key->workspace, found, &count));
    p->missing = count == 0;
    if (p->missing)
        goto out;
    p->algo = found[0].algo;
    if (key->w != DT_F32) {
        TRY_OUT(propose(lt, p, key->workspace, found, &count));
        for (int i = 0; i < count && t->count < TRIALS; i++)
            if (family(&found[i].algo) == family(&p->algo) && is_usable(lt, p, &found[i].algo))
                t->algo[t->count++] = found[i].algo;
        if (t->count > 0)
            p->algo = t->algo[0];
        if (t->count == 1 || !is_large)
            t->count = 0;
    }
    p->missing = !is_usable(lt, p, &p->algo);
out:
    descriptors_done(&all);
    return st;
}

static int by_time(const void *a, const void *b)
{
    const float s = *(const float *)a, t = *(const float *)b;

    return (s > t) - (s < t);
}

/* Sets p->algo to the kernel with the smallest median time. Other work on the GPU, a first launch
 * or a late host may slow any single call. */
static status choose_fastest(struct gemm_descriptors *p)
{
    struct trials *t = &p->trials;
    float least = 0;

    for (int i = 0; i < t->count; i++) {
        float ms[TRIAL_ROUNDS];

        for (int r = 0; r < TRIAL_ROUNDS; r++)
            TRY(cuda_status(cudaEventElapsedTime(&ms[r], t->event[i][r][0], t->event[i][r][1]),
                            "gemm"));
        qsort(ms, TRIAL_ROUNDS, sizeof(ms[0]), by_time);
        if (i == 0 || ms[TRIAL_ROUNDS / 2] < least) {
            least = ms[TRIAL_ROUNDS / 2];
            p->algo = t->algo[i];
        }
    }
    trials_done(t);
    return ST_OK;
}

/* Chooses p->algo for this call. If the call is to be timed, sets *around to the two events between
 * which it is queued, else to NULL. */
static status next_trial(struct gemm_descriptors *p, cudaEvent_t **around)
{
    struct trials *t = &p->trials;
    int round, i;

    *around = NULL;
    if (t->count == 0)
        return ST_OK;
    round = t->calls / t->count;
    if (round == TRIAL_ROUNDS) {
        const cudaError_t e = cudaEventQuery(t->last);

        p->algo = t->algo[0];
        if (e == cudaErrorNotReady) {
            cudaGetLastError(); // else the check after the next launch would report it
            return ST_OK;
        }
        TRY(cuda_status(e, "gemm"));
        return choose_fastest(p);
    }
    // a transformer's products take turns: without the shift a kernel would time only some of them
    i = (t->calls++ + round) % t->count;
    p->algo = t->algo[i];
    *around = t->event[i][round];
    TRY(cuda_status(cudaEventCreate(&(*around)[0]), "gemm"));
    TRY(cuda_status(cudaEventCreate(&(*around)[1]), "gemm"));
    t->last = (*around)[1];
    return ST_OK;
}

/* Whether every row starts at a multiple of 16 bytes and has a multiple of 16 bytes; true for none.
 */
static bool is_aligned(struct tensor t)
{
    const int64_t e = ALIGN / (int64_t)dtype_size(t.dtype);

    return t.data == NULL ||
           ((uintptr_t)t.data % ALIGN == 0 && t.dim[t.ndim - 1] % e == 0 && t.stride[0] >= 1 &&
            (t.ndim == 1 || t.dim[0] == 1 || t.stride[0] % e == 0));
}

/* Whether the library supports the dtypes and alignment: out and bias of one dtype, f32 out for f32
 * a and w. */
static bool is_supported(struct tensor out, struct tensor a, struct tensor w, struct tensor bias)
{
    if (a.dtype != w.dtype || (a.dtype == DT_F32 && out.dtype != DT_F32))
        return false;
    if (bias.data != NULL && bias.dtype != out.dtype)
        return false;
    return is_aligned(out) && is_aligned(a) && is_aligned(w) && is_aligned(bias);
}

/* Elements from row to row. With one row the stride has no meaning and may not be valid. */
static int64_t row_stride(struct tensor t)
{
    return t.dim[0] == 1 ? t.dim[1] : t.stride[0];
}

/* Computes the product of `key`, whose strides and options are set. *missing: nothing was done, as
 * the library has no kernel. */
static status multiply(struct device *dev, struct key key, struct tensor out, struct tensor a,
                       struct tensor w, struct vectors vectors, bool add, bool *missing)
{
    const float one = 1, keep = add ? 1 : 0;
    struct cuda_context *c;
    struct gemm_descriptors *p;
    cudaEvent_t *around;
    bool is_new;
    status st = ST_OK;

    TRY(cuda_context(dev, &c));
    TRY(descriptor_cache_find(&c->gemm_cache, &key, sizeof(key), sizeof(*p), descriptors_done,
                              (void **)&p, &is_new));
    if (is_new) {
        TRY_OUT(describe(p, &key, vectors));
        TRY_OUT(choose(c->lt, p, &key, vectors));
    }
    *missing = p->missing;
    if (p->missing)
        return ST_OK;
    TRY_OUT(set_vectors(p, vectors));
    TRY_OUT(next_trial(p, &around));
    if (around != NULL)
        TRY_OUT(cuda_status(cudaEventRecord(around[0], cuda_stream(dev)), "gemm"));
    TRY_OUT(lt_status(cublasLtMatmul(c->lt, p->product, &one, w.data, p->w, a.data, p->a, &keep,
                                     out.data, p->out, out.data, p->out, &p->algo, dev->workspace,
                                     (size_t)key.workspace, cuda_stream(dev)),
                      "gemm"));
    if (around != NULL)
        TRY_OUT(cuda_status(cudaEventRecord(around[1], cuda_stream(dev)), "gemm"));
    device_cuda_written(dev->stream, out);
out:
    if (st != ST_OK && is_new)
        descriptor_cache_remove(&c->gemm_cache, p);
    return st;
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
        .ldw = w.dim[1],
        .ldd = row_stride(out),
        .workspace = (int64_t)dev->table->workspace,
    };
    bool missing;

    TRY(multiply(dev, key, out, a, w, (struct vectors){ .bias = bias.data }, add, &missing));
    if (!missing)
        return ST_OK;
    return add ? plain_gemm_add(dev, out, a, w, bias) : plain_gemm(dev, out, a, w, bias, act);
}

status gemm_strided(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                    bool w_by_depth, bool *missing)
{
    const struct vectors none = { 0 };
    const struct key key = {
        .a = a.dtype,
        .w = w.dtype,
        .out = out.dtype,
        .bias = DT_NONE,
        .act = ACT_NONE,
        .m = a.dim[0],
        .n = out.dim[1],
        .k = a.dim[1],
        .lda = a.stride[0],
        .ldw = w.stride[0],
        .ldd = out.stride[0],
        .w_by_depth = w_by_depth,
    };

    return multiply(dev, key, out, a, w, none, false, missing);
}

status gemm_cublaslt(struct device *dev, struct tensor out, struct tensor a, struct tensor w,
                     struct tensor bias, enum act act)
{
    const bool fused = act == ACT_NONE || act == ACT_GELU_TANH;

    if (!is_supported(out, a, w, bias) || (!fused && !tensor_contiguous(out)))
        return plain_gemm(dev, out, a, w, bias, act);
    if (fused)
        return product(dev, out, a, w, bias, act, false);
    TRY(product(dev, out, a, w, bias, ACT_NONE, false));
    return plain_activate(dev, out, act);
}

status gemm_add_cublaslt(struct device *dev, struct tensor sum, struct tensor a, struct tensor w,
                         struct tensor bias)
{
    if (!is_supported(sum, a, w, bias))
        return plain_gemm_add(dev, sum, a, w, bias);
    return product(dev, sum, a, w, bias, ACT_NONE, true);
}

status fp8_gemm_cublaslt(struct device *dev, struct tensor out, struct fp8_rows a,
                         struct fp8_rows w, struct tensor bias)
{
    const struct vectors vectors = { bias.data, w.scale.data, a.scale.data };
    const struct key key = {
        .a = DT_F8_E4M3,
        .w = DT_F8_E4M3,
        .out = out.dtype,
        .bias = bias.data != NULL ? bias.dtype : DT_NONE,
        .act = ACT_NONE,
        .m = a.value.dim[0],
        .n = w.value.dim[0],
        .k = w.value.dim[1],
        .lda = row_stride(a.value),
        .ldw = w.value.dim[1],
        .ldd = row_stride(out),
        .workspace = (int64_t)dev->table->workspace,
        .row_scales = 1,
    };
    bool missing = true;

    if (out.dtype == DT_BF16 && is_supported(out, a.value, w.value, bias) &&
        (uintptr_t)a.scale.data % ALIGN == 0 && w.value.dim[0] % ALIGN == 0)
        TRY(multiply(dev, key, out, a.value, w.value, vectors, false, &missing));
    return missing ? plain_fp8_gemm(dev, out, a, w, bias) : ST_OK;
}
