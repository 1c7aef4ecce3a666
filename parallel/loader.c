#include "parallel/loader.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_BYTES ((size_t)2 << 20) // larger ones of two ranks leave the caches
#define BUFFERS 2                      // of a thread: one is read into, one is on its way
#define THREADS_MAX 16                 // bring 46 of a link's 54 GB/s; more are slower
#define LINE_BYTES 512

/* Bytes of a unit and where they go. */
struct run {
    loader_fill *fill;
    void *payload;
    int unit;
    size_t from, bytes;
    char *dst;
};

struct reader {
    struct loader *loader;
    pthread_t thread;
    char *buffer[BUFFERS];
    struct device_event sent[BUFFERS]; // behind the buffer's last upload
    int next;
};

struct loader {
    struct device *dev;
    struct reader *readers;
    int threads;
    char *memory;                // of all buffers
    struct device_event ordered; // between the queues

    pthread_mutex_t lock; // of what follows
    pthread_cond_t added, idle;
    struct run *runs;
    int count, room;
    int at;      // the run that is being handed out
    size_t done; // its bytes that are
    int busy;    // threads at work
    bool closing;
    status st; // the first fault
    char line[LINE_BYTES];
};

size_t loader_bytes(int threads)
{
    return (size_t)(threads < THREADS_MAX ? threads : THREADS_MAX) * BUFFERS * BUFFER_BYTES;
}

/* The next piece to fill, under the lock. False when there is none. */
static bool take(struct loader *l, struct run *piece)
{
    size_t left;

    if (l->at < l->count && l->done == l->runs[l->at].bytes) {
        l->at++;
        l->done = 0;
    }
    if (l->at == l->count || l->st != ST_OK)
        return false;
    *piece = l->runs[l->at];
    left = piece->bytes - l->done;
    piece->from += l->done;
    piece->dst += l->done;
    piece->bytes = left < BUFFER_BYTES ? left : BUFFER_BYTES;
    l->done += piece->bytes;
    return true;
}

static status bring(struct reader *r, const struct run *p)
{
    struct device *dev = r->loader->dev;
    const int b = r->next;

    r->next = (b + 1) % BUFFERS;
    TRY(device_event_wait(dev, &r->sent[b]));
    TRY(p->fill(p->payload, p->unit, p->from, p->from + p->bytes, r->buffer[b]));
    TRY(device_queue_upload(dev, tensor_of(p->dst, DT_U8, (int64_t)p->bytes), r->buffer[b]));
    return device_event_record(dev, &r->sent[b], QUEUE_COPIES);
}

static void *fill_pieces(void *payload)
{
    struct reader *r = payload;
    struct loader *l = r->loader;

    pthread_mutex_lock(&l->lock);
    while (!l->closing) {
        struct run piece;
        status st;

        if (!take(l, &piece)) {
            pthread_cond_wait(&l->added, &l->lock);
            continue;
        }
        l->busy++;
        pthread_mutex_unlock(&l->lock);
        st = bring(r, &piece);
        pthread_mutex_lock(&l->lock);
        if (st != ST_OK && l->st == ST_OK) { // its line is this thread's alone
            l->st = st;
            strncpy(l->line, status_line(), LINE_BYTES - 1);
        }
        if (--l->busy == 0)
            pthread_cond_signal(&l->idle);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* Cores that this process may run on. */
static int cores(void)
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
        for (int b = 0; b < BUFFERS; b++) {
            device_event_wait(dev, &l->readers[i].sent[b]);
            device_event_done(dev, &l->readers[i].sent[b]);
        }
    device_event_done(dev, &l->ordered);
    device_host_free(dev, l->memory);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->added);
    pthread_cond_destroy(&l->idle);
    free(l->readers);
    free(l->runs);
    free(l);
    dev->loader = NULL;
    dev->loader_close = NULL;
}

static status start_reader(struct loader *l, int i)
{
    struct reader *r = &l->readers[i];
    int code;

    r->loader = l;
    for (int b = 0; b < BUFFERS; b++) {
        r->buffer[b] = l->memory + ((size_t)i * BUFFERS + (size_t)b) * BUFFER_BYTES;
        TRY(device_event_init(l->dev, &r->sent[b]));
    }
    code = pthread_create(&r->thread, NULL, fill_pieces, r);
    if (code != 0)
        return fail(ST_MEMORY, "no thread to load weights with: %s", strerror(code));
    l->threads = i + 1;
    return ST_OK;
}

status loader_of(struct device *dev, struct loader **loader)
{
    const int all = cores(), threads = all < THREADS_MAX ? all : THREADS_MAX;
    struct loader *l = dev->loader;
    status st;

    *loader = l;
    if (l != NULL)
        return ST_OK;
    l = calloc(1, sizeof(*l));
    if (l == NULL)
        return fail(ST_MEMORY, "no host memory");
    l->dev = dev;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->added, NULL);
    pthread_cond_init(&l->idle, NULL);
    dev->loader = l;
    dev->loader_close = close_loader;
    l->readers = calloc((size_t)threads, sizeof(*l->readers));
    if (l->readers == NULL) {
        st = fail(ST_MEMORY, "no host memory");
        goto out;
    }
    TRY_OUT(device_event_init(dev, &l->ordered));
    TRY_OUT(device_host_alloc(dev, (void **)&l->memory, loader_bytes(threads)));
    for (int i = 0; i < threads; i++)
        TRY_OUT(start_reader(l, i));
    *loader = l;
out:
    if (st != ST_OK)
        close_loader(dev);
    return st;
}

status loader_add(struct loader *l, loader_fill *fill, void *payload, int unit, size_t from,
                  struct tensor dst)
{
    const size_t bytes = tensor_bytes(dst);

    assert(tensor_contiguous(dst) && dst.dtype == DT_U8);
    if (bytes == 0)
        return ST_OK;
    if (l->count == 0) { // nothing is on its way, so the lock is not needed for that
        TRY(device_event_record(l->dev, &l->ordered, QUEUE_WORK));
        TRY(device_event_follow(l->dev, &l->ordered, QUEUE_COPIES));
    }
    pthread_mutex_lock(&l->lock);
    if (l->count == l->room) {
        const int room = l->room > 0 ? 2 * l->room : 64;
        struct run *more = realloc(l->runs, (size_t)room * sizeof(*more));

        if (more == NULL) {
            pthread_mutex_unlock(&l->lock);
            return fail(ST_MEMORY, "no host memory for %d runs of weights", room);
        }
        l->runs = more;
        l->room = room;
    }
    l->runs[l->count++] = (struct run){ fill, payload, unit, from, bytes, dst.data };
    pthread_cond_broadcast(&l->added);
    pthread_mutex_unlock(&l->lock);
    return ST_OK;
}

status loader_finish(struct loader *l)
{
    status st;

    if (l->count == 0)
        return ST_OK;
    pthread_mutex_lock(&l->lock);
    while (l->busy > 0 || (l->st == ST_OK && l->at < l->count))
        pthread_cond_wait(&l->idle, &l->lock);
    l->count = l->at = 0;
    l->done = 0;
    st = l->st;
    l->st = ST_OK;
    pthread_mutex_unlock(&l->lock);
    if (st != ST_OK)
        return fail(st, "%s", l->line);
    TRY(device_event_record(l->dev, &l->ordered, QUEUE_COPIES));
    return device_event_follow(l->dev, &l->ordered, QUEUE_WORK);
}
