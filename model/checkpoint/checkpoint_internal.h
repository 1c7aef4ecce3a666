/* checkpoint_internal.h - functions that the .c files of checkpoint.h share. */
#ifndef MODEL_CHECKPOINT_CHECKPOINT_INTERNAL_H
#define MODEL_CHECKPOINT_CHECKPOINT_INTERNAL_H

#include "model/checkpoint/checkpoint.h"

#include <stdio.h>

/* names.c: whether the file has the part, and how its tensors are named. Any prefix is found: what
 * stands before a name of part->detected_by. */
bool names_detect(struct naming *n, const struct tensorfile *f, const struct part *part);

/* names.c: removes what PyTorch's wrappers of modules add to names. ST_FORMAT if two tensors get
 * the same name. */
status names_unwrap(struct tensorfile *f);

/* names.c: removes the tensors of other parts from an all-in-one file; nothing if it does not have
 * the part. */
void names_keep_part(struct tensorfile *f, const struct part *part, const struct checkpoint *c);

/* names.c: renames the tensors of an opened part to official names: removes the prefix, then
 * translates the names of diffusers, transformers or llama.cpp; gives tensors of part->shapes their
 * axes. ST_FORMAT if two tensors get the same name. */
status names_make_official(struct tensorfile *f, const struct part *part, struct naming *naming);

/* refuse.c: refuse files of another kind (LoRA, ControlNet, GGUF of another architecture), and of
 * another part or none. ST_FORMAT, with what the file is. */
status refuse_kind(const struct tensorfile *f);
status refuse_part(const struct checkpoint *c, const struct checkpoint_part *p);

/* refuse.c: the model that is known to have such a tensor, or NULL. */
const char *refuse_model_name(const char *tensor);

/* layout.c: the files that a part consists of. The list owns the strings. */
struct path_list {
    char **path;
    int count, capacity;
};

status path_list_add(struct path_list *list, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void path_list_done(struct path_list *list);
bool path_is_file(const char *path);
bool path_is_folder(const char *path);
bool path_has_file(const char *folder, const char *name);

/* tokenizer_file.c: sets c->tokenizer, if it is not set, to the file in `base` or in one of the
 * parts' folders for it; nothing if there is none. ST_MEMORY. */
status tokenizer_find(struct checkpoint *c, const char *base);

bool layout_is_diffusers(const struct checkpoint *c);

/* layout.c: appends the files of `folder` whose names match the pattern, sorted; none if the folder
 * does not exist. */
status list_matching(const char *folder, const char *pattern, struct path_list *list);

/* layout.c: checks that all shards of each file that is named as one exist. ST_IO. */
status check_shards(const struct path_list *files);

/* layout.c: appends the files of a folder that begin with `stem`, of one variant. */
status files_of_stem(const char *folder, const char *stem, struct path_list *files);

/* layout_search.c: finds files by what they contain, where no layout says their names. They append
 * the files of the part; none if there are none. ST_FORMAT: several files have the part; ST_IO,
 * ST_MEMORY.
 *   search_given    the path that the user gave: a file with its other shards, or a folder
 *   search_inside   a single file, if it has this part, too
 *   search_folders  in ComfyUI's folders, below and above c->folder */
status search_given(const struct checkpoint *c, const struct part *part, const char *path,
                    struct path_list *files);
status search_inside(const struct checkpoint *c, const struct part *part, struct path_list *files);
status search_folders(const struct checkpoint *c, const struct part *part, struct path_list *files);

/* layout_search.c: whether the folder, or one of those that ComfyUI has in it, has weight files. */
status search_has_weights(const struct checkpoint *c, const struct part *const *parts, bool *has);

/* hub.c: for a folder of the Hugging Face cache (models--OWNER--NAME), that of the snapshot to use;
 * else *snapshot is NULL. malloc'ed. ST_FORMAT: there are several; ST_MEMORY. */
status hub_snapshot(const char *folder, char **snapshot);

/* Appends the paths of the part's files. *place: where they are; NULL for a single file.  ST_IO,
 * with the paths that were tried, if the part or one of its shards is missing; ST_FORMAT if the
 * index is damaged or several files match; ST_MEMORY. */
status layout_files(const struct checkpoint *c, const struct part *part, struct path_list *files,
                    const struct place **place);

/* The same for a part that may be missing: then ST_OK, and no files. */
status layout_find(const struct checkpoint *c, const struct part *part, struct path_list *files,
                   const struct place **place);

/* For an opened part with a safetensors index: checks that every tensor is in the shard that the
 * index names. Called before the tensors are renamed. ST_FORMAT, ST_IO, ST_MEMORY. */
status layout_check_index(const struct checkpoint_part *p);

/* The path of an opened part's config.json, malloc'ed; NULL if this layout has none for it.
 * ST_MEMORY. */
status layout_config(const struct checkpoint *c, const struct checkpoint_part *p, char **path);

/* describe.c: fills p->config from the tensor shapes and config.json. ST_FORMAT, with both values,
 * if they contradict each other. */
status describe_part(struct checkpoint *c, struct checkpoint_part *p);

/* checkpoint.c: compares the tensors of an opened part with the list of its architecture. ST_FORMAT
 * with one line that names the first missing, wrong and unknown tensors. If `full` is not NULL, all
 * of them are written to it, one per line. */
status compare_part(const struct checkpoint *c, const struct checkpoint_part *p, FILE *full);

/* checkpoint.c: opens the part's files, renames the tensors and fills the config, but does not
 * check whether this version can run it, nor compare the tensors (compare_part). */
status part_open(struct checkpoint *c, struct checkpoint_part *p);

/* checkpoint.c: the source of an opened part's own values. */
struct weight_source part_source(struct checkpoint_part *p);

/* checkpoint.c: the checkpoint's entry for this row of the table. */
struct checkpoint_part *part_of(const struct checkpoint *c, const struct part *part);

/* checkpoint.c: names and shapes of the file's tensors; freed with inventory_done. ST_MEMORY. */
status inventory_of_file(struct inventory *v, const struct tensorfile *f);

#endif
