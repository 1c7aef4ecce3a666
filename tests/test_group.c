/* World and groups: failing together, every exchange with even, uneven and empty parts, and the
 * plan's message counts against the real ones. */
#include "parallel/group.h"
#include "parallel/split.h"
#include "tests/ranks_device.h"

#define TOTAL 1003 // bytes in an exchange; no multiple of any rank count
#define MAX_BYTES (1 << 16)

static struct table on_gpu;

static unsigned char pattern(int from, int to, size_t i)
{
    return (unsigned char)(1 + (from * 41 + to * 7 + (int)i) % 251);
}

/* Bytes from rank a to rank b: uneven, and nothing for some. */
static size_t pair_bytes(int a, int b)
{
    return (a * 3 + b) % 4 == 1 ? 0 : (size_t)(5 + 11 * a + 3 * b);
}

static void check_bytes(const char *what, const unsigned char *got, int from, int to, size_t n)
{
    size_t bad = 0;

    for (size_t i = 0; i < n; i++)
        bad += got[i] != pattern(from, to, i);
    CHECK(bad == 0, "%s from %d to %d: %zu of %zu bytes", what, from, to, bad, n);
}

static void fill(unsigned char *p, int from, int to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = pattern(from, to, i);
}

/* What a group exchanges, and as much host memory that the test fills and looks at: the same on a
 * CPU. On a plan device nothing is looked at, but everything is called. */
struct side {
    struct group *g;
    bool real;
    struct tensor send, recv; // [MAX_BYTES]
    unsigned char *out, *in;  // the same on the host
};

static unsigned char *send_at(const struct side *s, size_t at)
{
    return (unsigned char *)s->send.data + at;
}

static unsigned char *recv_at(const struct side *s, size_t at)
{
    return (unsigned char *)s->recv.data + at;
}

static void up(struct side *s)
{
    mirror_up(s->g->dev, s->send, s->out);
    mirror_up(s->g->dev, s->recv, s->in);
}

static void down(struct side *s)
{
    mirror_down(s->g->dev, s->in, s->recv);
}

static void all_gather(struct side *s, bool in_place)
{
    struct group *g = s->g;
    struct transfer t = { 0 };
    size_t *at = g->recv_at;

    for (int i = 0; i <= g->size; i++)
        at[i] = (size_t)split_at(TOTAL, g->size, i);
    const size_t own = at[g->rank];
    memset(s->in, 0, TOTAL);
    fill(in_place ? s->in + own : s->out, g->rank, 0, at[g->rank + 1] - own);
    up(s);
    CHECK(group_all_gather(g, &t, recv_at(s, 0), at, in_place ? recv_at(s, own) : send_at(s, 0)) ==
              ST_OK,
          "%s", status_line());
    CHECK(transfer_wait(&t) == ST_OK && t.group == NULL, "%s", status_line());
    down(s);
    for (int i = 0; s->real && i < g->size; i++)
        check_bytes("all-gather", s->in + at[i], i, 0, at[i + 1] - at[i]);
}

static void all_to_all(struct side *s, bool own)
{
    struct group *g = s->g;
    struct transfer t = { 0 };

    for (int i = 0; i < g->size; i++) {
        const bool skip = i == g->rank && !own;
        g->send_at[i + 1] = g->send_at[i] + (skip ? 0 : pair_bytes(g->rank, i));
        g->recv_at[i + 1] = g->recv_at[i] + pair_bytes(i, g->rank);
        fill(s->out + g->send_at[i], g->rank, i, g->send_at[i + 1] - g->send_at[i]);
    }
    memset(s->in, 0, g->recv_at[g->size]);
    if (!own) // already in its place
        fill(s->in + g->recv_at[g->rank], g->rank, g->rank, pair_bytes(g->rank, g->rank));
    up(s);
    CHECK(group_all_to_all(g, &t, recv_at(s, 0), g->recv_at, send_at(s, 0), g->send_at) == ST_OK,
          "%s", status_line());
    CHECK(transfer_wait(&t) == ST_OK, "%s", status_line());
    down(s);
    for (int i = 0; s->real && i < g->size; i++)
        check_bytes("all-to-all", s->in + g->recv_at[i], i, g->rank, pair_bytes(i, g->rank));
}

/* One message there and one from here. */
static void pass_on(struct side *s, struct transfer *t, int to, const void *send, int from,
                    void *recv, size_t bytes)
{
    const struct message out = message_of(to, send, bytes), in = message_of(from, recv, bytes);

    CHECK(group_exchange(s->g, t, &out, 1, &in, 1) == ST_OK, "%s", status_line());
}

/* Round the group, as many at a time as may be; then along a line, where the last does not call. */
static void exchange(struct side *s)
{
    struct group *g = s->g;
    struct transfer t[GROUP_IN_FLIGHT] = { { 0 } };
    const int to = (g->rank + 1) % g->size, from = (g->rank + g->size - 1) % g->size;

    for (int i = 0; i < GROUP_IN_FLIGHT; i++)
        fill(s->out + i * 512, g->rank, i, 512);
    up(s);
    for (size_t i = 0; i < GROUP_IN_FLIGHT; i++)
        pass_on(s, &t[i], to, send_at(s, i * 512), from, recv_at(s, i * 512), 512);
    for (int i = GROUP_IN_FLIGHT - 1; i >= 0; i--)
        CHECK(transfer_wait(&t[i]) == ST_OK, "%s", status_line());
    down(s);
    for (int i = 0; s->real && i < GROUP_IN_FLIGHT; i++)
        check_bytes("exchange", s->in + i * 512, from, i, 512);

    const int line = g->size - 1;
    if (g->rank >= line)
        return;
    const int above = g->rank > 0 ? g->rank - 1 : -1, below = g->rank + 1 < line ? g->rank + 1 : -1;
    fill(s->out, g->rank, 99, 512);
    up(s);
    pass_on(s, &t[0], above, send_at(s, 0), below, recv_at(s, 0), 512);
    CHECK(transfer_wait(&t[0]) == ST_OK, "%s", status_line());
    down(s);
    if (s->real && below >= 0)
        check_bytes("line", s->in, below, 99, 512);
}

