#include "parallel/loader.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_BYTES ((size_t)4 << 20)
#define BUFFERS 2      // of a thread: one is read into, one is on its way; more leave the caches
#define THREADS_MAX 16 // 12 fill a link of 55 GB/s; 16 do so from files that need converting
#define NAME_BYTES 256
#define LINE_BYTES 512

struct piece {
    struct weight_source source;
    char name[NAME_BYTES];
    int64_t first;
    struct tensor dst;
};

struct reader {
    struct loader *loader;
    pthread_t thread;
    char *buffer[BUFFERS];
    struct device_mark sent[BUFFERS]; // behind the buffer's last upload
    int next;
};

struct loader {
    struct device *dev;
    struct reader *readers;
    int threads;
    char *memory;               // of all buffers
    struct device_mark ordered; // between the queues

    pthread_mutex_t lock; // of what follows
    pthread_cond_t added, idle;
    struct piece *pieces;
    int count, room;
    int at;       // the piece that is being handed out
    int64_t done; // its elements that are
    int busy;     // threads at work
    bool closing;
    status st; // the first fault
    char line[LINE_BYTES];
};

size_t loader_bytes(int threads)
{
    return (size_t)(threads < THREADS_MAX ? threads : THREADS_MAX) * BUFFERS * BUFFER_BYTES;
}

/* The next run of elements to read, under the lock. False when there is none. */
static bool take(struct loader *l, struct piece *p, int64_t *count)
{
    int64_t left, most;

    while (l->at < l->count && l->done == tensor_count(l->pieces[l->at].dst)) {
        l->at++;
        l->done = 0;
    }
    if (l->at == l->count || l->st != ST_OK)
        return false;
    *p = l->pieces[l->at];
    left = tensor_count(p->dst) - l->done;
    most = (int64_t)(BUFFER_BYTES / dtype_size(p->dst.dtype));
    *count = left < most ? left : most;
    p->first += l->done;
    p->dst.data = (char *)p->dst.data + (size_t)l->done * dtype_size(p->dst.dtype);
    l->done += *count;
    return true;
}

static status bring(struct reader *r, const struct piece *p, int64_t count)
{
    struct device *dev = r->loader->dev;
    const int b = r->next;
    const struct weight_source *s = &p->source;

    r->next = (b + 1) % BUFFERS;
    TRY(device_mark_wait(dev, &r->sent[b]));
    TRY(s->read(s->payload, p->name, p->first, count, p->dst.dtype, r->buffer[b]));
    TRY(device_queue_upload(dev, tensor_of(p->dst.data, p->dst.dtype, count), r->buffer[b]));
    return device_mark_set(dev, &r->sent[b], QUEUE_UPLOADS);
}

static void *read_pieces(void *payload)
{
    struct reader *r = payload;
    struct loader *l = r->loader;

    pthread_mutex_lock(&l->lock);
    while (!l->closing) {
        struct piece p;
        int64_t count;
        status st;

        if (!take(l, &p, &count)) {
            pthread_cond_wait(&l->added, &l->lock);
            continue;
        }
        l->busy++;
        pthread_mutex_unlock(&l->lock);
        st = bring(r, &p, count);
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
            device_mark_wait(dev, &l->readers[i].sent[b]);
            device_mark_done(dev, &l->readers[i].sent[b]);
        }
    device_mark_done(dev, &l->ordered);
    device_host_free(dev, l->memory);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->added);
    pthread_cond_destroy(&l->idle);
    free(l->readers);
    free(l->pieces);
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
        TRY(device_mark_init(l->dev, &r->sent[b]));
    }
    code = pthread_create(&r->thread, NULL, read_pieces, r);
    if (code != 0)
        return fail(ST_MEMORY, "no thread to read weights with: %s", strerror(code));
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
    TRY_OUT(device_mark_init(dev, &l->ordered));
    TRY_OUT(device_host_alloc(dev, (void **)&l->memory, loader_bytes(threads)));
    for (int i = 0; i < threads; i++)
        TRY_OUT(start_reader(l, i));
    *loader = l;
out:
    if (st != ST_OK)
        close_loader(dev);
    return st;
}

status loader_add(struct loader *l, const struct weight_source *source, const char *name,
                  int64_t first, struct tensor dst)
{
    struct piece *p;

    assert(strlen(name) < NAME_BYTES && tensor_contiguous(dst));
    if (tensor_count(dst) == 0)
        return ST_OK;
    if (l->count == 0) { // nothing is on its way, so the lock is not needed for that
        TRY(device_mark_set(l->dev, &l->ordered, QUEUE_WORK));
        TRY(device_mark_follow(l->dev, &l->ordered, QUEUE_UPLOADS));
    }
    pthread_mutex_lock(&l->lock);
    if (l->count == l->room) {
        const int room = l->room > 0 ? 2 * l->room : 256;
        struct piece *more = realloc(l->pieces, (size_t)room * sizeof(*more));

        if (more == NULL) {
            pthread_mutex_unlock(&l->lock);
            return fail(ST_MEMORY, "no host memory for %d pieces of weights", room);
        }
        l->pieces = more;
        l->room = room;
    }
    p = &l->pieces[l->count++];
    *p = (struct piece){ .source = *source, .first = first, .dst = dst };
    strcpy(p->name, name);
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
    TRY(device_mark_set(l->dev, &l->ordered, QUEUE_UPLOADS));
    return device_mark_follow(l->dev, &l->ordered, QUEUE_WORK);
}
