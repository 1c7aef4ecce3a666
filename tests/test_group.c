/* World and groups: agreement on errors, every collective with even, uneven and empty blocks, and
 * the plan's message counts against the real ones. */
#include "kernels/rates.h"
#include "parallel/group.h"
#include "parallel/queue.h"
#include "parallel/split.h"
#include "tests/ranks_device.h"

#define TOTAL 1003 // bytes of a collective; not a multiple of the numbers of ranks
#define MAX_BYTES (1 << 16)

static struct table on_gpu;

static unsigned char pattern(int from, int to, size_t i)
{
    return (unsigned char)(1 + (from * 41 + to * 7 + (int)i) % 251);
}

/* Bytes from rank a to rank b: uneven, and 0 for some pairs. */
static size_t pair_bytes(int a, int b)
{
    return (a * 3 + b) % 4 == 1 ? 0 : (size_t)(5 + 11 * a + 3 * b);
}

static void check_bytes(const char *what, const unsigned char *got, int from, int to, size_t n)
{
    size_t bad = 0;

    for (size_t i = 0; i < n; i++)
        bad += got[i] != pattern(from, to, i);
    CHECK(bad == 0, "%s from %d to %d: %zu of %zu bytes are wrong", what, from, to, bad, n);
}

static void fill(unsigned char *p, int from, int to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = pattern(from, to, i);
}

/* A group with send and receive buffers on its device, and host memory of the same size, which the
 * test writes and checks; on a CPU both are the same memory. On a plan device the same functions
 * are called but no data is checked. */
struct fixture {
    struct group *g;
    bool real;                // not a plan device
    struct tensor send, recv; // [MAX_BYTES]
    unsigned char *out, *in;  // the same in host memory
};

static unsigned char *send_ptr(const struct fixture *s, size_t at)
{
    return (unsigned char *)s->send.data + at;
}

static unsigned char *recv_ptr(const struct fixture *s, size_t at)
{
    return (unsigned char *)s->recv.data + at;
}

static void upload(struct fixture *s)
{
    mirror_up(s->g->dev, s->send, s->out);
    mirror_up(s->g->dev, s->recv, s->in);
}

static void download(struct fixture *s)
{
    mirror_down(s->g->dev, s->in, s->recv);
}

static void all_gather(struct fixture *s, bool in_place)
{
    struct group *g = s->g;
    struct transfer t = { 0 };
    size_t *at = g->recv_offset;

    for (int i = 0; i <= g->size; i++)
        at[i] = (size_t)split_at(TOTAL, g->size, i);
    const size_t mine = at[g->rank];
    memset(s->in, 0, TOTAL);
    fill(in_place ? s->in + mine : s->out, g->rank, 0, at[g->rank + 1] - mine);
    upload(s);
    CHECK(group_all_gather(g, &t, recv_ptr(s, 0), at,
                           in_place ? recv_ptr(s, mine) : send_ptr(s, 0)) == ST_OK,
          "%s", status_line());
    CHECK(transfer_wait(&t) == ST_OK && t.group == NULL, "%s", status_line());
    download(s);
    for (int i = 0; s->real && i < g->size; i++)
        check_bytes("all-gather", s->in + at[i], i, 0, at[i + 1] - at[i]);
}

/* copy_own: send this rank's block to itself too; else it is already in the receive buffer. */
static void all_to_all(struct fixture *s, bool copy_own)
{
    struct group *g = s->g;
    struct transfer t = { 0 };

    for (int i = 0; i < g->size; i++) {
        const bool skip = i == g->rank && !copy_own;
        g->send_offset[i + 1] = g->send_offset[i] + (skip ? 0 : pair_bytes(g->rank, i));
        g->recv_offset[i + 1] = g->recv_offset[i] + pair_bytes(i, g->rank);
        fill(s->out + g->send_offset[i], g->rank, i, g->send_offset[i + 1] - g->send_offset[i]);
    }
    memset(s->in, 0, g->recv_offset[g->size]);
    if (!copy_own)
        fill(s->in + g->recv_offset[g->rank], g->rank, g->rank, pair_bytes(g->rank, g->rank));
    upload(s);
    CHECK(group_all_to_all(g, &t, recv_ptr(s, 0), g->recv_offset, send_ptr(s, 0), g->send_offset) ==
              ST_OK,
          "%s", status_line());
    CHECK(transfer_wait(&t) == ST_OK, "%s", status_line());
    download(s);
    for (int i = 0; s->real && i < g->size; i++)
        check_bytes("all-to-all", s->in + g->recv_offset[i], i, g->rank, pair_bytes(i, g->rank));
}

