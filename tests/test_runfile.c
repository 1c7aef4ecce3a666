/* The run file: what is written comes back, whole or not at all, and what is wrong is named. */
#include "runtime/runfile.h"
#include "tests/scratch.h"

#include <hdf5.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char path[512], other[512];

static struct run_array latent(float *data, int64_t c, int64_t t, int64_t h, int64_t w)
{
    for (int64_t i = 0; i < c * t * h * w; i++)
        data[i] = (float)(i % 97) * 0.25f - 7;
    return (struct run_array){ .ndim = 4, .dim = { c, t, h, w }, .data = data };
}

static bool equal(const struct run_array *a, const struct run_array *b)
{
    size_t n = 1;

    if (a->ndim != b->ndim || memcmp(a->dim, b->dim, sizeof(a->dim)) != 0)
        return false;
    for (int i = 0; i < a->ndim; i++)
        n *= (size_t)a->dim[i];
    return a->ndim == 0 || memcmp(a->data, b->data, n * sizeof(float)) == 0;
}

static struct runfile whole(float *data, char *request)
{
    struct runfile r = { .step = 7, .order = 2, .request = request, .version = "0.1.0" };

    r.noise = latent(data, 16, 3, 4, 6);
    r.latents = latent(data, 16, 3, 4, 6);
    r.history[0] = r.history[2] = r.noise;
    r.cond = (struct run_array){ .ndim = 2, .dim = { 5, 8 }, .data = data };
    r.uncond = (struct run_array){ .ndim = 2, .dim = { 3, 8 }, .data = data };
    return r;
}

static void test_round_trip(void)
{
    static float data[16 * 3 * 4 * 6];
    char *request = malloc(200000);
    struct runfile r, got;

    memset(request, 'x', 199999); // more than an HDF5 header takes
    request[199999] = 0;
    r = whole(data, request);
    CHECK(runfile_write(path, &r) == ST_OK, "%s", status_line());
    CHECK(runfile_read(path, &got) == ST_OK, "%s", status_line());
    CHECK(equal(&got.noise, &r.noise) && equal(&got.latents, &r.latents), "latents");
    CHECK(equal(&got.history[0], &r.history[0]) && got.history[1].ndim == 0 &&
              equal(&got.history[2], &r.history[2]),
          "history");
    CHECK(equal(&got.cond, &r.cond) && equal(&got.uncond, &r.uncond), "text");
    CHECK(got.step == 7 && got.order == 2, "step %lld", (long long)got.step);
    CHECK(strcmp(got.request, request) == 0, "request of %zu", strlen(got.request));
    CHECK(strcmp(got.version, "0.1.0") == 0 && got.plan == NULL, "version, plan");
    runfile_done(&got);

    r.step = 8; // over the old one
    CHECK(runfile_write(path, &r) == ST_OK, "%s", status_line());
    CHECK(runfile_read(path, &got) == ST_OK && got.step == 8, "step %lld", (long long)got.step);
    runfile_done(&got);
    CHECK(scratch_entries() == 1, "%d entries", scratch_entries());
    free(request);
}

static void test_frames(void)
{
    static uint8_t rgb[3 * 4 * 6 * 3];
    static float data[16 * 3 * 4 * 6];
    uint8_t back[5 * 4 * 6 * 3];
    struct runfile r = whole(data, "{}"), got;
    struct run_frames *f = NULL;
    hid_t file, set;

    for (size_t i = 0; i < sizeof(rgb); i++)
        rgb[i] = (uint8_t)(i * 7);
    CHECK(runfile_write(path, &r) == ST_OK, "%s", status_line());
    CHECK(run_frames_open(&f, path, 5, 4, 6) == ST_OK, "%s", status_line());
    CHECK(run_frames_put(f, rgb, 3) == ST_OK, "%s", status_line());
    CHECK(scratch_entries() == 2, "a copy while frames come, %d entries", scratch_entries());
    run_frames_close(f); // the job dies here
    CHECK(scratch_entries() == 1, "%d entries", scratch_entries());
    CHECK(runfile_read(path, &got) == ST_OK && got.step == 7, "%s", status_line());
    runfile_done(&got);

    CHECK(run_frames_open(&f, path, 5, 4, 6) == ST_OK, "%s", status_line());
    CHECK(run_frames_put(f, rgb, 3) == ST_OK && run_frames_put(f, rgb, 2) == ST_OK, "%s",
          status_line());
    CHECK(run_frames_finish(f) == ST_OK, "%s", status_line());
    run_frames_close(f);
    CHECK(runfile_set_timings(path, "{\"text\":1.5}") == ST_OK, "%s", status_line());
    CHECK(runfile_read(path, &got) == ST_OK, "%s", status_line());
    CHECK(got.timings != NULL && strcmp(got.timings, "{\"text\":1.5}") == 0, "timings");
    CHECK(equal(&got.noise, &r.noise), "noise beside frames");
    runfile_done(&got);
    file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    set = H5Dopen2(file, "/frames", H5P_DEFAULT);
    CHECK(H5Dget_storage_size(set) == sizeof(back), "frames' bytes");
    CHECK(H5Dread(set, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, back) >= 0, "frames");
    CHECK(memcmp(back, rgb, sizeof(rgb)) == 0 && memcmp(back + sizeof(rgb), rgb, 2 * 72) == 0,
          "frames differ");
    H5Dclose(set);
    H5Fclose(file);
    CHECK(scratch_entries() == 1, "%d entries", scratch_entries());
}

