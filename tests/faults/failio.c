/* A library for LD_PRELOAD that makes calls on the files of one folder fail:
 *
 *     FAILIO_DIR    the folder; calls on other files are not counted
 *     FAILIO_LOG    a file outside of it, to which each counted call is appended: "7 write a.h5"
 *     FAILIO_N      the call that fails; 0: none
 *     FAILIO_ERRNO  the error that it gives, a number
 *     FAILIO_ALL    set: all calls after it fail too
 *     FAILIO_NOLOCK set: the folder's file system has no locks (fcntl, F_OFD_SETLK)
 *
 * Counted: write, pwrite, fsync, ftruncate, close of a file that was open for writing, rename. A
 * failing write writes nothing; a failing close closes. */
#undef _FILE_OFFSET_BITS // both names of a call are defined here: pwrite and pwrite64
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int calls;

static int number(const char *name)
{
    const char *value = getenv(name);

    return value != NULL ? atoi(value) : 0;
}

/* The path of an open file if it is in the folder, or the folder itself. */
static bool inside(int fd, char path[PATH_MAX])
{
    const char *dir = getenv("FAILIO_DIR");
    char link[64];
    ssize_t n;

    if (dir == NULL)
        return false;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, PATH_MAX - 1);
    path[n > 0 ? n : 0] = 0;
    return strncmp(path, dir, strlen(dir)) == 0;
}

/* Counts a call; whether it must fail. */
static bool failing(const char *call, const char *path)
{
    const char *log = getenv("FAILIO_LOG"), *base = strrchr(path, '/');
    const int n = number("FAILIO_N");
    char line[PATH_MAX + 64];
    int now, length, fd;

    pthread_mutex_lock(&lock);
    now = ++calls;
    length = snprintf(line, sizeof(line), "%d %s %s\n", now, call, base != NULL ? base + 1 : path);
    if (log != NULL) {
        fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0666);
        syscall(SYS_write, fd, line, length);
        syscall(SYS_close, fd);
    }
    pthread_mutex_unlock(&lock);
    if (n == 0 || now < n || (now > n && getenv("FAILIO_ALL") == NULL))
        return false;
    errno = number("FAILIO_ERRNO");
    return true;
}

#define REAL(name)                                                                                 \
    static __typeof__(name) *real;                                                                 \
    if (real == NULL)                                                                              \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);

ssize_t write(int fd, const void *data, size_t bytes)
{
    char path[PATH_MAX];
    REAL(write)

    return inside(fd, path) && failing("write", path) ? -1 : real(fd, data, bytes);
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at)
{
    char path[PATH_MAX];
    REAL(pwrite)

    return inside(fd, path) && failing("pwrite", path) ? -1 : real(fd, data, bytes, at);
}

ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t at)
{
    char path[PATH_MAX];
    REAL(pwrite64)

    return inside(fd, path) && failing("pwrite", path) ? -1 : real(fd, data, bytes, at);
}

int fsync(int fd)
{
    char path[PATH_MAX];
    REAL(fsync)

    return inside(fd, path) && failing("fsync", path) ? -1 : real(fd);
}

int ftruncate(int fd, off_t bytes)
{
    char path[PATH_MAX];
    REAL(ftruncate)

    return inside(fd, path) && failing("ftruncate", path) ? -1 : real(fd, bytes);
}

int ftruncate64(int fd, off64_t bytes)
{
    char path[PATH_MAX];
    REAL(ftruncate64)

    return inside(fd, path) && failing("ftruncate", path) ? -1 : real(fd, bytes);
}

int close(int fd)
{
    const int flags = (int)syscall(SYS_fcntl, fd, F_GETFL);
    char path[PATH_MAX];
    bool fails = false;
    REAL(close)

    if (flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && inside(fd, path))
        fails = failing("close", path);
    const int error = errno, result = real(fd);
    if (!fails)
        return result;
    errno = error;
    return -1;
}

int rename(const char *from, const char *to)
{
    const char *dir = getenv("FAILIO_DIR");
    REAL(rename)

    if (dir != NULL && strncmp(to, dir, strlen(dir)) == 0 && failing("rename", to))
        return -1;
    return real(from, to);
}

static int control(int fd, int command, void *argument)
{
    char path[PATH_MAX];

    if (command == F_OFD_SETLK && getenv("FAILIO_NOLOCK") != NULL && inside(fd, path)) {
        errno = ENOLCK;
        return -1;
    }
    return (int)syscall(SYS_fcntl, fd, command, argument);
}

int fcntl(int fd, int command, ...)
{
    va_list args;

    va_start(args, command);
    void *argument = va_arg(args, void *);
    va_end(args);
    return control(fd, command, argument);
}

int fcntl64(int fd, int command, ...)
{
    va_list args;

    va_start(args, command);
    void *argument = va_arg(args, void *);
    va_end(args);
    return control(fd, command, argument);
}
