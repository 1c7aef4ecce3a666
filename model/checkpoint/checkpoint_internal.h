/* checkpoint_internal.h - what the files of checkpoint.h share. */
#ifndef MODEL_CHECKPOINT_CHECKPOINT_INTERNAL_H
#define MODEL_CHECKPOINT_CHECKPOINT_INTERNAL_H

#include "model/checkpoint/checkpoint.h"

#include <stdio.h>

/* names.c: renames an opened part to official names: removes a known prefix, then translates.
 * `prefix` gets what was removed, "" mostly. ST_FORMAT when the names become equal. */
status names_make_official(struct tensorfile *f, const struct part *part, const char **prefix);

/* layout.c: the files that a part consists of. Strings are owned by the list. */
struct path_list {
    char **path;
    int count, room;
};

status path_list_add(struct path_list *list, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void path_list_done(struct path_list *list);
bool path_is_file(const char *path);
bool path_is_folder(const char *path);

/* ST_IO naming what was tried when the part is not there; ST_FORMAT when shards are missing. */
status layout_files(const struct checkpoint *c, const struct part *part, struct path_list *files);

/* After opening: every tensor that the index names must be in the shard that it names. */
status layout_check_index(const struct checkpoint *c, const struct checkpoint_part *p);

/* The path of an opened part's config.json, or NULL when this layout has none for it. The caller
 * frees it. */
char *layout_config(const struct checkpoint *c, const struct checkpoint_part *p);

/* describe.c: the part's numbers from tensors and config.json, into p->config; where both have one
 * and they differ, ST_FORMAT naming both. */
status describe_part(struct checkpoint *c, struct checkpoint_part *p);

/* checkpoint.c: compares the opened tensors with the list of the described config. ST_FORMAT with
 * one line that names the first missing, wrong and unknown tensors; all of them go to `full` when
 * it is not NULL. */
status compare_part(const struct checkpoint *c, const struct checkpoint_part *p, FILE *full);

/* Opens, renames, and describes the part, but does not compare it with what it should be. */
status part_open(struct checkpoint *c, struct checkpoint_part *p);

struct checkpoint_part *part_of(const struct checkpoint *c, const struct part *part);

/* The opened tensors as an inventory. ST_MEMORY. */
status inventory_of_file(struct inventory *v, const struct tensorfile *f);

#endif
