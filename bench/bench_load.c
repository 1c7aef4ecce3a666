/* [mpirun -n P] bench_load DIR [REPEATS [sweep | LORA.safetensors]]
 *
 * Loads a checkpoint to the GPUs, one per rank, from the page cache (which the first repeat fills).
 * Each rank uses the cores that wanmpi would give it.
 *   link       pinned host memory to the device, by size of the copies: the ceiling
 *   read       the transformer's files to host memory, each rank a part, by number of threads
 *   loader     creation of the threads and their pinned buffers, once per job
 *   dit        the whole transformer on every rank, each rank reading a slice; and sharded
 *   text       all blocks of the text encoder streamed through two buffers, on rank 0
 *   vae        the decoder, whose weights are permuted during loading
 * Rates are the bytes of the files that a rank reads, divided by the time until the last rank has
 * finished; also in per cent of the link's rate. Parts that the folder lacks are skipped.
 *
 * Under each line of dit, the minimum and maximum over the ranks: until its own slice was read; how
 * long it then waited for the other ranks' hosts; how long for its GPU; and what its threads did.
 *
 * sweep: instead of text and vae, dit with other numbers of threads and buffers, and without the
 * overlap of reading and all-gathers.
 * LORA: dit is loaded once more, with it merged, after the other lines. */
#include "kernels/table.h"
#include "launch/placement.h"
#include "model/pipeline/model.h"
#include "model/transformer/dit.h"
#include "model/vae/vae.h"
#include "runtime/clock.h"

#include <math.h>
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
    int threads; // of a loader: the cores of this rank
    double link; // GB/s
};

static void print_rate(const struct bench *b, const char *what, double seconds, double bytes)
{
    if (b->world.rank == 0)
        printf("%-28s %8.3f s %8.2f GB %8.2f GB/s  %3.0f %% of the link\n", what, seconds,
               bytes * 1e-9, bytes / seconds * 1e-9,
               b->link > 0 ? bytes / seconds * 1e-7 / b->link : 100.0);
}

/* Binds this rank to cores as launch/job.c does. */
static void bind_rank(struct bench *b)
{
    struct placement_node node;
    struct placement place;
    char bus[32], (*all)[sizeof(place.pus)];

    need(device_cuda_bus(b->world.local_rank, bus, sizeof(bus)));
    need(placement_detect(&b->world, bus, &node));
    need(placement_choose(&place, &node, 0));
    need(placement_bind(&place));
    b->threads = place.cores < 16 ? place.cores : 16;
    all = calloc((size_t)b->world.size, sizeof(*all));
    world_gather(&b->world, place.pus, sizeof(place.pus), all);
    for (int i = 0; i < b->world.size && b->world.rank == 0; i++)
        printf("rank %d: cores %s\n", i, all[i]);
    free(all);
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
    int number, count; // among the threads of all ranks
    size_t bytes;      // of the buffer
    char *buffer;
};

/* Reads each `count`-th slice of every tensor, without conversion. */
static void *reader_thread(void *payload)
{
    struct reader *r = payload;

    for (int i = 0; i < r->file->count; i++) {
        const struct file_tensor *t = &r->file->tensors[i];
        const int64_t step = (int64_t)(r->bytes / dtype_size(t->shape.dtype));
        const int64_t count = tensor_count(t->shape);

        for (int64_t at = r->number * step; at < count; at += r->count * step)
            need(tensorfile_read(r->file, t, at, count - at < step ? count - at : step,
                                 t->shape.dtype, r->buffer));
    }
    return NULL;
}

static void read_files(struct bench *b, int threads, size_t bytes)
{
    struct tensorfile *f = checkpoint_file(&b->files, &part_dit);
    struct reader *readers = calloc((size_t)threads, sizeof(*readers));
    char name[40];
    double from;

    for (int i = 0; i < threads; i++) {
        readers[i] = (struct reader){ .file = f,
                                      .number = b->world.rank * threads + i,
                                      .count = b->world.size * threads,
                                      .bytes = bytes,
                                      .buffer = malloc(bytes) };
        memset(readers[i].buffer, 1, bytes);
    }
    f->bytes_read = 0;
    world_barrier(&b->world);
    from = clock_seconds();
    for (int i = 0; i < threads; i++)
        pthread_create(&readers[i].thread, NULL, reader_thread, &readers[i]);
    for (int i = 0; i < threads; i++)
        pthread_join(readers[i].thread, NULL);
    world_barrier(&b->world);
    snprintf(name, sizeof(name), "read, %d threads, %zu KiB", threads, bytes / 1024);
    print_rate(b, name, clock_seconds() - from, (double)f->bytes_read);
    for (int i = 0; i < threads; i++)
        free(readers[i].buffer);
    free(readers);
}

