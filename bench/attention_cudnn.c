/* Attention as a graph for which cuDNN has one fused kernel:
 *
 *     s = q k^T * scale;  m = max s;  e = exp(s - m);  l = sum e;  out = (e / l) v;
 *     lse = m + log l
 *
 * cuDNN's axes are [batch, heads, tokens, head size], with strides. Source: the cuDNN backend API,
 * and the pattern in its documentation for scaled dot product attention. */
#include "bench/attention_cudnn.h"

#include "kernels/cuda/context.h"

#include <cudnn.h>
#include <string.h>

enum {
    ID_Q = 1,
    ID_K,
    ID_V,
    ID_OUT,
    ID_LSE,
    ID_SCALE,
    ID_VIRTUAL, // the first of the tensors that are not stored
};

/* The shapes of a cached execution plan. Strides in elements. */
struct attention_key {
    int64_t sq, sk, n, d;
    int64_t stride[4][2]; // of q, k, v, out: token, head
    int64_t lse;
};

struct attention_plan {
    cudnnBackendDescriptor_t plan;
};

#define DESCRIPTORS 80

/* The descriptors of a graph during its construction. */
struct graph {
    cudnnBackendDescriptor_t made[DESCRIPTORS], ops[12];
    int count, op_count, next_id;
    status st; // of the first call that failed; later calls do nothing
};

static status dnn_check(cudnnStatus_t e)
{
    char more[256] = "";

    if (e == CUDNN_STATUS_SUCCESS)
        return ST_OK;
    cudnnGetLastErrorString(more, sizeof(more));
    return fail(ST_DEVICE, "attention: cuDNN %s %s", cudnnGetErrorString(e), more);
}

static void note(struct graph *g, cudnnStatus_t e)
{
    if (g->st == ST_OK)
        g->st = dnn_check(e);
}

static cudnnBackendDescriptor_t make(struct graph *g, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t d = NULL;

    if (g->st != ST_OK)
        return NULL;
    note(g, cudnnBackendCreateDescriptor(type, &d));
    if (d != NULL)
        g->made[g->count++] = d;
    return d;
}

static void set(struct graph *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *value)
{
    if (g->st == ST_OK)
        note(g, cudnnBackendSetAttribute(d, name, type, count, value));
}

static void set_part(struct graph *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                     cudnnBackendDescriptor_t part)
{
    set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &part);
}

static void finish(struct graph *g, cudnnBackendDescriptor_t d)
{
    if (g->st == ST_OK)
        note(g, cudnnBackendFinalize(d));
}

