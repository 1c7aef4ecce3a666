/* The run file: what is written is read again, completely or not at all; damaged and hostile files
 * are refused with a line that names the problem. */
#include "runtime/runfile.h"
#include "tests/scratch.h"

#include <hdf5.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char path[512], other[512];

/* A file of seven arrays, up to five axes, and two texts. `data` holds 16 x 3 x 4 x 6 values. */
static struct runfile whole(float *data, int64_t *step, const char *request)
{
    struct runfile f = { 0 };

    for (int i = 0; i < 16 * 3 * 4 * 6; i++)
        data[i] = (float)(i % 97) * 0.25f - 7;
    CHECK(runfile_add(&f, "/latents", tensor_of(data, DT_F32, 16, 3, 4, 6)) == ST_OK, "latents");
    CHECK(runfile_add(&f, "/step", tensor_dims(step, DT_I64, 0, NULL)) == ST_OK, "step");
    CHECK(runfile_add(&f, "/solver/m0", tensor_of(data, DT_F32, 16, 3, 4, 6)) == ST_OK, "m0");
    CHECK(runfile_add(&f, "/solver/order", tensor_dims(step, DT_I64, 0, NULL)) == ST_OK, "order");
    CHECK(runfile_add(&f, "/cond/image/tokens", tensor_of(data, DT_F32, 5, 8)) == ST_OK, "tokens");
    CHECK(runfile_add(&f, "/cond/hints", tensor_of(data, DT_F32, 2, 8, 3, 4, 6)) == ST_OK, "hints");
    CHECK(runfile_add(&f, "/cond/lengths", tensor_of(step, DT_I64, 1)) == ST_OK, "lengths");
    CHECK(runfile_add_text(&f, "request", request) == ST_OK, "request");
    CHECK(runfile_add_text(&f, "empty", "") == ST_OK, "empty");
    return f;
}

static bool equal(const struct runfile *got, const struct runfile *want)
{
    bool same = got->array_count == want->array_count && got->text_count == want->text_count &&
                got->verified;

    for (int i = 0; i < want->array_count && same; i++) {
        const struct tensor a = want->arrays[i].value;
        const struct tensor b = runfile_find(got, want->arrays[i].name);

        same = b.data != NULL && a.dtype == b.dtype && a.ndim == b.ndim &&
               memcmp(a.dim, b.dim, sizeof(a.dim)) == 0 &&
               memcmp(a.data, b.data, tensor_bytes(a)) == 0;
    }
    for (int i = 0; i < want->text_count && same; i++) {
        const char *text = runfile_text(got, want->texts[i].name);

        same = text != NULL && strcmp(text, want->texts[i].text) == 0;
    }
    return same;
}

static void test_round_trip(void)
{
    static float data[16 * 3 * 4 * 6];
    int64_t step = 7;
    char *request = malloc(200000);
    struct runfile f, got;

    memset(request, 'x', 199999); // more than an HDF5 header takes
    request[199999] = 0;
    f = whole(data, &step, request);
    CHECK(runfile_write(path, &f) == ST_OK, "%s", status_line());
    CHECK(runfile_read(path, &got) == ST_OK, "%s", status_line());
    CHECK(equal(&got, &f), "%d arrays, %d texts", got.array_count, got.text_count);
    CHECK(runfile_find(&got, "/noise").data == NULL && runfile_text(&got, "plan") == NULL,
          "absent");
    runfile_done(&got);

    step = 8; // over the old one
    CHECK(runfile_write(path, &f) == ST_OK, "%s", status_line());
    CHECK(runfile_read(path, &got) == ST_OK && equal(&got, &f), "%s", status_line());
    runfile_done(&got);
    CHECK(scratch_entries() == 1, "%d entries", scratch_entries());
    runfile_done(&f);
    free(request);
}

