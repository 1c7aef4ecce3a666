/* Convolution on a GPU while the first and the last row of its input are being received: the same
 * bits as when they were there before. Another thread takes the part of the other GPUs. */
#include "tests/checkops.h"

#include <pthread.h>
#include <time.h>

#define BEFORE 0xffffffffu // a flag at first; it is waited for until it is AFTER, past the overflow
#define AFTER 0u
#define DEADLINE_S 20

static const struct tensor none;

/* What the other thread does. */
struct sender {
    struct tensor x, rows[2]; // rows: of x, first and last [T, W, C]; not received if it is none
    uint32_t *flag[2];
    struct tensor
        pixel;     // an element of the output that depends on neither: to be waited for; or none
    bool computed; // it was there before the rows were
};

/* The first or the last row of all frames. */
static struct tensor row_of(struct tensor x, int which)
{
    return tensor_slice(x, 1, which == 0 ? 0 : x.dim[1] - 1, 1);
}

/* Copies rows of contiguous pixels [T, 1, W, C]. */
static void copy_rows(struct tensor to, struct tensor from)
{
    const size_t size = dtype_size(to.dtype);

    for (int64_t t = 0; t < to.dim[0]; t++)
        memcpy((char *)to.data + (size_t)(t * to.stride[0]) * size,
               (const char *)from.data + (size_t)(t * from.stride[0]) * size,
               (size_t)(to.dim[2] * to.dim[3]) * size);
}

/* Waits until the pixel is no longer NaN, or a little while if there is none; then sends. */
static void *send_rows(void *payload)
{
    struct sender *s = payload;
    const double start = clock_seconds();

    nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    while (s->pixel.data != NULL && !s->computed && clock_seconds() - start < DEADLINE_S) {
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        s->computed = !isnan(check_get(s->pixel, (const int64_t[]){ 0, 0, 0, 0 }));
    }
    for (int i = 0; i < 2; i++)
        if (s->rows[i].data != NULL) {
            copy_rows(row_of(s->x, i), s->rows[i]);
            __atomic_store_n(s->flag[i], AFTER, __ATOMIC_RELEASE);
        }
    return NULL;
}

static void check_late(struct check *c, struct sender *s, struct tensor want, struct tensor got,
                       struct tensor past, struct tensor w, struct tensor bias,
                       struct tensor residual, struct conv conv)
{
    pthread_t thread;

    for (int i = 0; i < 2; i++)
        if (s->rows[i].data != NULL) {
            const struct tensor nan = check_constant(s->x.dtype, NAN, 0, 4, s->rows[i].dim);

            copy_rows(row_of(s->x, i), nan);
            *s->flag[i] = BEFORE;
        }
    if (pthread_create(&thread, NULL, send_rows, s) != 0) {
        check_fail(c, "cannot start a thread");
        return;
    }
    check_status(c, op_conv3d(&c->got, got, s->x, past, w, bias, residual, conv));
    check_status(c, device_wait(&c->got));
    pthread_join(thread, NULL);
    if (s->pixel.data != NULL && !s->computed)
        check_fail(c, "pixels that need no row that is being received were not computed before it");
    check_same(c, got, want);
}