/* Starts to send one message and to receive one. */
static void start_send_recv(struct fixture *s, struct transfer *t, int to, const void *send,
                            int from, void *recv, size_t bytes)
{
    const struct message out = message_of(to, send, bytes), in = message_of(from, recv, bytes);

    CHECK(group_send_recv(s->g, t, &out, 1, &in, 1) == ST_OK, "%s", status_line());
}

/* Around a ring, GROUP_IN_FLIGHT transfers at a time; then along a line, without the last rank. */
static void send_recv(struct fixture *s)
{
    struct group *g = s->g;
    struct transfer t[GROUP_IN_FLIGHT] = { { 0 } };
    const int to = (g->rank + 1) % g->size, from = (g->rank + g->size - 1) % g->size;

    for (int i = 0; i < GROUP_IN_FLIGHT; i++)
        fill(s->out + i * 512, g->rank, i, 512);
    upload(s);
    for (size_t i = 0; i < GROUP_IN_FLIGHT; i++)
        start_send_recv(s, &t[i], to, send_ptr(s, i * 512), from, recv_ptr(s, i * 512), 512);
    for (int i = GROUP_IN_FLIGHT - 1; i >= 0; i--)
        CHECK(transfer_wait(&t[i]) == ST_OK, "%s", status_line());
    download(s);
    for (int i = 0; s->real && i < GROUP_IN_FLIGHT; i++)
        check_bytes("send-recv", s->in + i * 512, from, i, 512);

    const int line = g->size - 1;
    if (g->rank >= line)
        return;
    const int above = g->rank > 0 ? g->rank - 1 : -1, below = g->rank + 1 < line ? g->rank + 1 : -1;
    fill(s->out, g->rank, 99, 512);
    upload(s);
    start_send_recv(s, &t[0], above, send_ptr(s, 0), below, recv_ptr(s, 0), 512);
    CHECK(transfer_wait(&t[0]) == ST_OK, "%s", status_line());
    download(s);
    if (s->real && below >= 0)
        check_bytes("line", s->in, below, 99, 512);
}

/* Messages of 3 rows of 40 bytes to every rank, pitch 64 to send and 48 to receive; two to the next
 * rank. */
static void strided(struct fixture *s)
{
    struct group *g = s->g;
    struct transfer t = { 0 };
    struct message *out = calloc(2 * ((size_t)g->size + 1), sizeof(*out));
    struct message *in = out + g->size + 1;
    const int more = g->size > 1, next = (g->rank + 1) % g->size;
    const int last = (g->rank + g->size - 1) % g->size;

    memset(s->in, 0, MAX_BYTES);
    for (int i = 0; i < g->size + more; i++) {
        const int to = i < g->size ? i : next, from = i < g->size ? i : last;

        for (int j = 0; j < 3; j++)
            fill(s->out + i * 256 + j * 64, g->rank, to + 3 * i + j, 40);
        out[i] = (struct message){ to, send_ptr(s, (size_t)i * 256), 40, 3, 64 };
        in[i] = (struct message){ from, recv_ptr(s, (size_t)i * 256), 40, 3, 48 };
    }
    upload(s);
    CHECK(group_send_recv(g, &t, out, g->size + more, in, g->size + more) == ST_OK, "%s",
          status_line());
    CHECK(transfer_wait(&t) == ST_OK, "%s", status_line());
    download(s);
    for (int i = 0; s->real && i < g->size + more; i++)
        for (int j = 0; j < 3; j++) {
            const int from = i < g->size ? i : last;
            const int sent = i < g->size ? 3 * g->rank : 3 * g->size;

            check_bytes("strided", s->in + i * 256 + j * 48, from, g->rank + sent + j, 40);
            CHECK(s->in[i * 256 + j * 48 + 40] == 0, "bytes after row %d of message %d", j, i);
        }
    free(out);
}

