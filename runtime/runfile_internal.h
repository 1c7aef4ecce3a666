/* runfile_internal.h - what the files of runfile.h share.
 *
 *   runfile.c         arrays and texts in memory; the digest of a file
 *   runfile_write.c   the whole file, /frames
 *   runfile_read.c    reading, with checks of what a stranger's file may contain */
#ifndef RUNTIME_RUNFILE_INTERNAL_H
#define RUNTIME_RUNFILE_INTERNAL_H

#include "runtime/runfile.h"

/* Whether a name, or one part of an array's name, is one that we write and read. */
bool runfile_plain_name(const char *name);

/* The last line of a run file: RUNFILE_SEAL, the digest of all bytes before it, and '\n'. */
#define RUNFILE_SEAL "\nwanmpi sha256 "
#define RUNFILE_SEAL_BYTES ((int)sizeof(RUNFILE_SEAL) - 1 + RUNFILE_DIGEST_BYTES)

/* SHA-256 of the first `bytes` bytes of an open file. ST_IO, ST_MEMORY. */
status runfile_digest(int fd, int64_t bytes, const char *path, char digest[RUNFILE_DIGEST_BYTES]);

/* The HDF5 type (hid_t) of an array's values in memory. */
int64_t runfile_type(enum dtype dt);

/* A line about a failed call of HDF5, with the system's reason if HDF5 quotes one. */
status runfile_fail(status st, const char *path, const char *did, const char *object);

#endif
