/* tensorfile.h - files of named tensors, read by range: .safetensors, PyTorch's .pth, GGUF, or
 * several files as one. Files are untrusted: sizes, offsets and counts are checked against the
 * file, pickles are never executed, and an error line names what was refused.
 *
 * A quantized weight is one tensor of type F32, whose values are computed when they are read; its
 * scales and notes are not listed. What is read:
 *     GGUF         the block formats of blocks.c
 *     fp8          e4m3 or e5m2, without scales; with one scale, one per row or per group of a row
 *                  (X.scale_weight of ComfyUI, X.weight_scale of LightX2V, X.weight._scale of
 *                  quanto); mxfp8 of ComfyUI
 *     int8         with such scales; TurboDiffusion's X.int8_weight with X.scale
 *     nvfp4        of ComfyUI
 *
 *   tensorfile.c    opens files, finds and reads tensors
 *   safetensors.c   the three formats: lists of their tensors
 *   pth.c, pickle.c
 *   gguf.c
 *   companions.c    finds the scales of quantized weights
 *   coded.c         reads quantized values
 *   stored.h        quantized values in memory
 *   blocks.h        the block formats of GGUF
 *   convert.h       conversion between floating-point types
 *   foreign.h       names what is mistaken for a weight file */
#ifndef RUNTIME_TENSORFILE_H
#define RUNTIME_TENSORFILE_H

#include "runtime/status.h"
#include "runtime/stored.h"

struct tensor_coding;

struct file_tensor {
    char *name;            // canonical: what find() searches for; see tensorfile_rename
    const char *file_name; // as in the file
    struct tensor shape;   // dtype (quantized: F32), dims and strides in elements; data is NULL
    int file;              // index of the file that holds it
    uint64_t offset;       // of its first element in that file, in bytes
    uint64_t bytes;        // in its file, with its scales
    const char *format;    // as stored: "F32", "Q4_K", "F8_E4M3 scaled"
    struct tensor_coding *coding; // of a quantized weight, owned; NULL: plain numbers
};

struct tensorfile {
    int files, count;
    struct file_tensor *tensors; // sorted by name
    uint64_t total_bytes;        // of all tensors
    uint64_t bytes_read;         // data bytes read so far by this rank, headers not counted
    struct tensorfile_impl *impl;
};

/* Opens and checks all headers. `paths` are files of any of the formats. ST_IO, ST_FORMAT. */
status tensorfile_open(struct tensorfile *f, const char *const *paths, int count);
void tensorfile_close(struct tensorfile *f); // accepts half-open and zeroed values

/* Renames every tensor through `map`, which writes the canonical name (at most `size` bytes) or
 * returns false to keep the file's. Names must stay distinct: ST_FORMAT. */
status tensorfile_rename(struct tensorfile *f,
                         bool (*map)(void *payload, const char *name, char *out, size_t size),
                         void *payload);

/* Removes the tensors for which `keep` is false. */
void tensorfile_keep(struct tensorfile *f, bool (*keep)(void *payload, const struct file_tensor *t),
                     void *payload);

/* Gives a tensor other axes for the same elements in row-major order. False, and nothing is
 * changed, if their number is another, or the file has it in another order. */
bool tensorfile_reshape(struct tensorfile *f, const char *name, int ndim, const int64_t *dim);

/* Whether a tensor of this name, as in the file, may be one that is not listed, but belongs to a
 * quantized weight. */
bool tensorfile_is_companion(const char *name);

const struct file_tensor *tensorfile_find(const struct tensorfile *f, const char *name);
const char *tensorfile_path(const struct tensorfile *f, int file);

/* The string `key` of a .safetensors file's __metadata__, malloc'ed; NULL if it has none. Reads the
 * header again. ST_IO, ST_FORMAT, ST_MEMORY. */
status tensorfile_metadata(const struct tensorfile *f, int file, const char *key, char **value);

/* Elements [first, first + count) in row-major order, converted to `dt` (F32, BF16; or the file's
 * own dtype unconverted). Quantized values are computed in F32 and rounded once. Reads only the
 * bytes these elements need. Several threads may read at once. ST_IO when the file was truncated
 * meanwhile. */
status tensorfile_read(struct tensorfile *f, const struct file_tensor *t, int64_t first,
                       int64_t count, enum dtype dt, void *dst);

/* How the tensor is stored, for tensorfile_read_stored; false if its elements are in another order
 * than row-major, or no values can be computed from them. */
bool tensorfile_form(const struct file_tensor *t, struct stored_form *form);

/* Bytes [first, first + count) of the stored_bytes() of the tensor as it is stored. Bytes between
 * numbers and scales are not written. Several threads may read at once. ST_IO. */
status tensorfile_read_stored(struct tensorfile *f, const struct file_tensor *t, size_t first,
                              size_t count, void *dst);

/* Whether a tensor is a matrix stored in e4m3 with one scale per row, one for all rows, or none:
 * fp8.h's rows of fp8, as they are. Then reads the bytes of elements [first, first + count); and
 * the scales of rows, 1 where there are none. Errors as of tensorfile_read. */
bool tensorfile_has_fp8(const struct file_tensor *t);
status tensorfile_read_fp8(struct tensorfile *f, const struct file_tensor *t, int64_t first,
                           int64_t count, uint8_t *dst);
status tensorfile_read_fp8_scales(struct tensorfile *f, const struct file_tensor *t, int64_t first,
                                  int64_t count, float *dst);

/* Hint that this range will be read soon. */
void tensorfile_prefetch(struct tensorfile *f, const struct file_tensor *t, int64_t first,
                         int64_t count);

/* Types in the metadata of GGUF files. */
enum value_type {
    VALUE_NONE = -1,
    VALUE_U8,
    VALUE_I8,
    VALUE_U16,
    VALUE_I16,
    VALUE_U32,
    VALUE_I32,
    VALUE_F32,
    VALUE_BOOL,   // one byte
    VALUE_STRING, // a u64 length, then the bytes
    VALUE_ARRAY,
    VALUE_U64,
    VALUE_I64,
    VALUE_F64,
};

struct file_value {
    enum value_type type; // of the value, or of the elements of an array
    uint64_t count;       // of them
    uint8_t *bytes;       // little-endian, malloc'ed
    size_t size;
};

/* Reads a value of the metadata of a GGUF file. Its type is VALUE_NONE if the file has no such key,
 * or is no GGUF file. The caller frees v->bytes. ST_IO, ST_FORMAT, ST_MEMORY. */
status tensorfile_value(const struct tensorfile *f, int file, const char *key,
                        struct file_value *v);

#endif
