/* [mpirun -n P] bench_load DIR [REPEATS]
 *
 * Loads a checkpoint to the GPUs, one per rank, from the page cache (which the first repeat fills):
 *   link       pinned host memory to the device, by size of the copies: the ceiling
 *   read       the files to host memory, by number of threads
 *   loader     creation of the threads and their pinned buffers, once per job
 *   dit        the whole transformer on every rank, each rank reading a slice; and sharded
 *   text       all blocks of the text encoder streamed through two buffers, on rank 0
 *   vae        the decoder, whose weights are permuted during loading
 * Rates are the bytes of the files that a rank reads, divided by the time until the last rank has
 * finished; also in per cent of the link's rate. Parts that the folder lacks are skipped. */
#include "kernels/table.h"
#include "model/pipeline/model.h"
#include "model/transformer/dit.h"
#include "model/vae/vae.h"
#include "runtime/clock.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((size_t)1 << 20)
#define RING (64 * MIB)
#define LINK_BYTES (2048 * MIB)

static void need(status st)
{
    if (st != ST_OK) {
        printf("bench_load: %s\n", status_line());
        exit(1);
    }
}

struct bench {
    struct world world;
    struct device dev;
    struct mesh mesh;
    struct checkpoint files;
    int repeats;
    double link; // GB/s
};

static void print_rate(const struct bench *b, const char *what, double seconds, double bytes)
{
    if (b->world.rank == 0)
        printf("%-28s %8.3f s %8.2f GB %8.2f GB/s  %3.0f %% of the link\n", what, seconds,
               bytes * 1e-9, bytes / seconds * 1e-9,
               b->link > 0 ? bytes / seconds * 1e-7 / b->link : 100.0);
}

/* All ranks at the same time, as when they load weights. */
static void bench_link(struct bench *b)
{
    static const size_t sizes[] = { 1 * MIB, 4 * MIB, 64 * MIB };
    struct device_event end;
    void *host, *device;

    need(device_host_alloc(&b->dev, &host, RING));
    need(device_alloc(&b->dev, &device, LINK_BYTES));
    need(device_event_init(&b->dev, &end));
    memset(host, 1, RING);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        double least = 1e30;
        char name[40];

        for (int r = 0; r < 3; r++) {
            double from;

            world_barrier(&b->world);
            from = clock_seconds();
            for (size_t at = 0; at < LINK_BYTES; at += sizes[i])
                need(device_queue_upload(&b->dev,
                                         tensor_of((char *)device + at, DT_U8, (int64_t)sizes[i]),
                                         (char *)host + at % RING));
            need(device_event_record(&b->dev, &end, QUEUE_COPIES));
            need(device_event_wait(&b->dev, &end));
            from = clock_seconds() - from;
            least = from < least ? from : least;
        }
        if ((double)LINK_BYTES / least * 1e-9 > b->link)
            b->link = (double)LINK_BYTES / least * 1e-9;
        snprintf(name, sizeof(name), "link, copies of %zu MiB", sizes[i] / MIB);
        print_rate(b, name, least, (double)LINK_BYTES);
    }
    device_event_done(&b->dev, &end);
    device_free(&b->dev, device, LINK_BYTES);
    device_host_free(&b->dev, host);
}

struct reader {
    pthread_t thread;
    struct tensorfile *file;
    _Atomic int *next;
    char *buffer;
};

/* Reads tensors until none is left, in slices of 4 MiB, without conversion. */
static void *reader_thread(void *payload)
{
    struct reader *r = payload;

    for (int i = (*r->next)++; i < r->file->count; i = (*r->next)++) {
        const struct file_tensor *t = &r->file->tensors[i];
        const int64_t step = (int64_t)(4 * MIB / dtype_size(t->shape.dtype));
        const int64_t count = tensor_count(t->shape);

        for (int64_t at = 0; at < count; at += step)
            need(tensorfile_read(r->file, t, at, count - at < step ? count - at : step,
                                 t->shape.dtype, r->buffer));
    }
    return NULL;
}

