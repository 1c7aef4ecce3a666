/* A library for LD_PRELOAD that makes one allocation of the program itself fail, not of a library:
 *
 *     NOMEM_N     the allocation that fails, counted from 1; 0: none
 *     NOMEM_RANK  the rank of Open MPI in which it does
 *     NOMEM_LOG   a file that gets a line for each allocation: its number, and where it is called,
 *                 as an address for addr2line
 *
 * Counted: malloc, calloc, realloc, aligned_alloc, posix_memalign and mmap, called from the
 * program's own code. */
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);

static uintptr_t base, first, last; // addresses of the program, and of its code
static long fails;                  // 0: none
static atomic_long calls;
static bool counts;
static int log_file = -1;

/* The first object is the program. */
static int program(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size, (void)unused;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD && (info->dlpi_phdr[i].p_flags & PF_X) != 0) {
            base = info->dlpi_addr;
            first = base + info->dlpi_phdr[i].p_vaddr;
            last = first + info->dlpi_phdr[i].p_memsz;
        }
    return 1;
}

__attribute__((constructor)) static void begin(void)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *chosen = getenv("NOMEM_RANK"),
               *n = getenv("NOMEM_N");

    if (rank == NULL || chosen == NULL || strcmp(rank, chosen) != 0)
        return;
    fails = n != NULL ? atol(n) : 0;
    if (getenv("NOMEM_LOG") != NULL)
        log_file = open(getenv("NOMEM_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0666);
    dl_iterate_phdr(program, NULL);
    counts = true;
}

static bool failing(void *caller)
{
    const uintptr_t at = (uintptr_t)caller;
    char line[64];
    long now;

    if (!counts || at < first || at >= last)
        return false;
    now = ++calls;
    if (log_file >= 0)
        (void)!write(log_file, line,
                     (size_t)snprintf(line, sizeof(line), "%ld %#lx\n", now, (long)(at - base)));
    if (now != fails)
        return false;
    errno = ENOMEM;
    return true;
}

#define FAILING failing(__builtin_return_address(0))

void *malloc(size_t bytes)
{
    return FAILING ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    return FAILING ? NULL : __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes)
{
    return FAILING ? NULL : __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t align, size_t bytes)
{
    return FAILING ? NULL : __libc_memalign(align, bytes);
}

int posix_memalign(void **out, size_t align, size_t bytes)
{
    void *p = FAILING ? NULL : __libc_memalign(align, bytes);

    if (p == NULL)
        return ENOMEM;
    *out = p;
    return 0;
}

typedef void *mmap_fn(void *at, size_t bytes, int protection, int flags, int fd, off64_t offset);

static mmap_fn *real_mmap(void)
{
    static mmap_fn *real;

    if (real == NULL)
        real = (mmap_fn *)dlsym(RTLD_NEXT, "mmap64");
    return real;
}

void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    return FAILING ? MAP_FAILED : real_mmap()(at, bytes, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t bytes, int protection, int flags, int fd, off64_t offset)
{
    return FAILING ? MAP_FAILED : real_mmap()(at, bytes, protection, flags, fd, offset);
}
