/* newfile.h - a file that gets its name only when it is complete.
 *
 * It is written under a temporary name in the directory of its final one, so that a directory that
 * cannot be written is detected at the start; newfile_commit renames it. If the process is killed,
 * a file ".wanmpi-XXXXXX" remains, never an incomplete file under the final name. */
#ifndef RUNTIME_NEWFILE_H
#define RUNTIME_NEWFILE_H

#include "runtime/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct newfile {
    char *path; // the final name
    char *temp; // the temporary one; NULL when nothing is open
};

/* Creates the temporary file, empty. ST_IO; ST_USAGE when `path` exists and is no regular file. */
status newfile_open(struct newfile *f, const char *path);

/* Flushes the file to disk and renames it. The caller has closed it. */
status newfile_commit(struct newfile *f);

/* Removes the temporary file if it still exists, and frees. Accepts a zeroed value. */
void newfile_drop(struct newfile *f);

#ifdef __cplusplus
}
#endif
#endif