/* Pieces of 40 bytes to everybody, 64 apart here and 48 there; twice to the next. */
static void pieces(struct side *s)
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
        out[i] = (struct message){ to, send_at(s, (size_t)i * 256), 40, 3, 64 };
        in[i] = (struct message){ from, recv_at(s, (size_t)i * 256), 40, 3, 48 };
    }
    up(s);
    CHECK(group_exchange(g, &t, out, g->size + more, in, g->size + more) == ST_OK, "%s",
          status_line());
    CHECK(transfer_wait(&t) == ST_OK, "%s", status_line());
    down(s);
    for (int i = 0; s->real && i < g->size + more; i++)
        for (int j = 0; j < 3; j++) {
            const int from = i < g->size ? i : last;
            const int sent = i < g->size ? 3 * g->rank : 3 * g->size;

            check_bytes("pieces", s->in + i * 256 + j * 48, from, g->rank + sent + j, 40);
            CHECK(s->in[i * 256 + j * 48 + 40] == 0, "behind piece %d of message %d", j, i);
        }
    free(out);
}

static void broadcast(struct side *s)
{
    struct group *g = s->g;

    for (int root = 0; root < g->size; root++) {
        struct transfer t = { 0 };
        if (g->rank == root)
            fill(s->in, root, 3, TOTAL);
        else
            memset(s->in, 0, TOTAL);
        up(s);
        CHECK(group_broadcast(g, &t, recv_at(s, 0), TOTAL, root) == ST_OK, "%s", status_line());
        CHECK(transfer_wait(&t) == ST_OK, "%s", status_line());
        down(s);
        if (s->real)
            check_bytes("broadcast", s->in, root, 3, TOTAL);
    }
}

/* Many, none of which the host waits for: more than a pair of ranks has places for. */
static void many(struct side *s)
{
    struct group *g = s->g;
    const int to = (g->rank + 1) % g->size, from = (g->rank + g->size - 1) % g->size;

    fill(s->out, g->rank, 5, 256);
    memset(s->in, 0, 256);
    up(s);
    for (int i = 0; i < 300; i++) { // byte i of the last 256 comes in message i
        struct transfer t = { 0 };
        const size_t at = (size_t)i % 256;
        pass_on(s, &t, to, send_at(s, at), from, recv_at(s, at), 1);
        CHECK(transfer_wait(&t) == ST_OK, "%s", status_line());
    }
    down(s);
    if (s->real)
        check_bytes("many", s->in, from, 5, 256);
}

/* Twice, as memory that was freed and taken again may be at the same place. */
static void everything(struct group *g, bool real)
{
    for (int time = 0; time < 2; time++) {
        struct side s = { .g = g, .real = real };
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
        exchange(&s);
        pieces(&s);
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
    everything(&g, true);

    world_describe(&described, w->rank, w->size, 2);
    CHECK(group_open(&planned, "test", &described, &plan, color, members, count) == ST_OK, "%s",
          status_line());
    CHECK(planned.size == g.size && planned.rank == g.rank, "planned %d of %d", planned.rank,
          planned.size);
    everything(&planned, false);
    CHECK(planned.sent == g.sent && planned.messages == g.messages,
          "planned %.0f bytes in %.0f messages, sent %.0f in %.0f", planned.sent, planned.messages,
          g.sent, g.messages);
    CHECK(g.size == 1 ? g.sent == 0 : g.sent > 0, "%.0f bytes sent", g.sent);
    group_close(&planned);
    group_close(&g);

    // Only some ranks.
    CHECK(group_open(&g, "some", w, &dev, w->rank < 2 ? 0 : -1, NULL, 0) == ST_OK, "%s",
          status_line());
    CHECK(g.size == (w->rank < 2 ? (w->size < 2 ? 1 : 2) : 0), "size %d", g.size);
    if (g.size > 0)
        everything(&g, true);
    group_close(&g);
    device_close(&plan);
    device_close(&dev);
    free(members);
}

/* A single rank needs no MPI: a described world of one, with a real device. */
static void check_alone(bool gpu)
{
    struct world w;
    struct device dev;
    struct group g;

    world_describe(&w, 0, 1, 1);
    CHECK(ranks_device(&dev, &w, gpu, gpu ? &on_gpu : &table_ref) == ST_OK, "%s", status_line());
    CHECK(group_open(&g, "alone", &w, &dev, 0, (const int[]){ 0 }, 1) == ST_OK, "%s",
          status_line());
    everything(&g, true);
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
    for (int bad = 0; bad < w->size; bad++) { // ranks bad.. fail: the lowest one's line wins
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

int main(int argc, char **argv)
{
    struct world w;
    bool gpu;

    if (argc == 1) // before MPI is there
        check_alone(false);
    check_described();
    if (world_open(&w, &argc, &argv) != ST_OK)
        return 1;
    gpu = ranks_on_gpus(&w, &argc, argv);
    table_cuda(&on_gpu);
    if (gpu)
        check_alone(true);
    check_world(&w);
    for (int parts = 1; parts <= 3; parts++)
        check_groups(&w, gpu, parts);
    return ranks_end(&w, "group");
}
