/* A library for LD_PRELOAD that makes one allocation of the program fail, not of a large library,
 * or gives its devices less memory:
 *
 *     NOMEM_N     the allocation that fails, counted from 1; 0: none
 *     NOMEM_ALL   set: all allocations after it fail too
 *     NOMEM_LIMIT bytes that may be allocated at one time by aligned_alloc, from which a device on
 *                 the CPU takes its memory; more fail
 *     NOMEM_RANK  the rank of Open MPI in which they fail; not set: all ranks
 *     NOMEM_LOG   a file that gets a line for each allocation: its number, what was called, and the
 *                 calls that led to it in the program, innermost first, as addresses for addr2line
 *
 * Counted: what allocates memory and is called from the program's own code or from cJSON, which
 * does its work; each of the functions below that asks failing(). */
#undef _FILE_OFFSET_BITS // both names of a call are defined here
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#define FRAMES 24 // of which the log names the program's
#define BLOCKS 4096

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);
void __libc_free(void *p);

static struct code {
    uintptr_t base, first, last; // where the object is, and its code
} code[4];                       // the first is the program's
static int codes;
static long fails; // 0: none
static bool all;
static atomic_long calls;
static int log_file = -1;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    void *p;
    size_t bytes;
} block[BLOCKS]; // of aligned_alloc, where it is limited
static size_t limit = SIZE_MAX, held;

/* The first object is the program. */
static int object(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size, (void)unused;
    if (codes > 0 && strstr(info->dlpi_name, "/libcjson.so") == NULL)
        return 0;
    for (int i = 0; i < info->dlpi_phnum && codes < 4; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD && (info->dlpi_phdr[i].p_flags & PF_X) != 0) {
            const uintptr_t first = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            code[codes++] =
                (struct code){ info->dlpi_addr, first, first + info->dlpi_phdr[i].p_memsz };
        }
    return 0;
}

__attribute__((constructor)) static void begin(void)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *chosen = getenv("NOMEM_RANK"),
               *n = getenv("NOMEM_N"), *most = getenv("NOMEM_LIMIT");
    void *frame[1];

    if (chosen != NULL && (rank == NULL || strcmp(rank, chosen) != 0))
        return;
    limit = most != NULL ? strtoull(most, NULL, 10) : SIZE_MAX;
    fails = n != NULL ? atol(n) : 0;
    all = getenv("NOMEM_ALL") != NULL;
    if (getenv("NOMEM_LOG") != NULL)
        log_file = open(getenv("NOMEM_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0666);
    backtrace(frame, 1); // loads its library
    dl_iterate_phdr(object, NULL);
}

static bool inside(const void *at, int first, int last)
{
    for (int i = first; i < last; i++)
        if ((uintptr_t)at >= code[i].first && (uintptr_t)at < code[i].last)
            return true;
    return false;
}

static void write_log(long now, const char *call)
{
    void *frame[FRAMES];
    const int count = backtrace(frame, FRAMES);
    char line[32 + FRAMES * 20];
    int n = snprintf(line, sizeof(line), "%ld %s ", now, call);

    for (int i = 0; i < count; i++)
        if (inside(frame[i], 0, 1))
            n += snprintf(line + n, sizeof(line) - (size_t)n, "%#lx,",
                          (long)((uintptr_t)frame[i] - code[0].base - 1)); // within the call
    line[n++] = '\n';
    (void)!write(log_file, line, (size_t)n);
}

static bool failing(const char *call, const void *caller)
{
    long now;

    if (!inside(caller, 0, codes))
        return false;
    now = ++calls;
    if (log_file >= 0)
        write_log(now, call);
    if (fails == 0 || now < fails || (now > fails && !all))
        return false;
    errno = ENOMEM;
    return true;
}

#define FAILING failing(__func__, __builtin_return_address(0))
#define REAL(name)                                                                                 \
    static __typeof__(name) *real;                                                                 \
    if (real == NULL)                                                                              \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);

static void *limited(size_t align, size_t bytes)
{
    void *p = NULL;
    int i = 0;

    pthread_mutex_lock(&lock);
    while (i < BLOCKS && block[i].p != NULL)
        i++;
    if (i < BLOCKS && bytes <= limit && held <= limit - bytes)
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

static void forget(const void *p)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < BLOCKS && held > 0; i++)
        if (block[i].p == p) {
            held -= block[i].bytes;
            block[i].p = NULL;
            break;
        }
    pthread_mutex_unlock(&lock);
}

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
    if (FAILING)
        return NULL;
    return limit < SIZE_MAX ? limited(align, bytes) : __libc_memalign(align, bytes);
}

void free(void *p)
{
    if (p != NULL && limit < SIZE_MAX)
        forget(p);
    __libc_free(p);
}

int posix_memalign(void **out, size_t align, size_t bytes)
{
    void *p = FAILING ? NULL : __libc_memalign(align, bytes);

    if (p == NULL)
        return ENOMEM;
    *out = p;
    return 0;
}

void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    REAL(mmap)

    return FAILING ? MAP_FAILED : real(at, bytes, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t bytes, int protection, int flags, int fd, off64_t offset)
{
    REAL(mmap64)

    return FAILING ? MAP_FAILED : real(at, bytes, protection, flags, fd, offset);
}

char *strdup(const char *text)
{
    REAL(strdup)

    return FAILING ? NULL : real(text);
}

char *strndup(const char *text, size_t bytes)
{
    REAL(strndup)

    return FAILING ? NULL : real(text, bytes);
}

int vasprintf(char **out, const char *format, va_list args)
{
    REAL(vasprintf)

    return FAILING ? -1 : real(out, format, args);
}

int asprintf(char **out, const char *format, ...)
{
    va_list args;
    int n;
    REAL(vasprintf)

    if (FAILING)
        return -1;
    va_start(args, format);
    n = real(out, format, args);
    va_end(args);
    return n;
}

char *realpath(const char *path, char *out)
{
    REAL(realpath)

    return FAILING ? NULL : real(path, out);
}

ssize_t __getdelim(char **line, size_t *size, int delimiter, FILE *file)
{
    REAL(__getdelim)

    return FAILING ? -1 : real(line, size, delimiter, file);
}

FILE *fopen64(const char *path, const char *mode)
{
    REAL(fopen64)

    return FAILING ? NULL : real(path, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list args;
    mode_t mode;
    REAL(open64)

    va_start(args, flags);
    mode = (flags & O_CREAT) != 0 ? va_arg(args, mode_t) : 0;
    va_end(args);
    return FAILING ? -1 : real(path, flags, mode);
}

FILE *open_memstream(char **text, size_t *size)
{
    REAL(open_memstream)

    return FAILING ? NULL : real(text, size);
}

DIR *opendir(const char *path)
{
    REAL(opendir)

    return FAILING ? NULL : real(path);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    REAL(pthread_create)

    return FAILING ? EAGAIN : real(thread, attr, run, arg);
}