static void bench_read(struct bench *b)
{
    struct tensorfile *f = checkpoint_file(&b->files, &part_dit);

    for (int threads = 4; threads <= 16 && b->world.rank == 0; threads += 4) {
        struct reader *readers = calloc((size_t)threads, sizeof(*readers));
        _Atomic int next = 0;
        char name[40];
        double from;

        f->bytes_read = 0;
        from = clock_seconds();
        for (int i = 0; i < threads; i++) {
            readers[i] = (struct reader){ .file = f, .next = &next, .buffer = malloc(4 * MIB) };
            pthread_create(&readers[i].thread, NULL, reader_thread, &readers[i]);
        }
        for (int i = 0; i < threads; i++) {
            pthread_join(readers[i].thread, NULL);
            free(readers[i].buffer);
        }
        free(readers);
        snprintf(name, sizeof(name), "read by %d threads", threads);
        print_rate(b, name, clock_seconds() - from, (double)f->bytes_read);
    }
    world_barrier(&b->world);
}

static void bench_loader(struct bench *b)
{
    const double from = clock_seconds();
    struct loader *l;

    need(loader_get(&b->dev, &l));
    if (b->world.rank == 0)
        printf("%-28s %8.3f s\n", "loader, created", clock_seconds() - from);
}

/* Bytes of the transformer's weights, computed on the plan device. */
static size_t dit_bytes(const struct bench *b, enum dtype cdt, bool fsdp)
{
    const struct weight_source none = { 0 };
    struct arena a = { 0 };
    struct world w;
    struct device plan;
    struct mesh mesh;
    struct dit m;
    size_t bytes;

    world_describe(&w, b->world.rank, b->world.size, b->world.local_size);
    need(device_open_plan(&plan, &table_plan, 0));
    need(mesh_open(&mesh, &w, &plan, b->mesh.size));
    need(arena_init(&a, &plan, "plan", 0));
    need(dit_open(&m, checkpoint_config(&b->files, &part_dit), &mesh, &plan, &a, cdt, fsdp, none));
    bytes = a.peak;
    dit_close(&m);
    arena_done(&a);
    mesh_close(&mesh);
    device_close(&plan);
    return bytes;
}

/* Prints whether the ranks together have read every byte of the file once. */
static void print_once(struct bench *b, const struct tensorfile *f)
{
    const double read = world_sum(&b->world, (double)f->bytes_read);
    double bytes = 0;

    for (int i = 0; i < f->count; i++)
        bytes += (double)tensor_bytes(f->tensors[i].shape);
    if (b->world.rank == 0)
        printf("%28s all ranks read %.4f GB, the tensors have %.4f\n", "", read * 1e-9,
               bytes * 1e-9);
}

static void bench_dit(struct bench *b, enum dtype cdt, bool fsdp)
{
    const struct weight_source source = checkpoint_source(&b->files, &part_dit);
    struct tensorfile *f = checkpoint_file(&b->files, &part_dit);
    char name[40];
    struct arena a = { 0 };
    struct dit m;

    need(arena_init(&a, &b->dev, "transformer", dit_bytes(b, cdt, fsdp)));
    for (int r = 0; r < b->repeats; r++) {
        double from, took;

        a.used = 0;
        f->bytes_read = 0;
        world_barrier(&b->world);
        from = clock_seconds();
        need(dit_open(&m, checkpoint_config(&b->files, &part_dit), &b->mesh, &b->dev, &a, cdt, fsdp,
                      source));
        need(device_wait(&b->dev));
        took = clock_seconds() - from;
        need(dit_complete(&m));
        need(device_wait(&b->dev));
        world_barrier(&b->world);
        snprintf(name, sizeof(name), "dit %s %s", dtype_name(cdt), fsdp ? "sharded" : "whole");
        print_rate(b, name, clock_seconds() - from, (double)f->bytes_read);
        if (b->world.rank == 0 && b->world.size > 1)
            printf("%28s of which reading %.3f s\n", "", took);
        dit_close(&m);
    }
    print_once(b, f);
    arena_done(&a);
}

