/* lora_internal.h - what the .c files of lora.h share. */
#ifndef MODEL_LORA_LORA_INTERNAL_H
#define MODEL_LORA_LORA_INTERNAL_H

#include "kernels/merge.h"
#include "model/lora/lora.h"
#include "parallel/loader.h"

#include <pthread.h>

struct cJSON;

/* ---- lora_keys.c: a file as modules ---- */

/* What a key is to its module. */
enum lora_role {
    ROLE_UP,
    ROLE_DOWN,
    ROLE_MID, // core of a Tucker decomposition, between down and up
    ROLE_ALPHA,
    ROLE_DORA,      // dora_scale
    ROLE_MAGNITUDE, // PEFT's name for it, with another norm
    ROLE_UP_BIAS,
    ROLE_DIFF, // full difference of the weight, of the bias, of the modulation
    ROLE_DIFF_B,
    ROLE_DIFF_M,
    ROLE_SET, // replaces the weight
    ROLE_SET_B,
    ROLE_RESHAPE,
    ROLE_HADA_W1_A, // LoHa: (w1_a w1_b) * (w2_a w2_b), elementwise
    ROLE_HADA_W1_B,
    ROLE_HADA_W2_A,
    ROLE_HADA_W2_B,
    ROLE_HADA_T1,
    ROLE_HADA_T2,
    ROLE_LOKR_W1, // LoKr: the Kronecker product of w1 and w2, each whole or a product
    ROLE_LOKR_W1_A,
    ROLE_LOKR_W1_B,
    ROLE_LOKR_W2,
    ROLE_LOKR_W2_A,
    ROLE_LOKR_W2_B,
    ROLE_LOKR_T2,
    LORA_ROLES
};

/* Where a key's prefix says it belongs. */
enum lora_place { PLACE_ANY, PLACE_FIRST, PLACE_SECOND };

struct lora_module {
    char name[WEIGHT_NAME_BYTES]; // without prefix and ending: "blocks.0.self_attn.q"
    enum lora_place place;
    const char *dialect;
    const struct file_tensor *part[LORA_ROLES]; // NULL: it has none
};

struct lora_file {
    struct tensorfile file;
    char *path;
    float strength;
    struct lora_module *modules; // sorted by place and name
    int count;
    const char *dialect;  // of the first module
    struct cJSON *peft;   // settings of PEFT in the file's metadata; or NULL
    const char **unknown; // keys that have no known ending: names of `file`
    int unknown_count;
};

status lora_file_open(struct lora_file *f, const char *path);
void lora_file_close(struct lora_file *f); // accepts a half-open or zeroed value

/* The factor by which the module's product is multiplied, for a rank: alpha / rank, from the key or
 * the file's metadata; 1 without alpha. *alpha: NAN if there is none. ST_FORMAT, ST_IO. */
status lora_scale(struct lora_file *f, const struct lora_module *m, int64_t rank, float *scale,
                  float *alpha);

/* ---- lora_match.c: targets ---- */

/* A matrix [rows, cols], in a file or in memory. */
struct lora_matrix {
    const struct file_tensor *tensor; // NULL: `values`
    float *values;                    // owned
    int64_t rows, cols;
};

enum lora_kind { // the first three are changes of kernels/merge.h
    LORA_PRODUCT,
    LORA_HADAMARD,
    LORA_KRONECKER,
    LORA_DIFF,
    LORA_SET
};

struct lora_term {
    enum lora_kind kind;
    struct tensorfile *file;
    float strength, scale;
    struct lora_matrix a, b;      // product: up, down; Hadamard: w1_a, w1_b; Kronecker: w1, w2;
                                  // a difference: a
    struct lora_matrix c, d;      // Hadamard: w2_a, w2_b
    struct lora_matrix magnitude; // of DoRA: one value per row or per column; rows 0: none
    bool per_column;              // the magnitude's axis
    bool merged_norm; // it is divided by the norm of the changed weight, not of the base
    double *squares;  // of DoRA: sums for the norms, made when they are needed first
};

/* A tensor that is changed. */
struct lora_target {
    char name[WEIGHT_NAME_BYTES];
    struct weight_spec spec; // of the part's list
    int64_t rows, cols;      // as a matrix
    int64_t kernel;          // in memory columns are (kernel, channel), in files (channel, kernel);
                             // 1: the order is the same
    struct lora_term *terms; // in the order in which they are added
    int count;
    int64_t rank; // sum of the ranks, if all terms are products without DoRA; else 0
    bool changes; // all terms are changes of kernels/merge.h, so that a GPU can make them
};