void check_arrivals(struct check *c)
{
    static const struct {
        int64_t t, h, w, cin, cout, kt;
        struct conv conv; // with top 0 the first row is received, with bottom 0 the last
        enum dtype dt;
        const char *with; // p: past, b: bias, r: residual; o: more tiles than multiprocessors
    } cases[] = {
        { 2, 50, 2400, 16, 8, 3, CONV(1, 1, 2, 0, 0, 1, 1, false), DT_BF16, "pbo" },
        { 1, 50, 4800, 16, 8, 1, CONV(1, 1, 0, 0, 1, 1, 1, false), DT_BF16, "bo" },
        { 1, 50, 4800, 16, 8, 1, CONV(1, 1, 0, 1, 0, 1, 1, false), DT_BF16, "bo" },
        // one row of tiles; one row of pixels
        { 1, 18, 32, 64, 96, 3, CONV(1, 1, 2, 0, 0, 1, 1, false), DT_BF16, "pbr" },
        { 3, 3, 32, 64, 192, 3, CONV(1, 1, 2, 0, 0, 1, 1, false), DT_BF16, "br" },
        // tiles of 8 x 32 pixels
        { 5, 26, 64, 64, 256, 1, CONV(1, 1, 0, 0, 0, 1, 1, false), DT_BF16, "br" },
        { 2, 26, 16, 64, 24, 1, CONV(1, 1, 0, 0, 0, 1, 1, true), DT_BF16, "b" },
        { 2, 65, 64, 32, 24, 1, CONV(1, 2, 0, 1, 0, 0, 1, false), DT_BF16, "b" },
        { 2, 40, 16, 32, 40, 3, CONV(1, 1, 2, 0, 0, 1, 1, false), DT_F32, "pbr" },
        // by the plain kernel
        { 1, 20, 64, 5, 7, 3, CONV(1, 1, 2, 0, 0, 1, 1, false), DT_F32, "pb" },
    };

    for (size_t i = 0; i < COUNT(cases) && c->got.kind == DEVICE_CUDA; i++) {
        const int64_t t = cases[i].t, h = cases[i].h, w = cases[i].w, cin = cases[i].cin;
        const int64_t cout = cases[i].cout, kt = cases[i].kt;
        const enum dtype dt = cases[i].dt;
        const char *with = cases[i].with;
        const bool ordered = strchr(with, 'o') != NULL && strcmp(c->level, "cuda") == 0;
        struct conv conv = cases[i].conv;
        const int64_t hi = conv.top + h + conv.bottom;
        const int64_t to = (conv.front + t - kt) / conv.stride_t + 1;
        const int64_t ho = conv.upsample2x ? 2 * (hi - 2) : (hi - 3) / conv.stride + 1;
        const int64_t wo =
            conv.upsample2x ? 2 * w : (w + conv.left + conv.right - 3) / conv.stride + 1;
        struct sender s = { 0 };

        if (!check_begin(c, conv3d, "rows arrive, %lldx%lldx%lldx%lld to %lld, step %d%s",
                         (long long)t, (long long)h, (long long)w, (long long)cin, (long long)cout,
                         conv.stride, conv.upsample2x ? " upsample2x" : ""))
            continue;

        const struct tensor weight =
            check_normal(c, dt, 0, 1, 0, DIMS(cout, kt, (int64_t)3, 3, cin));
        const struct tensor bias = check_normal(c, DT_F32, 0, 1, 0, DIMS(cout));
        const struct tensor past =
            strchr(with, 'p') != NULL
                ? check_normal(c, dt, 0, 1, 0, DIMS((int64_t)conv.front, h, w, cin))
                : none;
        const struct tensor residual =
            strchr(with, 'r') != NULL ? check_normal(c, dt, 0, 1, 0, DIMS(to, ho, wo, cout)) : none;
        const struct tensor want = check_output(dt, 0, DIMS(to, ho, wo, cout));
        const struct tensor early = check_output(dt, 0, DIMS(to, ho, wo, cout));
        const struct tensor late = check_output(dt, 0, DIMS(to, ho, wo, cout));

        s.x = check_normal(c, dt, 0, 1, 0, DIMS(t, h, w, cin));
        for (int j = 0; j < 2; j++) {
            s.flag[j] = check_constant(DT_F32, 0, 0, DIMS((int64_t)1)).data; // AFTER
            if ((j == 0 ? conv.top : conv.bottom) > 0)
                continue;
            s.rows[j] = check_constant(dt, 0, 0, DIMS(t, (int64_t)1, w, cin));
            copy_rows(s.rows[j], row_of(s.x, j));
        }
        if (ordered)
            s.pixel = tensor_slice(late, 1, ho / 2, 1);
        check_status(c, op_conv3d(&c->got, want, s.x, past, weight, bias, residual, conv));
        check_status(c, device_wait(&c->got));
        if (s.rows[0].data != NULL)
            conv.first_row = (struct arrival){ s.flag[0], AFTER };
        if (s.rows[1].data != NULL)
            conv.last_row = (struct arrival){ s.flag[1], AFTER };
        check_status(c, op_conv3d(&c->got, early, s.x, past, weight, bias, residual, conv));
        check_same(c, early, want);
        check_late(c, &s, want, late, past, weight, bias, residual, conv);
        check_end_case(c);
    }
}