/* A tensor of four axes; `id` is ID_VIRTUAL for one that is not stored. */
static cudnnBackendDescriptor_t value(struct graph *g, int64_t id, cudnnDataType_t type,
                                      const int64_t *dim, const int64_t *stride)
{
    const cudnnBackendDescriptor_t d = make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    const int64_t align = type == CUDNN_DATA_BFLOAT16 ? 16 : 4;
    const bool is_virtual = id == ID_VIRTUAL, scalar = id == ID_SCALE;

    if (is_virtual)
        id = g->next_id++;
    set(g, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dim);
    set(g, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride);
    set(g, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
    set(g, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
    set(g, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    set(g, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &scalar);
    finish(g, d);
    return d;
}

static const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;

static void product(struct graph *g, cudnnBackendDescriptor_t a, cudnnBackendDescriptor_t b,
                    cudnnBackendDescriptor_t c)
{
    const cudnnBackendDescriptor_t how = make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);

    set(g, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    finish(g, how);

    const cudnnBackendDescriptor_t op = make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);

    set_part(g, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    set_part(g, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    set_part(g, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    set_part(g, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
    finish(g, op);
    g->ops[g->op_count++] = op;
}

/* y = mode(x, b), or mode(x) without b */
static void pointwise(struct graph *g, cudnnPointwiseMode_t mode, cudnnBackendDescriptor_t x,
                      cudnnBackendDescriptor_t b, cudnnBackendDescriptor_t y)
{
    const cudnnBackendDescriptor_t how = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);

    set(g, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(g, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    finish(g, how);

    const cudnnBackendDescriptor_t op = make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);

    set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b != NULL)
        set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    set_part(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    finish(g, op);
    g->ops[g->op_count++] = op;
}

static void reduction(struct graph *g, cudnnReduceTensorOp_t mode, cudnnBackendDescriptor_t x,
                      cudnnBackendDescriptor_t y)
{
    const cudnnBackendDescriptor_t how = make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);

    set(g, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &mode);
    set(g, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    finish(g, how);

    const cudnnBackendDescriptor_t op = make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);

    set_part(g, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    set_part(g, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_part(g, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    finish(g, op);
    g->ops[g->op_count++] = op;
}

/* Creates the operations; the graph itself is finalized in choose(). */
static void describe(struct graph *g, const struct attention_key *key)
{
    const int64_t sq = key->sq, sk = key->sk, n = key->n, d = key->d;
    const int64_t logits[] = { 1, n, sq, sk }, logit_at[] = { n * sq * sk, sq * sk, sk, 1 };
    const int64_t row[] = { 1, n, sq, 1 }, row_at[] = { n * sq, sq, 1, 1 };
    const int64_t lse_at[] = { sq * n, 1, n, 1 }; // [Sq, N] in memory
    const int64_t one[] = { 1, 1, 1, 1 };
    const int64_t outer[] = { 1, n, sq, d }, keys[] = { 1, n, d, sk }, values[] = { 1, n, sk, d };
    int64_t at[4][4];

    for (int i = 0; i < 4; i++) {
        const int64_t token = key->stride[i][0], head = key->stride[i][1];

        at[i][0] = (i == 0 || i == 3 ? sq : sk) * token;
        at[i][1] = head;
        at[i][2] = i == 1 ? 1 : token; // k is passed as k^T
        at[i][3] = i == 1 ? token : 1;
    }

#define VIRTUAL(type, of) value(g, ID_VIRTUAL, type, of, of##_at)
    const int64_t *logits_at = logit_at;
    const cudnnDataType_t bf16 = CUDNN_DATA_BFLOAT16;
    const cudnnBackendDescriptor_t q = value(g, ID_Q, bf16, outer, at[0]);
    const cudnnBackendDescriptor_t k = value(g, ID_K, bf16, keys, at[1]);
    const cudnnBackendDescriptor_t v = value(g, ID_V, bf16, values, at[2]);
    const cudnnBackendDescriptor_t out = value(g, ID_OUT, bf16, outer, at[3]);
    const cudnnBackendDescriptor_t scale = value(g, ID_SCALE, f32, one, one);
    const cudnnBackendDescriptor_t raw = VIRTUAL(f32, logits), scaled = VIRTUAL(f32, logits);
    const cudnnBackendDescriptor_t less = VIRTUAL(f32, logits), e = VIRTUAL(f32, logits);
    const cudnnBackendDescriptor_t max = VIRTUAL(f32, row), sum = VIRTUAL(f32, row);
    const cudnnBackendDescriptor_t log = VIRTUAL(f32, row), p = VIRTUAL(bf16, logits);

    product(g, q, k, raw);
    pointwise(g, CUDNN_POINTWISE_MUL, raw, scale, scaled);
    reduction(g, CUDNN_REDUCE_TENSOR_MAX, scaled, max);
    pointwise(g, CUDNN_POINTWISE_SUB, scaled, max, less);
    pointwise(g, CUDNN_POINTWISE_EXP, less, NULL, e);
    reduction(g, CUDNN_REDUCE_TENSOR_ADD, e, sum);
    pointwise(g, CUDNN_POINTWISE_LOG, sum, NULL, log);
    // cuDNN has no kernel for a graph without this sum, whether it is stored or not
    pointwise(g, CUDNN_POINTWISE_ADD, max, log,
              value(g, key->lse ? ID_LSE : ID_VIRTUAL, f32, row, key->lse ? lse_at : row_at));
    pointwise(g, CUDNN_POINTWISE_DIV, e, sum, p);
    product(g, p, v, out);
#undef VIRTUAL
}

/* Takes the first plan that cuDNN proposes and that needs at most `workspace` bytes. */
static status choose(struct graph *g, cudnnHandle_t handle, struct attention_plan *plan,
                     size_t workspace)
{
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    const cudnnBackendDescriptor_t graph = make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    const cudnnBackendDescriptor_t heuristic = make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    cudnnBackendDescriptor_t found[8];
    int64_t count = 0;
    status st;

    set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    set(g, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->op_count,
        g->ops);
    finish(g, graph);
    set_part(g, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(g, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    finish(g, heuristic);
    for (size_t i = 0; i < COUNT(found); i++)
        found[i] = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (g->st == ST_OK)
        note(g, cudnnBackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                         CUDNN_TYPE_BACKEND_DESCRIPTOR, (int64_t)COUNT(found),
                                         &count, found));
    TRY(g->st);
    st = fail(ST_DEVICE, "attention: cuDNN proposes no kernel");
    for (int64_t i = 0; i < count && st != ST_OK; i++) {
        int64_t bytes = 0, got;

        g->st = ST_OK;
        plan->plan = make(g, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
        set(g, plan->plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
        set_part(g, plan->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, found[i]);
        finish(g, plan->plan);
        if (g->st == ST_OK)
            note(g, cudnnBackendGetAttribute(plan->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                             CUDNN_TYPE_INT64, 1, &got, &bytes));
        st = g->st;
        if (st == ST_OK && (size_t)bytes > workspace)
            st = fail(ST_DEVICE, "attention: cuDNN needs a workspace of %lld bytes",
                      (long long)bytes);
    }
    if (st == ST_OK)
        g->count--; // the last descriptor is the plan, which is kept
    else
        plan->plan = NULL;
    return st;
}

static status plan_attention(cudnnHandle_t handle, struct attention_plan *plan,
                             const struct attention_key *key, size_t workspace)
{
    struct graph g = { .st = ST_OK, .next_id = ID_VIRTUAL };
    status st;

    describe(&g, key);
    st = g.st == ST_OK ? choose(&g, handle, plan, workspace) : g.st;
    while (g.count > 0)
        cudnnBackendDestroyDescriptor(g.made[--g.count]);
    return st;
}

static void plan_done(void *entry)
{
    struct attention_plan *plan = entry;

    if (plan->plan != NULL)
        cudnnBackendDestroyDescriptor(plan->plan);
}

static cudnnHandle_t handle;
static struct descriptor_cache *plans;

void attention_cudnn_close(void)
{
    descriptor_cache_close(&plans);
    if (handle != NULL)
        cudnnDestroy(handle);
    handle = NULL;
}

status attention_cudnn(struct device *dev, struct tensor out, struct tensor lse, struct tensor q,
                       struct tensor k, struct tensor v, float scale)
{
    const struct tensor *each[] = { &q, &k, &v, &out };
    struct attention_key key;
    struct attention_plan *plan;
    bool made;

    if (handle == NULL) {
        TRY(dnn_check(cudnnCreate(&handle)));
        TRY(dnn_check(cudnnSetStream(handle, cuda_stream(dev))));
    }
    memset(&key, 0, sizeof(key));
    key = (struct attention_key){
        .sq = q.dim[0], .sk = k.dim[0], .n = q.dim[1], .d = q.dim[2], .lse = lse.data != NULL
    };
    for (int i = 0; i < 4; i++) {
        key.stride[i][0] = each[i]->stride[0];
        key.stride[i][1] = each[i]->stride[1];
    }
    TRY(descriptor_cache_find(&plans, &key, sizeof(key), sizeof(*plan), plan_done, (void **)&plan,
                              &made));
    if (made) {
        const status st = plan_attention(handle, plan, &key, dev->table->workspace);

        if (st != ST_OK) {
            descriptor_cache_remove(&plans, plan);
            return st;
        }
    }

    const int64_t ids[] = { ID_Q, ID_K, ID_V, ID_OUT, ID_SCALE, ID_LSE };
    void *const data[] = { q.data, k.data, v.data, out.data, &scale, lse.data };
    const int64_t count = lse.data != NULL ? 6 : 5;
    struct graph g = { .st = ST_OK };
    cudnnBackendDescriptor_t pack = NULL;

    note(&g, cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack));
    set(&g, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids);
    set(&g, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, data);
    set(&g, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &dev->workspace);
    finish(&g, pack);
    if (g.st == ST_OK)
        note(&g, cudnnBackendExecute(handle, plan->plan, pack));
    if (pack != NULL)
        cudnnBackendDestroyDescriptor(pack);
    return g.st;
}
