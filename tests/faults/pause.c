/* A library for LD_PRELOAD that makes one rank pause at a chosen call, so that a script can send a
 * signal there:
 *
 *     PAUSE_CALL  pread, rename, GOMP_parallel (a loop of a kernel), MPI_Testall (a wait for
 * another rank), or avcodec_send_frame PAUSE_PATH  for pread and rename: a part of the file's path
 *     PAUSE_RANK  the rank of Open MPI that pauses
 *     PAUSE_IF    a file: calls are counted from when it exists; not set: from the start
 *     PAUSE_N     the call that pauses, counted from 1
 *     PAUSE_DIR   a folder: the rank creates `reached` in it, and goes on when `go` exists */
#undef _FILE_OFFSET_BITS // both names of a call are defined here: pread and pread64
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static bool is(const char *name, const char *value)
{
    const char *set = getenv(name);

    return set != NULL && strcmp(set, value) == 0;
}

static void pause_at(const char *call, const char *path)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *dir = getenv("PAUSE_DIR"),
               *part = getenv("PAUSE_PATH"), *gate = getenv("PAUSE_IF"), *n = getenv("PAUSE_N");
    const struct timespec wait = { .tv_nsec = 5 * 1000 * 1000 };
    static atomic_int calls;
    char reached[PATH_MAX], go[PATH_MAX];

    if (!is("PAUSE_CALL", call) || dir == NULL || rank == NULL || !is("PAUSE_RANK", rank) ||
        (path != NULL && part != NULL && strstr(path, part) == NULL) ||
        (gate != NULL && access(gate, F_OK) != 0) || ++calls != (n != NULL ? atoi(n) : 1))
        return;
    snprintf(reached, sizeof(reached), "%s/reached", dir);
    snprintf(go, sizeof(go), "%s/go", dir);
    close(open(reached, O_WRONLY | O_CREAT, 0666));
    for (int i = 0; i < 6000 && access(go, F_OK) != 0; i++)
        nanosleep(&wait, NULL);
}

static void pause_at_file(const char *call, int fd)
{
    char link[64], path[PATH_MAX];
    ssize_t n;

    if (!is("PAUSE_CALL", call))
        return;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof(path) - 1);
    path[n > 0 ? n : 0] = 0;
    pause_at(call, path);
}

#define REAL(type, name)                                                                           \
    static type *real;                                                                             \
    if (real == NULL)                                                                              \
        real = (type *)dlsym(RTLD_NEXT, name);

ssize_t pread(int fd, void *data, size_t bytes, off_t at)
{
    REAL(__typeof__(pread), "pread")

    pause_at_file("pread", fd);
    return real(fd, data, bytes, at);
}

ssize_t pread64(int fd, void *data, size_t bytes, off64_t at)
{
    REAL(__typeof__(pread64), "pread64")

    pause_at_file("pread", fd);
    return real(fd, data, bytes, at);
}

int rename(const char *from, const char *to)
{
    REAL(__typeof__(rename), "rename")

    pause_at("rename", to);
    return real(from, to);
}

typedef int testall_fn(int count, void *requests, int *done, void *statuses);
typedef int send_frame_fn(void *codec, const void *frame);
typedef void parallel_fn(void (*call)(void *), void *data, unsigned threads, unsigned flags);
testall_fn MPI_Testall;
send_frame_fn avcodec_send_frame;
parallel_fn GOMP_parallel;

int MPI_Testall(int count, void *requests, int *done, void *statuses)
{
    REAL(testall_fn, "MPI_Testall")

    pause_at("MPI_Testall", NULL);
    return real(count, requests, done, statuses);
}

int avcodec_send_frame(void *codec, const void *frame)
{
    REAL(send_frame_fn, "avcodec_send_frame")

    pause_at("avcodec_send_frame", NULL);
    return real(codec, frame);
}

void GOMP_parallel(void (*call)(void *), void *data, unsigned threads, unsigned flags)
{
    REAL(parallel_fn, "GOMP_parallel")

    pause_at("GOMP_parallel", NULL);
    real(call, data, threads, flags);
}
