/* tensorwriter.h - writes files of named tensors: .safetensors, and PyTorch's .pth (a zip archive
 * of a pickle and uncompressed members). */
#ifndef RUNTIME_TENSORWRITER_H
#define RUNTIME_TENSORWRITER_H

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

#endif
