#include "runtime/filelock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What a lock file says, in one line: "node7 1234 8812345 771". */
struct holder {
    char host[HOST_NAME_BYTES];
    long pid;
    long long start; // of the process, in clock ticks since the machine's start
    char job[32];    // its number in Slurm, or "-"
};

void filelock_host(char name[HOST_NAME_BYTES])
{
    if (gethostname(name, HOST_NAME_BYTES) != 0)
        strcpy(name, "host");
    name[HOST_NAME_BYTES - 1] = 0;
}

enum filelock_state filelock_try(int fd)
{
    struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

    if (fcntl(fd, F_OFD_SETLK, &whole) == 0)
        return FILELOCK_HELD;
    return errno == EAGAIN || errno == EACCES ? FILELOCK_BUSY : FILELOCK_MISSING;
}

/* When a process of this host started; -1: there is none. Field 22 of /proc/PID/stat; the second is
 * the program's name in parentheses, and may contain anything. */
static long long start_of(long pid)
{
    char path[64], text[1024];
    const char *rest = NULL;
    long long start = -1;
    size_t n = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
    f = fopen(path, "r");
    if (f != NULL) {
        n = fread(text, 1, sizeof(text) - 1, f);
        fclose(f);
    }
    text[n] = 0;
    rest = strrchr(text, ')');
    for (int field = 2; rest != NULL && field < 22; field++)
        rest = strchr(rest + 1, ' ');
    if (rest != NULL)
        sscanf(rest, "%lld", &start);
    return start;
}

static struct holder this_process(void)
{
    struct holder h = { .pid = getpid() };
    const char *job = getenv("SLURM_JOB_ID");

    filelock_host(h.host);
    h.start = start_of(h.pid);
    snprintf(h.job, sizeof(h.job), "%s", job != NULL && job[0] != 0 ? job : "-");
    return h;
}

/* False when the lock file says nothing, as one whose job has only begun. */
static bool read_holder(int fd, struct holder *h)
{
    char text[256];
    const ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

    text[n > 0 ? n : 0] = 0;
    return sscanf(text, "%64s %ld %lld %31s", h->host, &h->pid, &h->start, h->job) == 4;
}

/* Whether the holder that a file names may be running, where the system has no locks. */
static bool may_run(const struct holder *h)
{
    const struct holder self = this_process();

    if (strcmp(h->host, self.host) == 0)
        return start_of(h->pid) == h->start;
    return strcmp(h->job, "-") == 0 || strcmp(h->job, self.job) != 0;
}

static status busy(const char *path, const char *lock, int fd, enum filelock_state state)
{
    struct holder h;
    char who[128] = "", advice[4096 + 64] = "";

    if (read_holder(fd, &h))
        snprintf(who, sizeof(who), " (process %ld on %s)", h.pid, h.host);
    if (state == FILELOCK_MISSING)
        snprintf(advice, sizeof(advice), "; if that job has ended, delete %s", lock);
    return fail(ST_USAGE, "%s: another job%s uses this file; wait for its end, or use another%s",
                path, who, advice);
}

/* Whether the open file still is the one of this name: its holder may have removed it. */
static bool is_file(int fd, const char *path)
{
    struct stat open_one, named;

    return fstat(fd, &open_one) == 0 && stat(path, &named) == 0 &&
           open_one.st_ino == named.st_ino && open_one.st_dev == named.st_dev;
}

/* Opens and locks the lock file. */
static status lock_file(const char *path, const char *lock, int *fd)
{
    for (;;) {
        const int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
        bool created = true, taken = true;
        enum filelock_state state;
        struct holder h;

        *fd = open(lock, flags | O_EXCL, 0666);
        if (*fd < 0 && errno == EEXIST) {
            created = false;
            *fd = open(lock, flags, 0666);
        }
        if (*fd < 0)
            return fail(status_of_errno(), "%s: cannot write %s: %s", path, lock, strerror(errno));
        state = filelock_try(*fd);
        if (state == FILELOCK_BUSY ||
            (state == FILELOCK_MISSING && !created && (!read_holder(*fd, &h) || may_run(&h)))) {
            const status st = busy(path, lock, *fd, state);
            close(*fd);
            return st;
        }
        if (state == FILELOCK_HELD)
            taken = is_file(*fd, lock);
        else if (!created) {
            unlink(lock); // of a dead job
            taken = false;
        }
        if (taken)
            return ST_OK;
        close(*fd);
    }
}

status filelock_take(struct filelock *l, const char *path)
{
    const struct holder self = this_process();
    char *lock = NULL, line[256];
    int fd = -1, bytes;
    status st;

    bytes =
        snprintf(line, sizeof(line), "%s %ld %lld %s\n", self.host, self.pid, self.start, self.job);
    if (asprintf(&lock, "%s.lock", path) < 0)
        return fail(ST_MEMORY, "no memory for a file name");
    TRY_OUT(lock_file(path, lock, &fd));
    if (ftruncate(fd, 0) != 0 || write(fd, line, (size_t)bytes) != bytes) {
        st = fail(status_of_errno(), "%s: cannot write %s: %s", path, lock, strerror(errno));
        unlink(lock);
        close(fd);
        goto out;
    }
    *l = (struct filelock){ lock, fd };
    lock = NULL;
out:
    free(lock);
    return st;
}

void filelock_release(struct filelock *l)
{
    if (l->path == NULL)
        return;
    unlink(l->path);
    close(l->fd);
    free(l->path);
    *l = (struct filelock){ 0 };
}