/* Rows that arrive one by one, and how a kernel would see it. */
static void by_row(struct fixture *s)
{
    struct group *g = s->g;
    struct transfer t = { 0 };
    struct message *out = g->scratch, *in = out + g->size;
    struct arrival a;

    memset(s->in, 0, MAX_BYTES);
    for (int i = 0; i < g->size; i++) {
        for (int j = 0; j < 3; j++)
            fill(s->out + i * 256 + j * 64, g->rank, 7 * i + j, 40);
        out[i] = (struct message){ i, send_ptr(s, (size_t)i * 256), 40, 3, 64 };
        in[i] = (struct message){ i, recv_ptr(s, (size_t)i * 256), 40, 3, 48 };
    }
    upload(s);
    CHECK(group_send_recv_rows(g, &t, out, g->size, in, g->size) == ST_OK, "%s", status_line());
    for (int i = 0; i < g->size; i++) {
        const bool flags = transfer_arrival(&t, i, &a);

        CHECK(!flags || (g->direct && i != g->rank), "flags of rank %d", i);
        if (!flags || !s->real) // the plan device has none, a.flag is NULL
            continue;
        uint32_t now = a.value - 1;
        while ((int32_t)(now - (a.value + 2)) < 0) // as a kernel waits for the third row
            CHECK(device_download(g->dev, &now, tensor_of((void *)a.flag, DT_U8, (int64_t)4)) ==
                          ST_OK &&
                      device_wait(g->dev) == ST_OK,
                  "%s", status_line());
        CHECK(now == a.value + 2, "rank %d: %u rows after %u", i, now, a.value - 1);
    }
    CHECK(transfer_wait(&t) == ST_OK, "%s", status_line());
    download(s);
    for (int i = 0; s->real && i < g->size; i++)
        for (int j = 0; j < 3; j++)
            check_bytes("by row", s->in + i * 256 + j * 48, i, 7 * g->rank + j, 40);
}

/* An op that writes into the memory of every rank, twice. */
static void put(struct fixture *s)
{
    struct group *g = s->g;
    struct message *out = g->scratch, *in = out + g->size;
    const double sent = g->sent, messages = g->messages;

    if (!g->direct)
        return;
    memset(s->in, 0, MAX_BYTES);
    for (int i = 0; i < 2 * g->size; i++)
        fill(s->out + i * 64, g->rank, i % g->size + i / g->size, 64);
    upload(s);
    for (int round = 0; round < 2; round++) {
        struct transfer t = { 0 };
        const size_t at = (size_t)(round * g->size) * 64;

        for (int i = 0; i < g->size; i++) {
            out[i] = message_of(i, NULL, 64);
            in[i] = message_of(i, recv_ptr(s, at + (size_t)i * 64), 64);
        }
        CHECK(group_put(g, &t, out, g->size, in, g->size) == ST_OK, "%s", status_line());
        for (int i = 0; i < g->size; i++)
            CHECK(device_copy(g->dev, tensor_of(out[i].data, DT_U8, (int64_t)64),
                              tensor_of(send_ptr(s, at + (size_t)i * 64), DT_U8, (int64_t)64)) ==
                      ST_OK,
                  "%s", status_line());
        CHECK(put_complete(&t) == ST_OK && transfer_wait(&t) == ST_OK, "%s", status_line());
    }
    download(s);
    for (int round = 0; s->real && round < 2; round++)
        for (int i = 0; i < g->size; i++)
            check_bytes("put", s->in + (round * g->size + i) * 64, i, g->rank + round, 64);
    CHECK(g->sent == sent + 2 * 64 * (g->size - 1) && g->messages == messages + 2 * (g->size - 1),
          "put: %.0f bytes in %.0f messages", g->sent - sent, g->messages - messages);
    g->sent = sent; // the planned group does not get here
    g->messages = messages;
}

