/* newfile.h - a file that gets its name only when it is complete.
 *
 * It is written under a temporary name in the directory of its final one, so that a directory that
 * cannot be written is detected at the start; newfile_commit renames it. A killed process leaves a
 * file ".wanmpi-HOST-XXXXXX", never an incomplete one under the final name; newfile_clean removes
 * it later. */
#ifndef RUNTIME_NEWFILE_H
#define RUNTIME_NEWFILE_H

#include "runtime/status.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct newfile {
    char *path; // the final name, links followed
    char *temp; // the temporary one; NULL when nothing is open
    int fd;     // of the temporary file, open for writing and locked while temp is not NULL
};

/* The name that writing `path` replaces, absolute and with links followed: two names of one file
 * give the same. malloc'ed. ST_IO when its directory does not exist or the name is too long. */
status newfile_target(char **target, const char *path);

/* Creates the temporary file, empty. ST_IO; ST_USAGE when `path` exists and is no regular file. */
status newfile_open(struct newfile *f, const char *path);

/* Appends to the temporary file. ST_IO. */
status newfile_write(struct newfile *f, const void *data, size_t bytes);

/* Flushes the file to disk and renames it, whoever has written it. */
status newfile_commit(struct newfile *f);

/* Removes the temporary file if it still exists, and frees. Accepts a zeroed value. */
void newfile_drop(struct newfile *f);

/* Removes temporary files that processes of this host have left in the directory of `path` when
 * they were killed. Those of other hosts stay, and all where the file system has no locks: they may
 * be in use. */
void newfile_clean(const char *path);

#ifdef __cplusplus
}
#endif
#endif
