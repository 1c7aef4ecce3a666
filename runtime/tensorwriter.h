/* tensorwriter.h - writes files of named tensors, as the libraries that users have read them:
 * .safetensors, and PyTorch's .pth (a zip of a pickle and stored members). */
#ifndef RUNTIME_TENSORWRITER_H
#define RUNTIME_TENSORWRITER_H

#include "runtime/status.h"
#include "runtime/tensor.h"

struct tensor_entry {
    const char *name;    // printable, without quotes and backslashes
    struct tensor shape; // contiguous; data is not looked at
};

/* Puts elements [first, first + count) of tensor `index` into dst. Called once for each, from
 * several threads at once for a .safetensors. */
typedef status tensor_fill(void *payload, int index, int64_t first, int64_t count, void *dst);

/* Writes the file anew. An unfinished file stays behind when it fails. ST_IO, ST_MEMORY, what
 * `fill` returns. pth: F32, BF16 and F16. */
status tensorwriter_safetensors(const char *path, const struct tensor_entry *tensors, int count,
                                tensor_fill *fill, void *payload);
status tensorwriter_pth(const char *path, const struct tensor_entry *tensors, int count,
                        tensor_fill *fill, void *payload);

#endif
