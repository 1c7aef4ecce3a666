/* describe.h - functions that read a part's config from the shapes of its tensors. config.json adds
 * what shapes do not determine (heads, eps), and must not contradict them. All return ST_FORMAT
 * with the name of the file, tensor or key. Local. */
#ifndef MODEL_CHECKPOINT_DESCRIBE_H
#define MODEL_CHECKPOINT_DESCRIBE_H

#include "runtime/tensorfile.h"

struct cJSON;

struct describing {
    const struct tensorfile *f;
    const char *file;         // path of the first file of `f`, for error lines
    const char *config;       // the path of config.json, or NULL
    const struct cJSON *json; // its contents, or NULL
};

/* Size of one axis of a tensor. The tensor must exist and have `ndim` axes. */
status describe_axis(const struct describing *d, const char *tensor, int ndim, int axis,
                     int64_t *size);

/* Number of entries of a list of modules, "blocks.": one more than the largest N of the tensor
 * names that begin with "blocks.N."; 0 if there is none. */
status describe_count(const struct describing *d, const char *list, int *count);

/* A number of config.json; *value is unchanged if the key is missing. */
status describe_number(const struct describing *d, const char *key, double *value);

/* A size that only config.json has: a positive whole number; *value is unchanged if the key is
 * missing. */
status describe_size(const struct describing *d, const char *key, int64_t *value);

/* The number of heads of an encoder of width `dim`: num_attention_heads of config.json, else as
 * many as there are of `head_dim`; ST_FORMAT if that does not divide the width. `what`: for the
 * error line, "audio encoder". */
status describe_heads(const struct describing *d, int64_t dim, int64_t head_dim, const char *what,
                      int *heads);

/* Checks that config.json, if it has the key, agrees with `size`, which was read from `tensor`. */
status describe_agree(const struct describing *d, const char *key, int64_t size,
                      const char *tensor);

/* A list of `count` numbers; out[count] is unchanged if the key is missing. positive: all must be
 * above 0. */
status describe_list(const struct describing *d, const char *key, int64_t count, bool positive,
                     float *out);

/* Whether the file has this tensor; for a name that ends in '.', any tensor that begins with it. */
bool describe_has(const struct describing *d, const char *tensor);

#endif