static void test_frames(void)
{
    static uint8_t rgb[3 * 4 * 6 * 3];
    static float data[16 * 3 * 4 * 6];
    uint8_t back[5 * 4 * 6 * 3];
    int64_t step = 7;
    struct runfile whole_file = whole(data, &step, "{}"), got;
    struct run_frames *f = NULL;
    hid_t file, set;

    for (size_t i = 0; i < sizeof(rgb); i++)
        rgb[i] = (uint8_t)(i * 7);
    CHECK(runfile_write(path, &whole_file) == ST_OK, "%s", status_line());
    CHECK(run_frames_open(&f, path, 5, 4, 6) == ST_OK, "%s", status_line());
    CHECK(run_frames_put(f, rgb, 3) == ST_OK, "%s", status_line());
    CHECK(scratch_entries() == 2, "a new file while frames are written, %d entries",
          scratch_entries());
    run_frames_close(f); // as if the job ended here
    CHECK(scratch_entries() == 1, "%d entries", scratch_entries());
    CHECK(runfile_read(path, &got) == ST_OK && equal(&got, &whole_file), "%s", status_line());
    runfile_done(&got);

    CHECK(run_frames_open(&f, path, 5, 4, 6) == ST_OK, "%s", status_line());
    CHECK(run_frames_put(f, rgb, 3) == ST_OK && run_frames_put(f, rgb, 2) == ST_OK, "%s",
          status_line());
    CHECK(runfile_add_text(&whole_file, "timings", "{\"text\":1.5}") == ST_OK, "timings");
    CHECK(run_frames_finish(f, &whole_file) == ST_OK, "%s", status_line());
    run_frames_close(f);
    CHECK(runfile_read(path, &got) == ST_OK, "%s", status_line());
    CHECK(strcmp(runfile_text(&got, "timings"), "{\"text\":1.5}") == 0, "timings");
    CHECK(runfile_find(&got, "/latents").data != NULL, "latents in a file with frames");
    const struct tensor frames = runfile_find(&got, "/frames");
    CHECK(frames.dtype == DT_U8 && frames.ndim == 4 && frames.dim[0] == 5 && frames.data == NULL,
          "frames are listed as %s", tensor_text(frames));
    runfile_done(&got);
    file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    set = H5Dopen2(file, "/frames", H5P_DEFAULT);
    CHECK(H5Dget_storage_size(set) == sizeof(back) + 5 * 4, "frames with a checksum each");
    CHECK(H5Dread(set, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, back) >= 0, "frames");
    CHECK(memcmp(back, rgb, sizeof(rgb)) == 0 && memcmp(back + sizeof(rgb), rgb, 2 * 72) == 0,
          "frames differ");
    H5Dclose(set);
    H5Fclose(file);
    CHECK(scratch_entries() == 1, "%d entries", scratch_entries());
    runfile_done(&whole_file);
}

/* A file that is truncated at any length is refused with a line that names it, except if only the
 * last line is cut: then it is one without a digest. */
static void test_cut(void)
{
    static float data[16 * 3 * 4 * 6];
    int64_t step = 7;
    struct runfile f = whole(data, &step, "{\"a\":1}"), got;
    struct stat there;
    long wrong = 0;

    CHECK(runfile_write(path, &f) == ST_OK, "%s", status_line());
    CHECK(stat(path, &there) == 0, "stat");
    for (off_t size = there.st_size - 1; size >= 0; size -= size > 4096 ? 61 : 7) {
        CHECK(truncate(path, size) == 0, "truncate");
        const status st = runfile_read(path, &got);
        if (st == ST_OK) {
            wrong += size < there.st_size - 80 || got.verified || got.array_count != f.array_count;
            runfile_done(&got);
        } else {
            wrong += st != ST_FORMAT || strstr(status_line(), path) == NULL;
        }
    }
    CHECK(wrong == 0, "%ld cuts were not refused", wrong);
    CHECK(runfile_read(scratch_path("nowhere/a.h5"), &got) == ST_IO, "missing");
    CHECK(strstr(status_line(), "No such file") != NULL, "%s", status_line());
    runfile_done(&f);
}

/* Writes a file with one data set of any type and shape. data NULL: its values are not written, so
 * that the file does not contain their bytes. */
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

/* Reading `other` must fail with a line that contains `text`, and must not change the output. */
static void refuse(const char *text)
{
    struct runfile got = { .array_count = 123 };
    const status st = runfile_read(other, &got);

    CHECK(st == ST_FORMAT && strstr(status_line(), text) != NULL, "%s: %d, %s", text, st,
          status_line());
    CHECK(got.array_count == 123 && got.arrays == NULL, "the output was changed");
}

static void test_hostile(void)
{
    float values[24] = { 1, 2, 3 };
    double wide[2] = { 1.5, 1e300 };

    make("/a", H5T_NATIVE_FLOAT, 4, (hsize_t[]){ 1 << 14, 1 << 14, 1 << 14, 1 << 14 }, NULL);
    refuse("/a: axis 2 has 16384 elements");
    make("/a", H5T_NATIVE_FLOAT, 4, (hsize_t[]){ 16, 21, 60, 104 }, NULL);
    refuse("the file holds 0 of it");
    make("/a", H5T_NATIVE_FLOAT, 2, (hsize_t[]){ 4, 0 }, NULL);
    refuse("/a: axis 1 has 0 elements");
    values[5] = NAN;
    make("/a", H5T_NATIVE_FLOAT, 4, (hsize_t[]){ 1, 2, 3, 4 }, values);
    refuse("value 5 is not finite");
    make("/a", H5T_NATIVE_DOUBLE, 1, (hsize_t[]){ 2 }, wide); // too large for f32
    refuse("value 1 is not finite");
}

