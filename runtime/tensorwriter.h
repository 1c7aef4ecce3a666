/* tensorwriter.h - writes files of named tensors: .safetensors, and PyTorch's .pth (a zip archive
 * of a pickle and uncompressed members), and GGUF. */
#ifndef RUNTIME_TENSORWRITER_H
#define RUNTIME_TENSORWRITER_H

#include "runtime/blocks.h"
#include "runtime/status.h"
#include "runtime/tensor.h"

struct tensor_entry {
    const char *name;    // printable, without newlines
    struct tensor shape; // contiguous; data is ignored
};

/* Writes elements [first, first + count) of tensor `index` to dst. Called once per range; for a
 * .safetensors from several threads at once. */
typedef status tensor_fill(void *payload, int index, int64_t first, int64_t count, void *dst);

/* Create or overwrite the file; after an error an incomplete one remains. ST_IO, ST_MEMORY, and
 * what `fill` returns. pth: F32, BF16 and F16 only. */
status tensorwriter_safetensors(const char *path, const struct tensor_entry *tensors, int count,
                                tensor_fill *fill, void *payload);
status tensorwriter_pth(const char *path, const struct tensor_entry *tensors, int count,
                        tensor_fill *fill, void *payload);

/* The same as GGUF, version 3, with general.architecture. blocks[i]: the format of tensor i, of
 * which `fill` is asked for elements of whole blocks; NULL: F32, BF16 or F16. */
status tensorwriter_gguf(const char *path, const char *architecture,
                         const struct tensor_entry *tensors, const struct ggml_type *const *blocks,
                         int count, tensor_fill *fill, void *payload);

#endif
