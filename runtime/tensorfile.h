/* tensorfile.h - files of named tensors, read by range: .safetensors, PyTorch's .pth, or several
 * shards as one. Files are untrusted: sizes, offsets and counts are checked against the file,
 * pickles are never executed, and an error line names what was refused. */
#ifndef RUNTIME_TENSORFILE_H
#define RUNTIME_TENSORFILE_H

#include "runtime/status.h"
#include "runtime/tensor.h"

struct file_tensor {
    char *name;            // canonical: what find() searches for; see tensorfile_rename
    const char *file_name; // as in the file
    struct tensor shape;   // dtype, dims and strides in elements; data is NULL
    int file;              // index of the file that holds it
    uint64_t offset;       // of its first element in that file, in bytes
};

struct tensorfile {
    int files, count;
    struct file_tensor *tensors; // sorted by name
    uint64_t total_bytes;        // of all tensors
    uint64_t bytes_read;         // data bytes read so far by this rank, headers not counted
    struct tensorfile_impl *impl;
};

/* Opens and checks all headers. `paths` are files of either format. ST_IO, ST_FORMAT. */
status tensorfile_open(struct tensorfile *f, const char *const *paths, int count);
void tensorfile_close(struct tensorfile *f); // accepts half-open and zeroed values

/* Renames every tensor through `map`, which writes the canonical name (at most `size` bytes) or
 * returns false to keep the file's. Names must stay distinct: ST_FORMAT. */
status tensorfile_rename(struct tensorfile *f,
                         bool (*map)(void *payload, const char *name, char *out, size_t size),
                         void *payload);

const struct file_tensor *tensorfile_find(const struct tensorfile *f, const char *name);
const char *tensorfile_path(const struct tensorfile *f, int file);

/* Elements [first, first + count) in row-major order, converted to `dt` (F32, BF16; or the file's
 * own dtype unconverted). Reads only the bytes these elements need. Several threads may read at
 * once. ST_IO when the file was truncated meanwhile. */
status tensorfile_read(struct tensorfile *f, const struct file_tensor *t, int64_t first,
                       int64_t count, enum dtype dt, void *dst);

/* Hint that this range will be read soon. */
void tensorfile_prefetch(struct tensorfile *f, const struct file_tensor *t, int64_t first,
                         int64_t count);

#endif