/* Files of other programs: data sets are read as numbers, or listed without data. */
static void test_foreign(void)
{
    const float values[24] = { 1, 2, 3 };
    const double wide[24] = { 1.5 };
    const int16_t small[3] = { 1, -2, 3 };
    struct runfile got;
    struct tensor t;
    hid_t text;

    make("/a", H5T_NATIVE_DOUBLE, 4, (hsize_t[]){ 1, 2, 3, 4 }, wide); // as numpy writes it
    CHECK(runfile_read(other, &got) == ST_OK, "%s", status_line());
    t = runfile_find(&got, "/a");
    CHECK(t.dtype == DT_F32 && ((float *)t.data)[0] == 1.5f, "%s", tensor_text(t));
    runfile_done(&got);
    make("/a", H5T_NATIVE_INT16, 1, (hsize_t[]){ 3 }, small);
    CHECK(runfile_read(other, &got) == ST_OK, "%s", status_line());
    t = runfile_find(&got, "/a");
    CHECK(t.dtype == DT_I64 && ((int64_t *)t.data)[1] == -2, "%s", tensor_text(t));
    runfile_done(&got);
    make("/a", H5T_NATIVE_FLOAT, 6, (hsize_t[]){ 1, 1, 1, 2, 3, 4 }, values);
    CHECK(runfile_read(other, &got) == ST_OK, "%s", status_line());
    CHECK(got.array_count == 1 && runfile_find(&got, "/a").data == NULL, "six axes");
    runfile_done(&got);
    text = H5Tcopy(H5T_C_S1);
    H5Tset_size(text, 8);
    make("/a", text, 1, (hsize_t[]){ 3 }, wide);
    H5Tclose(text);
    CHECK(runfile_read(other, &got) == ST_OK, "%s", status_line());
    CHECK(runfile_find(&got, "/a").data == NULL, "an array of texts");
    runfile_done(&got);
    make("/a b", H5T_NATIVE_FLOAT, 1, (hsize_t[]){ 3 }, values);
    CHECK(runfile_read(other, &got) == ST_OK && got.array_count == 0, "%s", status_line());
    runfile_done(&got);
}

