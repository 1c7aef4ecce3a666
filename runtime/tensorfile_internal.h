/* tensorfile_internal.h - shared by the readers of the two formats: a growing list of the tensors
 * of one file, in which every entry was checked against that file. */
#ifndef RUNTIME_TENSORFILE_INTERNAL_H
#define RUNTIME_TENSORFILE_INTERNAL_H

#include "runtime/tensorfile.h"

struct tensor_source {
    const char *path;
    int fd;
    uint64_t size; // of the file, in bytes
    int index;     // file_tensor.file
};

struct tensor_list {
    struct file_tensor *tensors; // name and file_name are owned, and equal until renamed
    int count, room;
};

/* Appends one tensor, and owns copies of its name. `stride` NULL is row-major. The name is checked
 * to be printable, since error lines and reports contain it; dims, strides and the offset must
 * have been checked by the caller. */
status tensor_list_add(struct tensor_list *list, const struct tensor_source *src, const char *name,
                       enum dtype dt, int ndim, const int64_t *dim, const int64_t *stride,
                       uint64_t offset);
void tensor_list_done(struct tensor_list *list);

/* Elements of a tensor of these dims, and their bytes. ST_FORMAT when a dim is negative or a
 * product does not fit into 63 bits. */
status tensor_extent(const struct tensor_source *src, const char *name, enum dtype dt, int ndim,
                     const int64_t *dim, int64_t *count, uint64_t *bytes);

/* Reads exactly `bytes` bytes at `offset`. ST_IO: an error, or the file ends earlier. */
status read_exactly(const struct tensor_source *src, void *dst, size_t bytes, uint64_t offset);

status safetensors_list(const struct tensor_source *src, struct tensor_list *list);
status pth_list(const struct tensor_source *src, struct tensor_list *list);

/* The range of storage `key` in the file. ST_FORMAT when there is none, or it is compressed. */
struct pickle_storages {
    status (*find)(void *payload, const char *key, uint64_t *offset, uint64_t *bytes);
    void *payload;
};

/* The tensors that a pickle of torch.save describes. Nothing in it is executed. */
status pickle_list(const struct tensor_source *src, const uint8_t *data, size_t size,
                   struct pickle_storages storages, struct tensor_list *list);

#endif
