/* checkpoint.h - the files of a model in any of the common layouts, with one set of tensor names.
 *
 * Layouts: the official folder (config.json, diffusion_pytorch_model*.safetensors, *.pth, google/),
 * the "-Diffusers" folder (transformer/, vae/, text_encoder/, tokenizer/), a folder of files as
 * ComfyUI has them (diffusion_models/, text_encoders/, vae/, clip_vision/, or all in one folder),
 * and a single file of the transformer, or of several parts; the other parts are then searched in
 * it, and in the folders around it. The folder of a repository in Hugging Face's cache stands for
 * its snapshot. Files of any format of tensorfile.h. Tensors are renamed to the official names
 * (Wan2.1 wan/modules). Parts are opened on demand; if one is missing, the error names the paths
 * that were tried.
 *
 * All functions are local: they read files and do not communicate.
 *
 *   checkpoint.c  open, parts, comparison with the list of tensors, source of weights
 *   layout.c      which files a part consists of, in each layout
 *   layout_search.c  finds files by what they contain
 *   hub.c         snapshots in Hugging Face's cache
 *   tokenizer_file.c  the SentencePiece model
 *   refuse.c      files of other kinds and other models
 *   names.c       tensor names of other layouts, prefixes of single files
 *   describe.c    a part's config from tensor shapes and config.json
 *   digest.c      which weights they are
 *   tensors.c     the list of an architecture's tensors, and its fingerprint
 *   part.h        a part as one row of a table
 *   report.c      what `wanmpi inspect` prints */
#ifndef MODEL_CHECKPOINT_CHECKPOINT_H
#define MODEL_CHECKPOINT_CHECKPOINT_H

#include "model/checkpoint/part.h"
#include "runtime/tensorfile.h"

#define LAYOUT_OFFICIAL "official"
#define LAYOUT_DIFFUSERS "diffusers"
#define LAYOUT_FILE "single file"
#define LAYOUT_FOLDERS "ComfyUI"

#define NAMES_PREFIX_BYTES 160
#define PARTS_MOST 32 // in one file

/* How the tensors of a part are named in a file. */
struct naming {
    char prefix[NAMES_PREFIX_BYTES]; // before each name, with its '.'; usually ""
    bool official;                   // then the official name; else that of another library
};

struct checkpoint_part {
    const struct part *row;
    struct tensorfile file;       // count 0 until opened
    const struct place *place;    // where its files are; NULL for a single file
    char *given;                  // its file, from checkpoint_use; NULL: found by the layout
    struct weight_source adapted; // from checkpoint_adapt; `read` NULL: none
    struct naming naming;         // in the file, once opened
    void *config;                 // owned, row->config_bytes; NULL until opened
};

struct checkpoint {
    char *path;         // as given, without '/' at its end
    char *folder;       // `path`, or the folder of the single file
    const char *layout; // LAYOUT_*
    int count;
    struct checkpoint_part *parts; // one per row of the table
    char *tokenizer;               // path of the SentencePiece model; NULL if there is no such file
};

/* Finds the layout and the tokenizer's file; reads no file. `parts`: the table of parts, ends with
 * NULL; borrowed until checkpoint_close. ST_IO if the path does not exist, ST_FORMAT if it is not a
 * checkpoint, ST_MEMORY. */
status checkpoint_open(struct checkpoint *c, const char *path, const struct part *const *parts);
void checkpoint_close(struct checkpoint *c); // accepts half-open and zeroed values

/* Takes a part from a single file instead of where the layout has it. Before the part is opened.
 * ST_MEMORY. */
status checkpoint_use(struct checkpoint *c, const struct part *part, const char *path);

/* Opens the files of a part and reads their headers, reads its config from the tensor shapes and
 * config.json, and checks that this version can run it and that every tensor of the architecture
 * exists with the right shape. Unknown tensors are an error, too, which names them. Does nothing if
 * the part is open already. ST_IO if files are missing; ST_FORMAT, ST_MEMORY. */
status checkpoint_part(struct checkpoint *c, const struct part *part);

/* *has: whether the checkpoint has files of the part; opens nothing. ST_IO if some of them are
 * missing; ST_FORMAT if their index is damaged; ST_MEMORY. */
status checkpoint_has(bool *has, const struct checkpoint *c, const struct part *part);

/* Whether the name of an opened part's file says that it is an expert for high noise: there should
 * be another for low noise. */
bool checkpoint_is_high_noise(const struct checkpoint *c, const struct part *part);

/* The config of an opened part, of the part's own type; NULL if it is not open. */
const void *checkpoint_config(const struct checkpoint *c, const struct part *part);

/* The tensors of an opened part, with official names; count is 0 if it is not open. */
struct tensorfile *checkpoint_file(struct checkpoint *c, const struct part *part);

/* A source of weights (weights_open) that reads an opened part: tensors by official name, elements
 * in the order of the spec's shape in memory. Valid until checkpoint_close. */
struct weight_source checkpoint_source(struct checkpoint *c, const struct part *part);

/* From now on checkpoint_source gives `adapted` for an opened part: a source that changes what the
 * source before gave. Until checkpoint_close. */
void checkpoint_adapt(struct checkpoint *c, const struct part *part, struct weight_source adapted);

/* Bytes of an opened part that each of `ranks` ranks reads when they load it together; about, for
 * progress output. */
uint64_t checkpoint_bytes(struct checkpoint *c, const struct part *part, int ranks);

/* Reads the SentencePiece model, from its file or from a tensor of the text encoder's file
 * (ComfyUI); for the latter that part is opened. *bytes is malloc'ed, the caller frees it; *from is
 * the path for messages and belongs to the checkpoint. ST_FORMAT if it is missing; ST_IO,
 * ST_MEMORY. */
status checkpoint_tokenizer(struct checkpoint *c, char **bytes, size_t *size, const char **from);

/* Writes the fingerprint of an opened part's tensors to hex[FINGERPRINT_BYTES]. ST_MEMORY. */
status checkpoint_fingerprint(const struct checkpoint *c, const struct part *part, char *hex);

/* Writes a digest of an opened part's values, before checkpoint_adapt, to hex[FINGERPRINT_BYTES],
 * the same for all layouts and file formats that give the same values: MD5 of a few values of up to
 * 256 of its tensors. It tells other weights apart; it does not find single changed values. ST_IO,
 * ST_FORMAT, ST_MEMORY.
 */
status checkpoint_digest(struct checkpoint *c, const struct part *part, char *hex);

/* What `wanmpi inspect` prints, as text and as JSON (its keys: README.md). */
struct checkpoint_report {
    char *text;
    struct cJSON *json;
    status st;         // of the first problem; ST_OK: complete
    char problem[512]; // its line
};

/* Describes the checkpoint: layout, and for each part its files, config, data types, fingerprint,
 * the released models with these tensors, and tensors that are missing or unknown; with
 * `all_tensors` every tensor. Parts that are missing or damaged are problems of the report, not
 * errors. ST_MEMORY. */
status checkpoint_report(struct checkpoint *c, struct checkpoint_report *r, bool all_tensors);
void checkpoint_report_done(struct checkpoint_report *r); // accepts a zeroed value

/* Adds status_line() to the problems of the report; `st` is its status. */
void checkpoint_report_problem(struct checkpoint_report *r, status st);

#endif
