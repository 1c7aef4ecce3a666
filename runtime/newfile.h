/* newfile.h - a file that appears whole or not at all.
 *
 * It is written under a temporary name in the directory of its final one, which is also how a
 * directory that cannot be written is found out early; newfile_commit renames. A process that is
 * killed leaves ".wanmpi-XXXXXX" behind, never a half file under the final name. */
#ifndef RUNTIME_NEWFILE_H
#define RUNTIME_NEWFILE_H

#include "runtime/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct newfile {
    char *path; // the final name
    char *temp; // where to write until then; NULL when nothing is open
};

/* Creates the temporary file, empty. ST_IO; ST_USAGE when `path` is there and no plain file. */
status newfile_open(struct newfile *f, const char *path);

/* Brings what was written to the disk and gives it its name. The file must be closed by then. */
status newfile_commit(struct newfile *f);

/* Removes the temporary file if it is still there, and frees. Accepts a zeroed value. */
void newfile_drop(struct newfile *f);

#ifdef __cplusplus
}
#endif
#endif
