#include "parallel/loader.h"

#include "runtime/clock.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_BYTES ((size_t)2 << 20) // larger buffers of two ranks do not fit in the caches
#define BUFFERS 2                      // per thread: one is filled, the other is uploaded
#define BUFFERS_MAX 4
#define THREADS_MAX 16 // reach 46 of a link's 54 GB/s; more threads are slower
#define LINE_BYTES 512

/* A range of bytes of a unit, and its destination. */
struct range {
    loader_fill *fill;
    void *payload;
    int unit;
    size_t from, bytes;
    char *dst;
    size_t left; // bytes that are not filled yet
};

struct chunk {
    struct range part; // of the range with index `range`
    int range;
};

struct reader {
    struct loader *loader;
    pthread_t thread;
    char *buffer[BUFFERS_MAX];
    struct device_event uploaded[BUFFERS_MAX]; // recorded after the buffer's last upload
    int next;
    struct loader_times times;
};

struct loader {
    struct device *dev;
    struct loader_shape shape;
    struct reader *readers;
    int threads;                 // that were started
    char *memory;                // all pinned buffers
    struct device_event ordered; // orders the work queue and the copy queue

    pthread_mutex_t lock;         // protects the members below
    pthread_cond_t added, filled; // filled: `complete` or `busy` has changed
    int64_t dropped;              // number of ranges added before ranges[0]
    struct range *ranges;
    int count, capacity;
    int complete;    // all ranges before this one are filled
    int current;     // index of the range whose chunks are being assigned
    size_t assigned; // its bytes assigned so far
    int busy;        // threads that are loading a chunk
    bool closing;
    status st; // the first error
    char line[LINE_BYTES];
};

size_t loader_bytes(int threads)
{
    return (size_t)(threads < THREADS_MAX ? threads : THREADS_MAX) * BUFFERS * BUFFER_BYTES;
}

/* Assigns the next chunk to the calling thread, which holds the lock. False when there is none. */
static bool next_chunk(struct loader *l, struct chunk *chunk)
{
    struct range *part = &chunk->part;
    size_t left;

    while (l->current < l->count && l->assigned == l->ranges[l->current].bytes) {
        l->current++;
        l->assigned = 0;
    }
    if (l->current == l->count || l->st != ST_OK)
        return false;
    *part = l->ranges[l->current];
    chunk->range = l->current;
    left = part->bytes - l->assigned;
    part->from += l->assigned;
    part->dst += l->assigned;
    part->bytes = left < l->shape.bytes ? left : l->shape.bytes;
    l->assigned += part->bytes;
    return true;
}

static status load_chunk(struct reader *r, const struct range *p)
{
    struct device *dev = r->loader->dev;
    const int b = r->next;
    const double start = clock_seconds();
    double ready, filled;

    r->next = (b + 1) % r->loader->shape.buffers;
    TRY(device_event_wait(dev, &r->uploaded[b]));
    ready = clock_seconds();
    TRY(p->fill(p->payload, p->unit, p->from, p->from + p->bytes, r->buffer[b]));
    filled = clock_seconds();
    TRY(device_queue_upload(dev, tensor_of(p->dst, DT_U8, (int64_t)p->bytes), r->buffer[b]));
    TRY(device_event_record(dev, &r->uploaded[b], QUEUE_COPIES));
    r->times.wait += ready - start;
    r->times.fill += filled - ready;
    r->times.end = clock_seconds();
    r->times.upload += r->times.end - filled;
    return ST_OK;
}

/* Advances over the ranges that are filled. The caller holds the lock. */
static void advance(struct loader *l)
{
    while (l->complete < l->count && l->ranges[l->complete].left == 0)
        l->complete++;
}