static void broadcast(struct fixture *s)
{
    struct group *g = s->g;

    for (int root = 0; root < g->size; root++) {
        struct transfer t = { 0 };
        if (g->rank == root)
            fill(s->in, root, 3, TOTAL);
        else
            memset(s->in, 0, TOTAL);
        upload(s);
        CHECK(group_broadcast(g, &t, recv_ptr(s, 0), TOTAL, root) == ST_OK, "%s", status_line());
        CHECK(transfer_wait(&t) == ST_OK, "%s", status_line());
        download(s);
        if (s->real)
            check_bytes("broadcast", s->in, root, 3, TOTAL);
    }
}

/* More messages than a mailbox has entries (comm_peer.c), without synchronizing the host. */
static void many(struct fixture *s)
{
    struct group *g = s->g;
    const int to = (g->rank + 1) % g->size, from = (g->rank + g->size - 1) % g->size;

    fill(s->out, g->rank, 5, 256);
    memset(s->in, 0, 256);
    upload(s);
    for (int i = 0; i < 300; i++) { // message i carries byte i % 256
        struct transfer t = { 0 };
        const size_t at = (size_t)i % 256;
        start_send_recv(s, &t, to, send_ptr(s, at), from, recv_ptr(s, at), 1);
        CHECK(transfer_wait(&t) == ST_OK, "%s", status_line());
    }
    download(s);
    if (s->real)
        check_bytes("many", s->in, from, 5, 256);
}

/* All collectives, twice: memory that was freed and allocated again may have the same address. */
static void all_collectives(struct group *g, bool real)
{
    for (int round = 0; round < 2; round++) {
        struct fixture s = { .g = g, .real = real };
        void *send = NULL, *recv = NULL;

        CHECK(device_alloc(g->dev, &send, MAX_BYTES) == ST_OK, "%s", status_line());
        CHECK(device_alloc(g->dev, &recv, MAX_BYTES) == ST_OK, "%s", status_line());
        s.send = tensor_of(send, DT_U8, MAX_BYTES);
        s.recv = tensor_of(recv, DT_U8, MAX_BYTES);
        s.out = real ? mirror(g->dev, s.send) : calloc(MAX_BYTES, 1);
        s.in = real ? mirror(g->dev, s.recv) : calloc(MAX_BYTES, 1);
        all_gather(&s, false);
        all_gather(&s, true);
        all_to_all(&s, true);
        all_to_all(&s, false);
        send_recv(&s);
        strided(&s);
        by_row(&s);
        put(&s);
        broadcast(&s);
        many(&s);
        if (real) {
            mirror_free(g->dev, s.out);
            mirror_free(g->dev, s.in);
        } else {
            free(s.out);
            free(s.in);
        }
        device_free(g->dev, recv, MAX_BYTES);
        device_free(g->dev, send, MAX_BYTES);
    }
}

static void check_groups(struct world *w, bool gpu, int parts)
{
    struct device dev, plan;
    struct world described;
    struct group g, planned;
    int *members = calloc((size_t)w->size, sizeof(*members)), count = 0;
    const int color = w->rank % parts;

    for (int i = color; i < w->size; i += parts)
        members[count++] = i;
    CHECK(ranks_device(&dev, w, gpu, gpu ? &on_gpu : &table_ref) == ST_OK, "%s", status_line());
    CHECK(device_open_plan(&plan, &table_plan, 0) == ST_OK, "%s", status_line());
    CHECK(group_open(&g, "test", w, &dev, color, NULL, 0) == ST_OK, "%s", status_line());
    CHECK(g.size == count && members[g.rank] == w->rank, "rank %d of %d", g.rank, g.size);
    all_collectives(&g, true);

    world_describe(&described, w->rank, w->size, 2);
    CHECK(group_open(&planned, "test", &described, &plan, color, members, count) == ST_OK, "%s",
          status_line());
    CHECK(planned.size == g.size && planned.rank == g.rank, "planned %d of %d", planned.rank,
          planned.size);
    all_collectives(&planned, false);
    CHECK(planned.sent == g.sent && planned.messages == g.messages,
          "planned %.0f bytes in %.0f messages, sent %.0f in %.0f", planned.sent, planned.messages,
          g.sent, g.messages);
    CHECK(g.size == 1 ? g.sent == 0 : g.sent > 0, "%.0f bytes sent", g.sent);
    group_close(&planned);
    group_close(&g);

    // a group of some of the ranks
    CHECK(group_open(&g, "some", w, &dev, w->rank < 2 ? 0 : -1, NULL, 0) == ST_OK, "%s",
          status_line());
    CHECK(g.size == (w->rank < 2 ? (w->size < 2 ? 1 : 2) : 0), "size %d", g.size);
    if (g.size > 0)
        all_collectives(&g, true);
    group_close(&g);
    device_close(&plan);
    device_close(&dev);
    free(members);
}