static void bench_read(struct bench *b)
{
    read_files(b, b->threads, 4 * MIB); // fills the page cache
    for (int threads = b->threads > 4 ? b->threads / 4 : 1; threads <= b->threads; threads *= 2)
        for (size_t bytes = MIB / 2; bytes <= 8 * MIB; bytes *= 4)
            read_files(b, threads, bytes);
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
    need(dit_open(&m, checkpoint_config(&b->files, &part_dit), &mesh, &plan, &a, cdt,
                  (struct dit_matmul){ 0 }, (struct tensors_place){ .fsdp = fsdp }, none));
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

struct phases {
    double read, hosts, gpu;   // seconds, one after the other
    double fill, wait, upload; // of the threads' time, per cent
};

/* Prints the minimum and the maximum of all ranks for each member of struct phases. */
static void print_phases(struct bench *b, const struct phases *mine)
{
    static const char *const names[] = { "read %.3f to %.3f s",
                                         ", hosts %.3f to %.3f",
                                         ", GPU %.3f to %.3f",
                                         "; threads: fill %.0f to %.0f %%",
                                         ", wait for buffers %.0f to %.0f %%",
                                         ", upload %.0f to %.0f %%\n" };
    const int count = (int)(sizeof(*mine) / sizeof(double));
    double *all = calloc((size_t)b->world.size, sizeof(*mine));

    world_gather(&b->world, mine, sizeof(*mine), all);
    for (int i = 0; i < count && b->world.rank == 0; i++) {
        double least = all[i], most = all[i];

        for (int r = 1; r < b->world.size; r++) {
            least = fmin(least, all[r * count + i]);
            most = fmax(most, all[r * count + i]);
        }
        printf(i == 0 ? "    " : "");
        printf(names[i], least, most);
    }
    free(all);
}

enum loading { WHOLE, SEQUENTIAL, SHARDED };

static void bench_dit(struct bench *b, enum dtype cdt, enum loading how)
{
    static const char *const names[] = { "whole", "whole, one by one", "sharded" };
    const struct weight_source source = checkpoint_source(&b->files, &part_dit);
    struct tensorfile *f = checkpoint_file(&b->files, &part_dit);
    const bool fsdp = how == SHARDED;
    char name[40];
    struct loader *l;
    struct arena a = { 0 };
    struct dit m;

    need(loader_get(&b->dev, &l));
    need(arena_init(&a, &b->dev, "transformer", dit_bytes(b, cdt, fsdp)));
    for (int r = 0; r < b->repeats; r++) {
        struct loader_times t = loader_times(l); // sets the times to 0
        struct phases p;
        double from, queued, done;

        a.used = 0;
        f->bytes_read = 0;
        world_barrier(&b->world);
        from = clock_seconds();
        need(dit_open(&m, checkpoint_config(&b->files, &part_dit), &b->mesh, &b->dev, &a, cdt,
                      (struct dit_matmul){ 0 }, (struct tensors_place){ .fsdp = fsdp }, source));
        if (how == SEQUENTIAL) {
            need(loader_finish(l));
            need(device_wait(&b->dev));
            world_barrier(&b->world);
        }
        need(dit_complete(&m));
        queued = clock_seconds();
        need(device_wait(&b->dev));
        done = clock_seconds();
        world_barrier(&b->world);
        snprintf(name, sizeof(name), "dit %s %s", dtype_name(cdt), names[how]);
        print_rate(b, name, clock_seconds() - from, (double)f->bytes_read);
        t = loader_times(l);
        p = (struct phases){
            t.end - from, queued - t.end, done - queued, t.fill, t.wait, t.upload
        };
        for (double *s = &p.fill; s <= &p.upload; s++)
            *s *= 100 / (b->threads * p.read);
        print_phases(b, &p);
        if (r == b->repeats - 1 && how == WHOLE && b->world.size > 1) {
            world_barrier(&b->world);
            from = clock_seconds();
            need(dit_complete(&m)); // again
            need(device_wait(&b->dev));
            world_barrier(&b->world);
            print_rate(b, "all-gathers alone", clock_seconds() - from, (double)a.used);
        }
        dit_close(&m);
    }
    print_once(b, f);
    arena_done(&a);
}

/* Other shapes of the loader than loader_get's. */
static void bench_shapes(struct bench *b)
{
    static const struct {
        int part; // of the cores have a thread, in quarters
        int buffers;
        size_t bytes;
    } shapes[] = {
        { 4, 2, 2 * MIB }, { 4, 2, MIB },     { 4, 2, MIB / 2 }, { 4, 1, 2 * MIB },
        { 4, 1, MIB },     { 3, 2, 2 * MIB }, { 3, 2, MIB },     { 3, 1, 2 * MIB },
        { 2, 2, 2 * MIB }, { 2, 2, MIB },     { 4, 2, 4 * MIB }, { 6, 1, MIB },
    };
    const int cores = b->threads;

    for (size_t i = 0; i < COUNT(shapes); i++) {
        const struct loader_shape s = { (cores * shapes[i].part + 3) / 4, shapes[i].buffers,
                                        shapes[i].bytes };
        struct loader *l;

        b->dev.loader_close(&b->dev);
        need(loader_open(&b->dev, s, &l));
        if (b->world.rank == 0)
            printf("%d threads, %d buffers each of %zu KiB\n", s.threads, s.buffers,
                   s.bytes / 1024);
        b->threads = s.threads;
        bench_dit(b, DT_BF16, WHOLE);
    }
    b->threads = cores;
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

/* The transformer with a LoRA merged into it. */
static void bench_lora(struct bench *b, const char *path)
{
    struct lora_use use = { 0 };
    struct lora *l = NULL;

    need(lora_parse(&use, path));
    need(lora_open(&l, &(struct lora_options){ .part = &part_dit,
                                               .config = checkpoint_config(&b->files, &part_dit),
                                               .base = checkpoint_file(&b->files, &part_dit),
                                               .source = checkpoint_source(&b->files, &part_dit),
                                               .uses = &use,
                                               .count = 1 }));
    if (b->world.rank == 0)
        printf("with %s; %.0f MB of GPU memory to merge it\n", lora_line(l, 0),
               (double)lora_device_bytes(l) * 1e-6);
    checkpoint_adapt(&b->files, &part_dit, lora_source(l));
    bench_dit(b, DT_BF16, WHOLE);
    if (b->world.size > 1)
        bench_dit(b, DT_BF16, SHARDED);
    checkpoint_adapt(&b->files, &part_dit, (struct weight_source){ .read = NULL });
    lora_close(l);
    free(use.path);
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
    struct table table;
    bool sweep;

    need(world_open(&b.world, &argc, &argv));
    if (argc < 2 || (argc > 2 && (b.repeats = atoi(argv[2])) < 1)) {
        printf("bench_load DIR [REPEATS [sweep | LORA.safetensors]]\n");
        return 1;
    }
    sweep = argc > 3 && strcmp(argv[3], "sweep") == 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    bind_rank(&b);
    shape.ulysses = b.world.size;
    table_cuda(&table);
    need(device_open_cuda(&b.dev, b.world.local_rank, &table, table.workspace));
    need(mesh_open(&b.mesh, &b.world, &b.dev, shape));
    need(checkpoint_open(&b.files, argv[1], model_parts));
    bench_link(&b);
    bench_loader(&b);
    if (has(&b, &part_dit)) {
        bench_read(&b);
        bench_dit(&b, DT_BF16, WHOLE);
        if (b.world.size > 1) {
            bench_dit(&b, DT_BF16, SEQUENTIAL);
            bench_dit(&b, DT_BF16, SHARDED);
        }
        if (sweep)
            bench_shapes(&b);
        else if (argc > 3)
            bench_lora(&b, argv[3]);
    }
    if (!sweep && has(&b, &part_t5) && b.world.rank == 0)
        bench_text(&b);
    if (!sweep && has(&b, &part_vae))
        bench_vae(&b);
    checkpoint_close(&b.files);
    mesh_close(&b.mesh);
    device_close(&b.dev);
    world_close(&b.world);
    return 0;
}
