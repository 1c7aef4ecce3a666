#include "kernels/cuda/tensor_map.h"

#include <cudaTypedefs.h>

status tensor_map_encode(struct cuda_context *c, CUtensorMap *map, const struct tensor_map *m,
                         const char *op)
{
    const PFN_cuTensorMapEncodeTiled_v12000 encode =
        (PFN_cuTensorMapEncodeTiled_v12000)c->encode_tiled;
    const size_t element = dtype_size(m->dtype);
    const size_t row_bytes = (size_t)m->box[0] * element;
    cuuint64_t dim[4], bytes[4];
    cuuint32_t box[4], step[4];
    CUresult e;

    for (int i = 0; i < m->rank; i++) {
        dim[i] = (cuuint64_t)m->dim[i];
        bytes[i] = (cuuint64_t)m->stride[i] * element;
        box[i] = (cuuint32_t)m->box[i];
        step[i] = (cuuint32_t)m->step[i];
    }
    e = encode(map,
               m->dtype == DT_F32   ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
               : m->dtype == DT_I8  ? CU_TENSOR_MAP_DATA_TYPE_UINT8
               : m->dtype == DT_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                    : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
               (cuuint32_t)m->rank, (void *)m->data, dim, bytes + 1, box, step,
               CU_TENSOR_MAP_INTERLEAVE_NONE,
               row_bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B, m->l2,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (e == CUDA_SUCCESS)
        return ST_OK;
    return fail(ST_DEVICE, "%s: cannot describe a tensor to the GPU's copy unit, CUDA error %d", op,
                (int)e);
}