/* One rank without MPI: a described world of size 1, with a real device. */
static void check_alone(bool gpu)
{
    struct world w;
    struct device dev;
    struct group g;

    world_describe(&w, 0, 1, 1);
    CHECK(ranks_device(&dev, &w, gpu, gpu ? &on_gpu : &table_ref) == ST_OK, "%s", status_line());
    CHECK(group_open(&g, "alone", &w, &dev, 0, (const int[]){ 0 }, 1) == ST_OK, "%s",
          status_line());
    all_collectives(&g, true);
    CHECK(g.sent == 0 && g.messages == 0, "%.0f bytes sent", g.sent);
    group_close(&g);
    device_close(&dev);
}

static void check_world(struct world *w)
{
    const int last = w->size - 1;
    int value = w->rank == last ? 42 : -1;
    int *all = calloc((size_t)w->size, sizeof(*all));

    CHECK(w->rank >= 0 && w->rank < w->size, "rank %d of %d", w->rank, w->size);
    CHECK(w->local_rank == w->rank && w->local_size == w->size, "local %d of %d", w->local_rank,
          w->local_size);
    CHECK(agree(w, ST_OK) == ST_OK, "%s", status_line());
    for (int bad = 0; bad < w->size; bad++) { // ranks >= bad fail: all get the line of rank bad
        char want[64];
        status st = w->rank >= bad ? fail(ST_IO, "rank %d has no file", w->rank) : ST_OK;
        if (w->rank > bad)
            st = fail(ST_MEMORY, "rank %d has no memory", w->rank);
        snprintf(want, sizeof(want), "rank %d has no file", bad);
        st = agree(w, st);
        CHECK(st == ST_IO && strcmp(status_line(), want) == 0, "status %d, %s", st, status_line());
    }
    world_broadcast(w, &value, sizeof(value), last);
    CHECK(value == 42, "broadcast gave %d", value);
    value = 7 + w->rank;
    world_gather(w, &value, sizeof(value), all);
    for (int i = 0; w->rank == 0 && i < w->size; i++)
        CHECK(all[i] == 7 + i, "gathered %d from %d", all[i], i);
    CHECK(world_sum(w, w->rank + 0.5) == w->size * 0.5 * w->size, "sum");
    world_barrier(w);
    free(all);
}

/* Parts of the world compute the same as a world of that size. */
static void check_split(struct world *w)
{
    for (int ranks = 1; ranks <= w->size; ranks++) {
        struct world part;

        CHECK(agree(w, world_split(&part, w, ranks)) == ST_OK, "%s", status_line());
        if (w->rank < ranks) {
            CHECK(part.rank == w->rank && part.size == ranks, "rank %d of %d", part.rank,
                  part.size);
            check_world(&part);
        } else {
            CHECK(part.size == 0, "a part of %d ranks without rank %d", part.size, w->rank);
        }
        world_join(&part);
        world_barrier(w);
    }
}

static void check_divide(struct world *w)
{
    for (int parts = 1; parts <= w->size; parts++) {
        const int size = w->size / parts;
        struct world part;

        if (w->size % parts != 0)
            continue;
        CHECK(agree(w, world_divide(&part, w, parts)) == ST_OK, "%s", status_line());
        CHECK(part.rank == w->rank % size && part.size == size, "rank %d of %d, of %d parts",
              part.rank, part.size, parts);
        check_world(&part);
        world_join(&part);
        world_barrier(w);
    }
}

