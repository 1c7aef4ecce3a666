#include "model/checkpoint/readahead.h"

#include "runtime/alive.h"
#include "runtime/clock.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define THREADS_MAX 8
#define CHUNK_BYTES ((size_t)8 << 20) // that a thread reads at a time
#define ALIGN ((size_t)64)
#define LINE_BYTES 512

/* Elements [first, first + count) of a tensor, or bytes of its form in the file, at data + at. */
struct piece {
    char name[WEIGHT_NAME_BYTES];
    struct weight_spec spec;
    bool as_stored;
    int64_t first, count;
    size_t at;
};

struct readahead {
    struct weight_source source;
    struct piece *pieces; // in the order in which they are read
    struct piece **by_name;
    int count, capacity;
    char *data;
    size_t bytes;
    pthread_t thread[THREADS_MAX];
    int threads;

    pthread_mutex_t lock; // protects the members below
    pthread_cond_t ended;
    int next;         // the piece whose elements are being assigned
    int64_t assigned; // of its elements
    int busy;         // threads that have not ended
    bool stopping;
    status st; // the first error
    char line[LINE_BYTES];
};

static size_t align_up(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Bytes of an element. */
static size_t piece_size(const struct piece *p)
{
    return p->as_stored ? 1 : dtype_size(p->spec.dtype);
}

static size_t piece_bytes(const struct piece *p)
{
    return align_up((size_t)p->count * piece_size(p));
}

static status add_bytes(void *payload, const struct weight_spec *spec, const char *name,
                        int64_t first, int64_t count, const struct weight_form *form)
{
    const struct piece p = { .spec = *spec, .as_stored = form != NULL, .count = count };

    *(size_t *)payload += piece_bytes(&p);
    return ST_OK;
}

size_t readahead_bytes(const struct tensor_list *l, int ranks, int rank,
                       const struct weight_source *as_stored)
{
    size_t bytes = 0;

    tensors_ranges(l, ranks, rank, as_stored, add_bytes, &bytes);
    return bytes;
}

static status add_piece(void *payload, const struct weight_spec *spec, const char *name,
                        int64_t first, int64_t count, const struct weight_form *form)
{
    struct readahead *r = payload;
    struct piece *p;

    if (r->count == r->capacity) {
        const int capacity = r->capacity > 0 ? 2 * r->capacity : 256;
        struct piece *more = realloc(r->pieces, (size_t)capacity * sizeof(*more));

        if (more == NULL)
            return fail(ST_MEMORY, "cannot allocate host memory for a list of %d tensors",
                        capacity);
        r->pieces = more;
        r->capacity = capacity;
    }
    p = &r->pieces[r->count++];
    *p = (struct piece){
        .spec = *spec, .as_stored = form != NULL, .first = first, .count = count, .at = r->bytes
    };
    memcpy(p->name, name, strlen(name) + 1);
    r->bytes += piece_bytes(p);
    return ST_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp((*(struct piece *const *)a)->name, (*(struct piece *const *)b)->name);
}

/* ---- the threads ---- */

/* Assigns the next elements to the calling thread, which holds the lock. False after the last. */
static bool next_chunk(struct readahead *r, struct piece **piece, int64_t *first, int64_t *count)
{
    int64_t most;

    while (r->next < r->count && r->assigned == r->pieces[r->next].count) {
        r->next++;
        r->assigned = 0;
    }
    if (r->next == r->count || r->stopping || r->st != ST_OK)
        return false;
    *piece = &r->pieces[r->next];
    most = (int64_t)(CHUNK_BYTES / piece_size(*piece));
    *first = r->assigned;
    *count = (*piece)->count - *first < most ? (*piece)->count - *first : most;
    r->assigned += *count;
    return true;
}

static status read_piece(struct readahead *r, const struct piece *p, int64_t first, int64_t count)
{
    const struct weight_source *s = &r->source;
    char *to = r->data + p->at + (size_t)first * piece_size(p);

    return p->as_stored ? s->read_form(s->payload, &p->spec, p->name, (size_t)(p->first + first),
                                       (size_t)count, to)
                        : s->read(s->payload, &p->spec, p->name, p->first + first, count, to);
}

static void *run_thread(void *payload)
{
    struct readahead *r = payload;
    struct piece *p = NULL;
    int64_t first, count;

    pthread_mutex_lock(&r->lock);
    while (next_chunk(r, &p, &first, &count)) {
        status st;

        pthread_mutex_unlock(&r->lock);
        st = read_piece(r, p, first, count);
        pthread_mutex_lock(&r->lock);
        if (st != ST_OK && r->st == ST_OK) { // the error line is thread-local: copy it
            r->st = st;
            strncpy(r->line, status_line(), LINE_BYTES - 1);
        }
    }
    r->busy--;
    pthread_cond_signal(&r->ended);
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

static status start_threads(struct readahead *r, int threads)
{
    const int most = threads < THREADS_MAX ? threads : THREADS_MAX;
    int code = 0;

    for (int i = 0; i < most && code == 0; i++) {
        pthread_mutex_lock(&r->lock);
        r->busy++;
        pthread_mutex_unlock(&r->lock);
        code = pthread_create(&r->thread[i], NULL, run_thread, r);
        if (code == 0) {
            r->threads++;
            continue;
        }
        pthread_mutex_lock(&r->lock);
        r->busy--;
        pthread_mutex_unlock(&r->lock);
    }
    return r->threads > 0
               ? ST_OK
               : fail(ST_MEMORY, "cannot start a thread to read weights: %s", strerror(code));
}

status readahead_start(struct readahead **readahead, const struct tensor_list *l, int ranks,
                       int rank, struct weight_source source, bool as_stored, int threads)
{
    struct readahead *r = calloc(1, sizeof(*r));
    status st;

    assert(threads > 0);
    *readahead = NULL;
    if (r == NULL)
        return fail(ST_MEMORY, "cannot allocate host memory to read weights");
    r->source = source;
    r->data = MAP_FAILED;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->ended, NULL);
    TRY_OUT(tensors_ranges(l, ranks, rank, as_stored ? &source : NULL, add_piece, r));
    r->by_name = calloc((size_t)r->count + 1, sizeof(struct piece *));
    r->data = mmap(NULL, r->bytes + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r->by_name == NULL || r->data == MAP_FAILED)
        TRY_OUT(fail(ST_MEMORY,
                     "cannot allocate %.2f GB of host memory for the weights to load "
                     "next",
                     (double)r->bytes / 1e9));
    madvise(r->data, r->bytes + 1, MADV_HUGEPAGE); // only faster
    for (int i = 0; i < r->count; i++)
        r->by_name[i] = &r->pieces[i];
    qsort(r->by_name, (size_t)r->count, sizeof(struct piece *), compare_names);
    TRY_OUT(start_threads(r, threads));
    *readahead = r;
out:
    if (st != ST_OK)
        readahead_stop(r);
    return st;
}

status readahead_wait(struct readahead *r, struct device *dev)
{
    status st = ST_OK;

    pthread_mutex_lock(&r->lock);
    while (r->busy > 0 && st == ST_OK) {
        const struct timespec until = clock_after_ms(10);

        pthread_cond_timedwait(&r->ended, &r->lock, &until);
        pthread_mutex_unlock(&r->lock);
        alive_tick();
        st = device_poll(dev);
        pthread_mutex_lock(&r->lock);
    }
    if (st == ST_OK && r->st != ST_OK)
        st = fail(r->st, "%s", r->line);
    pthread_mutex_unlock(&r->lock);
    return st;
}

/* ---- the source ---- */

static status copy_piece(const struct readahead *r, const char *name, int64_t first, int64_t count,
                         void *dst)
{
    struct piece key, *wanted = &key, **found;
    size_t size;

    memcpy(key.name, name, strlen(name) + 1);
    found = bsearch(&wanted, r->by_name, (size_t)r->count, sizeof(struct piece *), compare_names);
    assert(found != NULL && first >= (*found)->first &&
           first + count <= (*found)->first + (*found)->count);
    size = piece_size(*found);
    memcpy(dst, r->data + (*found)->at + (size_t)(first - (*found)->first) * size,
           (size_t)count * size);
    return ST_OK;
}

static status read_memory(void *payload, const struct weight_spec *spec, const char *name,
                          int64_t first, int64_t count, void *dst)
{
    return copy_piece(payload, name, first, count, dst);
}

static bool form_memory(void *payload, const struct weight_spec *spec, const char *name,
                        struct weight_form *form)
{
    const struct weight_source *s = &((struct readahead *)payload)->source;

    return s->form != NULL && s->form(s->payload, spec, name, form);
}

static status read_form_memory(void *payload, const struct weight_spec *spec, const char *name,
                               size_t first, size_t count, void *dst)
{
    return copy_piece(payload, name, (int64_t)first, (int64_t)count, dst);
}

struct weight_source readahead_source(struct readahead *r)
{
    return (struct weight_source){ .read = read_memory,
                                   .form = form_memory,
                                   .read_form = read_form_memory,
                                   .payload = r,
                                   .in_memory = true };
}

void readahead_stop(struct readahead *r)
{
    if (r == NULL)
        return;
    pthread_mutex_lock(&r->lock);
    r->stopping = true;
    pthread_mutex_unlock(&r->lock);
    for (int i = 0; i < r->threads; i++)
        pthread_join(r->thread[i], NULL);
    if (r->data != MAP_FAILED)
        munmap(r->data, r->bytes + 1);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->ended);
    free(r->pieces);
    free(r->by_name);
    free(r);
}