/* Groups that contain themselves, many objects, an array with many names, arrays in other files. */
static void test_links(void)
{
    float values[1024] = { 1 };
    const hsize_t dim = 1024;
    hid_t file, group;
    char name[32];

    make("/a", H5T_NATIVE_FLOAT, 1, &dim, values);
    file = H5Fopen(other, H5F_ACC_RDWR, H5P_DEFAULT);
    H5Lcreate_external(path, "/latents", file, "/external", H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    refuse("/external is a link to another place");
    make("/a", H5T_NATIVE_FLOAT, 1, &dim, values);
    file = H5Fopen(other, H5F_ACC_RDWR, H5P_DEFAULT);
    H5Lcreate_soft("/a", file, "/soft", H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    refuse("/soft is a link to another place");

    make("/a", H5T_NATIVE_FLOAT, 1, &dim, values);
    file = H5Fopen(other, H5F_ACC_RDWR, H5P_DEFAULT);
    for (int i = 0; i < 8; i++) {
        snprintf(name, sizeof(name), "/again%d", i);
        H5Lcreate_hard(file, "/a", file, name, H5P_DEFAULT, H5P_DEFAULT);
    }
    H5Fclose(file);
    refuse("more bytes than the file has");

    file = H5Fcreate(other, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    group = H5Gcreate2(file, "/g", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_hard(file, "/g", file, "/g/g", H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_hard(file, "/g", file, "/g/h", H5P_DEFAULT, H5P_DEFAULT);
    H5Gclose(group);
    H5Fclose(file);
    refuse("at most 4 groups inside each other");

    file = H5Fcreate(other, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    for (int i = 0; i < 1025; i++) {
        snprintf(name, sizeof(name), "/g%d", i);
        H5Gclose(H5Gcreate2(file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    }
    H5Fclose(file);
    refuse("at most 1024 arrays and groups");
}

/* A data set with this creation list and space; closes both. */
static void make_outside(hid_t type, hid_t list, hid_t space)
{
    const hid_t file = H5Fcreate(other, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);

    H5Dclose(H5Dcreate2(file, "/a", type, space, H5P_DEFAULT, list, H5P_DEFAULT));
    H5Sclose(space);
    H5Pclose(list);
    H5Fclose(file);
}

/* Data in other files is refused before these are opened: the other file is a FIFO, whose opening
 * would wait for ever. */
static void test_outside(void)
{
    const hsize_t dim = 1024, most = H5S_UNLIMITED, one = 1;
    const char *fifo = scratch_path("fifo");
    hid_t list, space, source;

    CHECK(mkfifo(fifo, 0600) == 0, "fifo");
    for (int u8 = 0; u8 < 2; u8++) {
        const hid_t type = u8 ? H5T_NATIVE_UINT8 : H5T_NATIVE_FLOAT;

        list = H5Pcreate(H5P_DATASET_CREATE);
        H5Pset_external(list, fifo, 0, dim * sizeof(float));
        make_outside(type, list, H5Screate_simple(1, &dim, NULL));
        refuse("/a is stored in another file");
        list = H5Pcreate(H5P_DATASET_CREATE);
        space = H5Screate_simple(1, &dim, &most);
        source = H5Screate_simple(1, &dim, &most);
        H5Sselect_hyperslab(space, H5S_SELECT_SET, &(hsize_t){ 0 }, NULL, &most, &one);
        H5Sselect_hyperslab(source, H5S_SELECT_SET, &(hsize_t){ 0 }, NULL, &most, &one);
        H5Pset_virtual(list, space, fifo, "/a", source);
        H5Sclose(source);
        make_outside(type, list, space);
        refuse("/a is stored in another file");
    }
    unlink(fifo);
}

/* One wrong byte, wherever it is, is an error; in the line with the digest too, but for its first
 * bytes, without which it is no such line. */
static void test_damage(void)
{
    static uint8_t bytes[1 << 16];
    float data[24];
    int64_t step = 7;
    struct runfile f = { 0 }, got;
    size_t n, accepted = 0, seal;
    FILE *file;

    for (int i = 0; i < 24; i++)
        data[i] = (float)i;
    CHECK(runfile_add(&f, "/latents", tensor_of(data, DT_F32, 2, 3, 4)) == ST_OK &&
              runfile_add(&f, "/step", tensor_dims(&step, DT_I64, 0, NULL)) == ST_OK &&
              runfile_add(&f, "/solver/order", tensor_dims(&step, DT_I64, 0, NULL)) == ST_OK &&
              runfile_add_text(&f, "request", "{\"prompt\":\"two cats\"}") == ST_OK,
          "%s", status_line());
    CHECK(runfile_write(path, &f) == ST_OK, "%s", status_line());
    file = fopen(path, "rb");
    n = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    seal = n - strlen("\nwanmpi sha256 \n") - 64;
    for (size_t i = 0; i < n; i++) {
        bytes[i] ^= (uint8_t)(1 + i % 255);
        file = fopen(other, "wb");
        CHECK(file != NULL && fwrite(bytes, 1, n, file) == n && fclose(file) == 0, "write");
        bytes[i] ^= (uint8_t)(1 + i % 255);
        if (runfile_read(other, &got) == ST_OK) {
            CHECK(i >= seal && (got.verified ? i == n - 1 : i < seal + 15), "byte %zu of %zu", i,
                  n);
            accepted++;
            runfile_done(&got);
        }
    }
    CHECK(accepted == 16, "%zu changes were accepted", accepted);

    // another program's change removes the line
    const hid_t id = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    const hid_t set = H5Dopen2(id, "/step", H5P_DEFAULT);
    H5Dwrite(set, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, &(int64_t){ 0 });
    H5Dclose(set);
    H5Fclose(id);
    CHECK(runfile_read(path, &got) == ST_OK && !got.verified, "%s", status_line());
    CHECK(*(int64_t *)runfile_find(&got, "/step").data == 0, "step");
    runfile_done(&got);
    runfile_done(&f);
}

static void test_not_written(void)
{
    static float data[16 * 3 * 4 * 6];
    int64_t step = 7;
    struct runfile f = whole(data, &step, "{}");

    CHECK(runfile_write(scratch_path("nowhere/a.h5"), &f) == ST_IO, "%s", status_line());
    CHECK(mkfifo(scratch_path("fifo"), 0600) == 0, "fifo");
    CHECK(runfile_write(scratch_path("fifo"), &f) == ST_USAGE, "%s", status_line());
    unlink(scratch_path("fifo"));
    CHECK(runfile_write(scratch, &f) == ST_USAGE, "%s", status_line());
    runfile_done(&f);
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
    test_foreign();
    test_links();
    test_outside();
    test_damage();
    test_not_written();
    unlink(path);
    unlink(other);
    scratch_close();
    return check_end("runfile");
}