/* Each item goes to one rank, and rank 0 knows what failed; after a stop there are no more. */
static void check_queue(struct world *w)
{
    const int count = 3 * w->size + 1;
    struct queue_result done = { .item = -1 };
    struct queue q;
    double took = 0, sum = 0;
    int item;

    CHECK(agree(w, queue_open(&q, w, count)) == ST_OK, "%s", status_line());
    while ((item = queue_next(&q, &done)) >= 0) {
        took++;
        sum += item;
        done = (struct queue_result){ item, item % 3 == 2 ? ST_IO : ST_OK, "" };
        snprintf(done.line, sizeof(done.line), "item %d", item);
    }
    CHECK(item == QUEUE_EMPTY && queue_next(&q, NULL) == QUEUE_EMPTY, "item %d at the end", item);
    CHECK(agree(w, ST_OK) == ST_OK, "%s", status_line());
    took = world_sum(w, took);
    sum = world_sum(w, sum);
    CHECK(took == count && sum == count * (count - 1) / 2, "%g items, sum %g", took, sum);
    CHECK(w->rank != 0 || (q.failed == w->size && q.first.item == 2 && q.first.st == ST_IO &&
                           strcmp(q.first.line, "item 2") == 0),
          "%d failed, the first is %d: %s", q.failed, q.first.item, q.first.line);
    queue_close(&q);
    queue_close(&q); // a zeroed one
}

static void check_described(void)
{
    struct world w;
    int mine = 5, all[3] = { 0 };

    world_describe(&w, 9, 11, 4);
    CHECK(w.local_rank == 1 && w.local_size == 3 && w.described, "local %d of %d", w.local_rank,
          w.local_size);
    CHECK(agree(&w, fail(ST_USAGE, "no")) == ST_USAGE && agree(&w, ST_OK) == ST_OK, "agree");
    world_describe(&w, 0, 3, 8);
    world_gather(&w, &mine, sizeof(mine), all);
    CHECK(all[0] == 5 && world_sum(&w, 2) == 2, "described");
    world_close(&w);
}

/* Bytes and time of messages within a node and to the other, which are sent at the same time. */
static void check_links(void)
{
    const struct rates rates = { .link = 100, .network = 10, .transfer_s = 0.5, .overlaps = true };
    const size_t offset[] = { 0, 10, 20, 30, 40 };
    const int members[] = { 0, 1, 2, 3 };
    struct transfer t = { 0 };
    struct world w;
    struct device plan;
    struct group g;
    char data[40];

    world_describe(&w, 2, 4, 2);
    CHECK(device_open_plan(&plan, &table_plan, 0) == ST_OK, "%s", status_line());
    plan.rates = &rates;
    CHECK(group_open(&g, "all", &w, &plan, 0, members, 4) == ST_OK, "%s", status_line());
    CHECK(!g.on_node[0] && !g.on_node[1] && g.on_node[2] && g.on_node[3], "ranks of the node");
    CHECK(group_all_gather(&g, &t, data, offset, data) == ST_OK && plan.seconds == 0, "a start");
    plan.seconds = 1; // what is computed meanwhile
    CHECK(transfer_wait(&t) == ST_OK, "%s", status_line());
    CHECK(g.sent == 30 && g.sent_across == 20, "%g bytes, %g to the other node", g.sent,
          g.sent_across);
    CHECK(plan.seconds == 2.5 && plan.waited == 1.5, "%g s, %g of them waiting", plan.seconds,
          plan.waited);
    group_close(&g);
    device_close(&plan);
}

int main(int argc, char **argv)
{
    struct world w;
    bool gpu;

    if (argc == 1) // before MPI is initialized
        check_alone(false);
    check_described();
    check_links();
    if (world_open(&w, &argc, &argv) != ST_OK)
        return 1;
    gpu = ranks_on_gpus(&w, &argc, argv);
    table_cuda(&on_gpu);
    if (gpu)
        check_alone(true);
    check_world(&w);
    check_split(&w);
    check_divide(&w);
    check_queue(&w);
    for (int parts = 1; parts <= 3; parts++)
        check_groups(&w, gpu, parts);
    return ranks_end(&w, "group");
}
