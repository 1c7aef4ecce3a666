/* tensorfile_internal.h - shared by the readers of the formats: a growing list of the tensors of
 * one file, in which every entry was checked against that file. */
#ifndef RUNTIME_TENSORFILE_INTERNAL_H
#define RUNTIME_TENSORFILE_INTERNAL_H

#include "runtime/stored.h"
#include "runtime/tensorfile.h"

struct tensor_source {
    const char *path;
    int fd;
    uint64_t size; // of the file, in bytes
    int index;     // file_tensor.file
    bool gguf;
    char *layer_formats; // JSON, owned: ComfyUI's formats of layers, in a .safetensors header; NULL
};

struct tensor_list {
    struct file_tensor *tensors; // name, file_name and coding are owned
    int count, room;
};

/* How the values follow from what is stored, where they are not plain numbers of shape.dtype.
 * form.count and form.row are those of the file; tensorfile_form gives those of the shape. */
struct tensor_coding {
    struct stored_form form;
    int scale_file; // -1: there are none
    uint64_t scale_offset;
    char format[24]; // for file_tensor.format
};

/* Appends one tensor, and owns copies of its name. `stride` NULL is row-major. The name is checked
 * to be printable, since error lines and reports contain it; dims, strides and the offset must
 * have been checked by the caller. */
status tensor_list_add(struct tensor_list *list, const struct tensor_source *src, const char *name,
                       enum dtype dt, int ndim, const int64_t *dim, const int64_t *stride,
                       uint64_t offset);
void tensor_list_done(struct tensor_list *list);
void file_tensor_done(struct file_tensor *t);

/* Elements of a tensor of these dims, and their bytes. ST_FORMAT when a dim is negative or a
 * product does not fit into 63 bits. */
status tensor_extent(const struct tensor_source *src, const char *name, enum dtype dt, int ndim,
                     const int64_t *dim, int64_t *count, uint64_t *bytes);

/* Sorts by name and refuses duplicate names. */
status sort_names(struct file_tensor *tensors, int count, const struct tensor_source *sources);

/* Reads exactly `bytes` bytes at `offset`. ST_IO: an error, or the file ends earlier. */
status read_exactly(const struct tensor_source *src, void *dst, size_t bytes, uint64_t offset);

status safetensors_list(struct tensor_source *src, struct tensor_list *list);
status safetensors_metadata(const struct tensor_source *src, const char *key, char **value);
status pth_list(const struct tensor_source *src, struct tensor_list *list);
status gguf_list(const struct tensor_source *src, struct tensor_list *list);

/* gguf.c: see tensorfile_value. */
status gguf_value(const struct tensor_source *src, const char *key, struct file_value *v);

/* companions.c: in a sorted list of all files' tensors, gives quantized weights their coding, and
 * removes the tensors that belong to them (scales, markers, notes). ST_FORMAT: a format that is not
 * read, by name; a weight of 8 bits with a tensor beside it that is not known. */
status companions_attach(struct tensor_list *list, const struct tensor_source *sources);

/* notes.c: what ComfyUI's note says of a layer; without a note, nothing. */
struct layer_note {
    int rotation; // values of a row that are rotated together; 0: none
    bool int4;    // in I8, two in a byte
};

#define ROTATION_MAX 1024

struct cJSON;

/* Reads the note of `weight` that is in tensor t, or that of `layer` in the header's notes, whose
 * names may lack prefixes that the tensors have. ST_FORMAT: a format that is not read, by name. */
status note_read(struct layer_note *out, const struct tensor_source *sources,
                 const struct file_tensor *weight, const struct file_tensor *t);
status note_in_header(struct layer_note *out, const struct tensor_source *sources,
                      const struct file_tensor *weight, const char *layer,
                      const struct cJSON *layers);

/* The notes of each file's header, for the caller to delete; NULL where it has none. */
status notes_parse(struct cJSON **notes, const struct tensor_source *sources, int files);

/* coded.c: the values of a tensor with a coding, as tensorfile_read; *bytes: read for them. */
status coded_read(const struct tensor_source *sources, const struct file_tensor *t, int64_t first,
                  int64_t count, enum dtype dt, void *dst, uint64_t *bytes);

/* coded.c: how the tensor is stored, and its bytes [first, first + count) in that form, those
 * between the numbers and the scales not written. */
void coded_form(const struct file_tensor *t, struct stored_form *f);
status coded_read_stored(const struct tensor_source *sources, const struct file_tensor *t,
                         const struct stored_form *f, size_t first, size_t count, void *dst);

/* coded.c: the scales of rows of a matrix that has one per row, or one; *bytes: read for them. */
status coded_row_scales(const struct tensor_source *sources, const struct file_tensor *t,
                        int64_t first, int64_t count, float *dst, uint64_t *bytes);

/* coded.c: where elements [first, first + count) of it are in the file. */
void coded_range(const struct file_tensor *t, int64_t first, int64_t count, uint64_t *offset,
                 uint64_t *bytes);

/* The range of storage `key` in the file. ST_FORMAT when there is none, or it is compressed. */
struct pickle_storages {
    status (*find)(void *payload, const char *key, uint64_t *offset, uint64_t *bytes);
    void *payload;
};

/* The tensors that a pickle of torch.save describes. Nothing in it is executed. */
status pickle_list(const struct tensor_source *src, const uint8_t *data, size_t size,
                   struct pickle_storages storages, struct tensor_list *list);

#endif