/* Scratch memory on a GPU, for a part of a tensor that is being loaded (lora_device.c). */
struct lora_slot {
    char *memory;
    bool busy; // the base is still to be changed
    struct lora *lora;
    struct loader *loader;
    int64_t ranges; // of the loader, after which the base is there
    const struct lora_target *target;
    struct weight_spec spec; // of the base that is read
    int64_t first, rows;     // element of the tensor; number of rows in which the elements are
    int norms;               // the term whose norms are made of the base; LORA_MERGE: none
    bool more;               // norms: rows before these are in their sums already
    struct tensor dst, base; // dst none: only norms are made
    struct tensor up, down;  // of a product; or
    struct weight_change *changes; // of each term
};

#define LORA_SLOTS 3
#define LORA_MERGE (-1)
#define LORA_CHUNK ((int64_t)16 << 20)

struct lora {
    struct lora_options options;
    struct lora_file *files;
    int file_count;
    char **lines;                // one per use
    struct lora_target *targets; // sorted by name
    int count;
    int unknown;
    pthread_mutex_t lock; // while norms are made
    struct device *dev;   // a GPU, while weights are loaded to it
    char *scratch;        // its memory for the slots, or NULL
    size_t scratch_bytes;
    struct lora_slot slots[LORA_SLOTS];
    struct weight_change *changes; // of all slots
    struct tensor wide;            // f32 on the GPU: a change of which norms are made
    char *squares;                 // for norms, of one target at a time
    int next_slot;
    int64_t chunk; // elements that a slot holds as f32
};

/* Counts and names of keys that cannot be used. */
struct lora_problems {
    int unknown;
    int wrong;             // modules that do not fit their tensor
    int damaged;           // of them, those that fit no tensor
    char names[200];       // the first three unknown keys
    char first_wrong[400]; // what is wrong with the first module
    const char **list;     // all unknown keys, with room for those of the file; or NULL
};

/* Adds the terms of a file to the targets of `l`. Keys that match no tensor are counted in *p; a
 * module whose factors do not fit its tensor is an error, or with count_wrong counted. ST_USAGE if
 * it does not fit, ST_FORMAT if it fits no tensor. *used: number of tensors that the file changes.
 */
status lora_match(struct lora *l, struct lora_file *f, const struct tensor_list *list,
                  bool count_wrong, struct lora_problems *p, int *used);
void lora_targets_done(struct lora *l);
const struct lora_target *lora_find(const struct lora *l, const char *name);

/* ---- lora_factors.c ---- */

/* Reads rows [first, first + n) of a matrix as f32. */
status lora_rows(struct tensorfile *file, const struct lora_matrix *m, int64_t first, int64_t n,
                 float *dst);

/* Reads rows that have the columns of the target, and puts these into the order of the memory. */
status lora_wide_rows(const struct lora_target *t, struct tensorfile *file,
                      const struct lora_matrix *m, int64_t first, int64_t n, float *dst);

/* The factors of a target whose terms are all products, as those of one product: up [rows, rank]
 * for rows [row, row + rows), times strength and scale, and down [rank, cols]. Either may be NULL.
 */
status lora_factors(const struct lora_target *t, int64_t row, int64_t rows, float *up, float *down);

/* Whether DoRA's norms are of the weight with the term's change, not of that before it. */
static inline bool lora_norm_of_changed(const struct lora_term *term)
{
    return term->per_column || term->merged_norm;
}

/* The change of a term for rows [row, row + rows) of a target that `changes`. Its factors are
 * written to `values`, lora_change_floats of them, each from a multiple of FACTOR_FLOATS on, unless
 * that is NULL; the tensors of *w are over the same places in `memory`, which may be a device's. *w
 * has no squares. */
#define FACTOR_FLOATS 64
int64_t lora_change_floats(const struct lora_target *t, const struct lora_term *term, int64_t rows);
status lora_change(const struct lora_target *t, const struct lora_term *term, int64_t row,
                   int64_t rows, float *values, float *memory, struct weight_change *w);

/* The factors of all terms for rows [row, row + rows), as a GPU has them: those of lora_factors,
 * "down" from float lora_down_at on; or those of lora_change, term after term. lora_floats: how
 * many they are; lora_read_floats: [first, first + n) of them, without those between two factors.
 */
int64_t lora_down_at(const struct lora_target *t, int64_t rows);
int64_t lora_floats(const struct lora_target *t, int64_t rows);
status lora_read_floats(const struct lora_target *t, int64_t row, int64_t rows, int64_t first,
                        int64_t n, float *out);

/* ---- lora_merge.c ---- */

/* `read` of lora_source; payload: the struct lora. */
status lora_read(void *payload, const struct weight_spec *spec, const char *name, int64_t first,
                 int64_t count, void *dst);

/* ---- lora_device.c: `load` and `flush` of lora_source ---- */

status lora_load(void *payload, struct loader *loader, struct device *dev,
                 const struct weight_spec *spec, const char *name, int64_t first, int64_t count,
                 struct tensor dst, bool *loads);
status lora_flush(void *payload);
void lora_free_slots(struct lora *l); // after an error too

#endif