static void *run_reader(void *payload)
{
    struct reader *r = payload;
    struct loader *l = r->loader;

    pthread_mutex_lock(&l->lock);
    while (!l->closing) {
        struct chunk chunk;
        const int complete = l->complete;
        status st;

        if (!next_chunk(l, &chunk)) {
            pthread_cond_wait(&l->added, &l->lock);
            continue;
        }
        l->busy++;
        pthread_mutex_unlock(&l->lock);
        st = load_chunk(r, &chunk.part);
        pthread_mutex_lock(&l->lock);
        if (st == ST_OK) {
            l->ranges[chunk.range].left -= chunk.part.bytes;
            advance(l);
        } else if (l->st == ST_OK) { // the error line is thread-local: copy it
            l->st = st;
            strncpy(l->line, status_line(), LINE_BYTES - 1);
        }
        if (--l->busy == 0 || l->complete > complete)
            pthread_cond_signal(&l->filled);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* Number of cores that this process may run on. */
static int core_count(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

static void close_loader(struct device *dev)
{
    struct loader *l = dev->loader;

    pthread_mutex_lock(&l->lock);
    l->closing = true;
    pthread_cond_broadcast(&l->added);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->threads; i++)
        pthread_join(l->readers[i].thread, NULL);
    for (int i = 0; i < l->threads; i++)
        for (int b = 0; b < l->shape.buffers; b++) {
            device_event_wait(dev, &l->readers[i].uploaded[b]);
            device_event_done(dev, &l->readers[i].uploaded[b]);
        }
    device_event_done(dev, &l->ordered);
    device_host_free(dev, l->memory);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->added);
    pthread_cond_destroy(&l->filled);
    free(l->readers);
    free(l->ranges);
    free(l);
    dev->loader = NULL;
    dev->loader_close = NULL;
}

static status start_reader(struct loader *l, int i)
{
    struct reader *r = &l->readers[i];
    int code;

    r->loader = l;
    for (int b = 0; b < l->shape.buffers; b++) {
        r->buffer[b] = l->memory + (size_t)(i * l->shape.buffers + b) * l->shape.bytes;
        TRY(device_event_init(l->dev, &r->uploaded[b]));
    }
    code = pthread_create(&r->thread, NULL, run_reader, r);
    if (code != 0)
        return fail(ST_MEMORY, "cannot start a thread to load weights: %s", strerror(code));
    l->threads = i + 1;
    return ST_OK;
}

status loader_open(struct device *dev, struct loader_shape shape, struct loader **loader)
{
    const size_t bytes = (size_t)(shape.threads * shape.buffers) * shape.bytes;
    struct loader *l = calloc(1, sizeof(*l));
    status st;

    assert(dev->loader == NULL && shape.buffers <= BUFFERS_MAX && shape.bytes % LOADER_ALIGN == 0);
    *loader = NULL;
    if (l == NULL)
        return fail(ST_MEMORY, "no host memory for a loader of weights");
    l->dev = dev;
    l->shape = shape;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->added, NULL);
    pthread_cond_init(&l->filled, NULL);
    dev->loader = l;
    dev->loader_close = close_loader;
    l->readers = calloc((size_t)shape.threads, sizeof(*l->readers));
    if (l->readers == NULL) {
        st = fail(ST_MEMORY, "no host memory for a loader of weights");
        goto out;
    }
    TRY_OUT(device_event_init(dev, &l->ordered));
    TRY_OUT(device_host_alloc(dev, (void **)&l->memory, bytes));
    for (int i = 0; i < shape.threads; i++)
        TRY_OUT(start_reader(l, i));
    *loader = l;
out:
    if (st != ST_OK)
        close_loader(dev);
    return st;
}

status loader_get(struct device *dev, struct loader **loader)
{
    const int cores = core_count(), threads = cores < THREADS_MAX ? cores : THREADS_MAX;

    *loader = dev->loader;
    if (dev->loader != NULL)
        return ST_OK;
    return loader_open(dev, (struct loader_shape){ threads, BUFFERS, BUFFER_BYTES }, loader);
}

status loader_add(struct loader *l, loader_fill *fill, void *payload, int unit, size_t from,
                  struct tensor dst)
{
    const size_t bytes = tensor_bytes(dst);

    assert(tensor_contiguous(dst) && dst.dtype == DT_U8);
    TRY(device_event_record(l->dev, &l->ordered, QUEUE_WORK));
    TRY(device_event_follow(l->dev, &l->ordered, QUEUE_COPIES));
    pthread_mutex_lock(&l->lock);
    if (l->count == l->capacity) {
        const int capacity = l->capacity > 0 ? 2 * l->capacity : 64;
        struct range *more = realloc(l->ranges, (size_t)capacity * sizeof(*more));

        if (more == NULL) {
            pthread_mutex_unlock(&l->lock);
            return fail(ST_MEMORY, "no host memory for %d ranges of weights", capacity);
        }
        l->ranges = more;
        l->capacity = capacity;
    }
    l->ranges[l->count++] = (struct range){ fill, payload, unit, from, bytes, dst.data, bytes };
    advance(l);
    pthread_cond_broadcast(&l->added);
    pthread_mutex_unlock(&l->lock);
    return ST_OK;
}

int64_t loader_added(const struct loader *l)
{
    return l->dropped + l->count; // only the calling thread writes them
}

/* Waits a little, and checks the other ranks. The caller holds the lock, which is released if this
 * fails. */
static status wait_filled(struct loader *l)
{
    const struct timespec until = clock_after_ms(10);
    status st;

    pthread_cond_timedwait(&l->filled, &l->lock, &until);
    pthread_mutex_unlock(&l->lock);
    st = device_poll(l->dev);
    if (st == ST_OK)
        pthread_mutex_lock(&l->lock);
    return st;
}

status loader_wait(struct loader *l, int64_t ranges)
{
    status st;

    assert(ranges <= loader_added(l));
    if (ranges <= l->dropped)
        return ST_OK;
    pthread_mutex_lock(&l->lock);
    while (l->st == ST_OK ? l->dropped + l->complete < ranges : l->busy > 0)
        TRY(wait_filled(l));
    st = l->st;
    if (st != ST_OK || l->complete == l->count) {
        l->dropped += l->count;
        l->count = l->complete = l->current = 0;
        l->assigned = 0;
        l->st = ST_OK;
    }
    pthread_mutex_unlock(&l->lock);
    if (st != ST_OK)
        return fail(st, "%s", l->line);
    TRY(device_event_record(l->dev, &l->ordered, QUEUE_COPIES));
    return device_event_follow(l->dev, &l->ordered, QUEUE_WORK);
}

status loader_finish(struct loader *l)
{
    return loader_wait(l, loader_added(l));
}

struct loader_times loader_times(struct loader *l)
{
    struct loader_times sum = { 0 };

    for (int i = 0; i < l->threads; i++) {
        struct loader_times *t = &l->readers[i].times;

        sum.fill += t->fill;
        sum.wait += t->wait;
        sum.upload += t->upload;
        sum.end = t->end > sum.end ? t->end : sum.end;
        *t = (struct loader_times){ 0 };
    }
    return sum;
}
