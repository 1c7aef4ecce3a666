/* A library for LD_PRELOAD that gives a rank less memory for aligned_alloc, from which a device on
 * the CPU takes its memory:
 *
 *     FAILALLOC_LIMIT  bytes that may be allocated at one time; more fail
 *     FAILALLOC_RANK   the rank; not set: all ranks */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS 4096

void *__libc_memalign(size_t align, size_t bytes);
void __libc_free(void *p);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    void *p;
    size_t bytes;
} block[BLOCKS];
static size_t held;

static size_t limit_bytes(void)
{
    const char *limit = getenv("FAILALLOC_LIMIT"), *only = getenv("FAILALLOC_RANK");
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    const bool this_rank = only == NULL || (rank != NULL && strcmp(only, rank) == 0);

    return limit != NULL && this_rank ? strtoull(limit, NULL, 10) : (size_t)-1;
}

void *aligned_alloc(size_t align, size_t bytes)
{
    void *p = NULL;
    int i = 0;

    pthread_mutex_lock(&lock);
    while (i < BLOCKS && block[i].p != NULL)
        i++;
    if (i < BLOCKS && bytes <= limit_bytes() && held <= limit_bytes() - bytes)
        p = __libc_memalign(align, bytes);
    if (p != NULL) {
        block[i].p = p;
        block[i].bytes = bytes;
        held += bytes;
    }
    pthread_mutex_unlock(&lock);
    if (p == NULL)
        errno = ENOMEM;
    return p;
}

void free(void *p)
{
    if (p == NULL)
        return;
    if (held > 0) {
        pthread_mutex_lock(&lock);
        for (int i = 0; i < BLOCKS; i++)
            if (block[i].p == p) {
                held -= block[i].bytes;
                block[i].p = NULL;
                break;
            }
        pthread_mutex_unlock(&lock);
    }
    __libc_free(p);
}
