/* filelock.h - locks of files, which end with the process that holds them.
 *
 * The system's locks of open file descriptions (fcntl, F_OFD_SETLK) are used where the file system
 * has them: local ones, NFS, GPFS, BeeGFS, Lustre with -o flock or -o localflock. A process that is
 * killed loses them, on a network file system after the lease of its machine. Elsewhere
 * filelock_take compares process and host with those in the lock file. */
#ifndef RUNTIME_FILELOCK_H
#define RUNTIME_FILELOCK_H

#include "runtime/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HOST_NAME_BYTES 65 // with the terminating zero

enum filelock_state {
    FILELOCK_HELD,   // locked by this call, until the file is closed
    FILELOCK_BUSY,   // another process, or another open file of this one, holds the lock
    FILELOCK_MISSING // the file system has no such locks
};

/* Locks a file that is open for writing; never waits. */
enum filelock_state filelock_try(int fd);

/* Excludes other jobs from the file `path`, which may not exist yet and may be replaced. The lock
 * is a file beside it, "PATH.lock", with process and host of its holder. */
struct filelock {
    char *path; // of the lock file; NULL: not locked
    int fd;
};

/* `path`: as newfile_target gives it. ST_USAGE when another job holds the lock; the line names the
 * process and its host. ST_IO when the lock file cannot be written. A lock file that a dead job
 * left is taken over. Where the file system has no locks, a process of another host counts as
 * alive, except if it belongs to this job's number in Slurm, which requeues a job only after its
 * end. */
status filelock_take(struct filelock *l, const char *path);

void filelock_release(struct filelock *l); // removes the lock file; accepts a zeroed value

/* Name of this host. */
void filelock_host(char name[HOST_NAME_BYTES]);

#ifdef __cplusplus
}
#endif
#endif
