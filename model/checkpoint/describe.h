/* describe.h - reading a part's numbers from its tensors' shapes; config.json adds what shapes do
 * not tell (heads, eps) and must agree on the rest. */
#ifndef MODEL_CHECKPOINT_DESCRIBE_H
#define MODEL_CHECKPOINT_DESCRIBE_H

#include "runtime/tensorfile.h"

struct cJSON;

struct describing {
    const struct tensorfile *f;
    const char *file;         // the first of its files, for error lines
    const char *config;       // the path of config.json, or NULL
    const struct cJSON *json; // its contents, or NULL
};

/* Size of one axis of a tensor that must exist with `ndim` axes. ST_FORMAT. */
status describe_axis(const struct describing *d, const char *tensor, int ndim, int axis,
                     int64_t *size);

/* One more than the largest N of the names that begin with "list.N."; 0 when there is none. */
status describe_count(const struct describing *d, const char *list, int *count);

/* A number of config.json; *value stays where it has none. ST_FORMAT when it is no number. */
status describe_number(const struct describing *d, const char *key, double *value);

/* A size that only config.json knows: whole and positive; *value stays where it has none. */
status describe_size(const struct describing *d, const char *key, int64_t *value);

/* config.json may leave a size out, but must not contradict the tensor. */
status describe_agree(const struct describing *d, const char *key, int64_t size,
                      const char *tensor);

/* A list of `count` numbers; out stays where config.json has none. positive: all above 0. */
status describe_list(const struct describing *d, const char *key, int64_t count, bool positive,
                     float *out);

bool describe_has(const struct describing *d, const char *tensor); // "list.": any so named

#endif