/* Every cut of the file fails with a line that names it, and nothing crashes. */
static void test_cut(void)
{
    static float data[16 * 3 * 4 * 6];
    struct runfile r = whole(data, "{\"a\":1}"), got;
    struct stat there;
    long wrong = 0;

    CHECK(runfile_write(path, &r) == ST_OK, "%s", status_line());
    CHECK(stat(path, &there) == 0, "stat");
    for (off_t size = there.st_size - 1; size >= 0; size -= size > 4096 ? 61 : 7) {
        CHECK(truncate(path, size) == 0, "truncate");
        const status st = runfile_read(path, &got);
        wrong += st != ST_FORMAT || strstr(status_line(), path) == NULL;
    }
    CHECK(wrong == 0, "%ld cuts were not refused", wrong);
    CHECK(runfile_read(scratch_path("nowhere/a.h5"), &got) == ST_IO, "missing");
    CHECK(strstr(status_line(), "No such file") != NULL, "%s", status_line());
}

/* One data set of any type and shape; raw: without writing it, so that the file lacks the bytes. */
static void make(const char *name, hid_t type, int ndim, const hsize_t *dims, const void *data)
{
    const hid_t file = H5Fcreate(other, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    const hid_t space = H5Screate_simple(ndim, dims, NULL);
    const hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);

    if (data != NULL)
        H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    H5Dclose(set);
    H5Sclose(space);
    H5Fclose(file);
}

static void refuse(const char *what)
{
    struct runfile got = { .step = 123 };
    const status st = runfile_read(other, &got);

    CHECK(st == ST_FORMAT && strstr(status_line(), what) != NULL, "%s: %d, %s", what, st,
          status_line());
    CHECK(got.step == 123 && got.noise.data == NULL, "outputs are left alone");
}

static void test_hostile(void)
{
    float values[24] = { 1, 2, 3 };
    double wide[24] = { 1.5 };
    int64_t step = -3;
    struct runfile got;

    make("/noise", H5T_NATIVE_INT64, 4, (hsize_t[]){ 1, 1, 1, 1 }, &step);
    refuse("/noise holds no floats");
    make("/noise", H5T_NATIVE_FLOAT, 3, (hsize_t[]){ 2, 3, 4 }, values);
    refuse("/noise has 3 axes; 4 were expected");
    make("/latents", H5T_NATIVE_FLOAT, 4, (hsize_t[]){ 1 << 14, 1 << 14, 1 << 14, 1 << 14 }, NULL);
    refuse("/latents");
    make("/latents", H5T_NATIVE_FLOAT, 4, (hsize_t[]){ 16, 21, 60, 104 }, NULL);
    refuse("the file holds 0 of it");
    values[5] = NAN;
    make("/noise", H5T_NATIVE_FLOAT, 4, (hsize_t[]){ 1, 2, 3, 4 }, values);
    refuse("value 5 is not finite");
    make("/step", H5T_NATIVE_INT64, 0, NULL, &step);
    refuse("/step is -3");
    make("/step", H5T_NATIVE_FLOAT, 0, NULL, values);
    refuse("/step holds no integers");
    make("/step", H5T_NATIVE_INT64, 1, (hsize_t[]){ 24 }, NULL);
    refuse("/step has 1 axes; 0 were expected");

    make("/noise", H5T_NATIVE_DOUBLE, 4, (hsize_t[]){ 1, 2, 3, 4 }, wide); // as numpy writes it
    CHECK(runfile_read(other, &got) == ST_OK && got.noise.data[0] == 1.5f, "%s", status_line());
    runfile_done(&got);
}

static void test_not_written(void)
{
    static float data[16 * 3 * 4 * 6];
    struct runfile r = whole(data, "{}");

    CHECK(runfile_write(scratch_path("nowhere/a.h5"), &r) == ST_IO, "%s", status_line());
    CHECK(mkfifo(scratch_path("fifo"), 0600) == 0, "fifo");
    CHECK(runfile_write(scratch_path("fifo"), &r) == ST_USAGE, "%s", status_line());
    unlink(scratch_path("fifo"));
    CHECK(runfile_write(scratch, &r) == ST_USAGE, "%s", status_line());
}

int main(void)
{
    if (!scratch_open("runfile"))
        return 1;
    snprintf(path, sizeof(path), "%s", scratch_path("a.h5"));
    snprintf(other, sizeof(other), "%s", scratch_path("b.h5"));
    test_round_trip();
    test_frames();
    test_cut();
    test_hostile();
    test_not_written();
    unlink(path);
    unlink(other);
    scratch_close();
    return check_end("runfile");
}