/* The text encoder's blocks, streamed. */
static void bench_text(struct bench *b)
{
    const struct weight_source source = checkpoint_source(&b->files, &part_t5);
    struct tensorfile *f = checkpoint_file(&b->files, &part_t5);
    struct tensor_list list = { 0 };
    const struct tensor_stack *blocks;
    const struct weight_spec *specs;
    struct arena a = { 0 };

    umt5_tensors(&list, checkpoint_config(&b->files, &part_t5), DT_BF16, DT_BF16);
    need(tensors_status(&list));
    blocks = tensors_find(&list, "blocks");
    specs = tensors_of(&list, blocks);
    need(arena_init(&a, &b->dev, "text",
                    weights_bytes(WEIGHTS_STREAMED, 1, 0, blocks->units, specs, blocks->count) +
                        4096));
    for (int r = 0; r < b->repeats; r++) {
        struct tensor unit[16]; // larger than the encoder's own struct
        struct weights w;
        double from;

        a.used = 0;
        f->bytes_read = 0;
        from = clock_seconds();
        need(weights_open(&w, &a, WEIGHTS_STREAMED, NULL, blocks->units, specs, blocks->count,
                          source));
        for (int l = 0; l < blocks->units; l++)
            need(weights_acquire(&w, l, l + 1 < blocks->units ? l + 1 : -1, unit));
        need(device_wait(&b->dev));
        print_rate(b, "text, streamed", clock_seconds() - from, (double)f->bytes_read);
        weights_close(&w);
    }
    arena_done(&a);
    tensors_done(&list);
}

static void bench_vae(struct bench *b)
{
    struct arena a = { 0 };

    need(arena_init(&a, &b->dev, "vae", 1024 * MIB));
    for (int r = 0; r < b->repeats; r++) {
        struct vae v;
        double from;

        a.used = 0;
        checkpoint_file(&b->files, &part_vae)->bytes_read = 0;
        world_barrier(&b->world);
        from = clock_seconds();
        need(vae_open(&v, checkpoint_config(&b->files, &part_vae), &b->mesh.all, &b->dev, &a,
                      DT_F32, false, true, checkpoint_source(&b->files, &part_vae)));
        need(device_wait(&b->dev));
        world_barrier(&b->world);
        print_rate(b, "vae", clock_seconds() - from,
                   (double)checkpoint_file(&b->files, &part_vae)->bytes_read);
        vae_close(&v);
    }
    arena_done(&a);
}

/* Whether the part can be opened; if not, prints why. */
static bool has(struct bench *b, const struct part *part)
{
    const status st = checkpoint_part(&b->files, part);

    if (st != ST_OK && b->world.rank == 0)
        printf("skipped: %s\n", status_line());
    return st == ST_OK;
}

int main(int argc, char **argv)
{
    struct bench b = { .repeats = 3 };
    struct mesh_shape shape = { 1, 1, 0 };

    need(world_open(&b.world, &argc, &argv));
    if (argc < 2 || (argc > 2 && (b.repeats = atoi(argv[2])) < 1)) {
        printf("bench_load DIR [REPEATS]\n");
        return 1;
    }
    shape.ulysses = b.world.size;
    need(device_open_cuda(&b.dev, b.world.local_rank, &table_ref, 0));
    need(mesh_open(&b.mesh, &b.world, &b.dev, shape));
    need(checkpoint_open(&b.files, argv[1], model_parts));
    bench_link(&b);
    bench_loader(&b);
    if (has(&b, &part_dit)) {
        bench_read(&b);
        bench_dit(&b, DT_BF16, false);
        if (b.world.size > 1)
            bench_dit(&b, DT_BF16, true);
    }
    if (has(&b, &part_t5) && b.world.rank == 0)
        bench_text(&b);
    if (has(&b, &part_vae))
        bench_vae(&b);
    checkpoint_close(&b.files);
    mesh_close(&b.mesh);
    device_close(&b.dev);
    world_close(&b.world);
    return 0;
}
